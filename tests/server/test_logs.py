"""The log: shape, and nothing secret in it."""

from __future__ import annotations

import io
import json
import logging

from server.config import Logging
from server.logs import logging_to, mask
from tests.server.site import Site


def test_lines_are_json_with_what_was_given() -> None:
    stream = io.StringIO()
    with logging_to(stream, Logging()):
        log = logging.getLogger("tests.server.logs")
        log.info("turn %s", "done", extra={"session": "s1"})
        log.debug("not shown")
        try:
            raise ValueError("broken")
        except ValueError:
            log.exception("failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["session"], first["level"]) == ("turn done", "s1", "info")
    assert "ValueError: broken" in second["exception"]


def test_console_lines_are_for_people() -> None:
    stream = io.StringIO()
    with logging_to(stream, Logging(format="console", level="debug")):
        logging.getLogger("tests.server.logs").debug("hello")
    assert "hello" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_secrets_are_masked_by_key_and_by_look() -> None:
    event = mask(
        None,
        "info",
        {
            "password": "a",
            "api_key": "b",
            "Authorization": "c",
            "session_token": "d",
            "event": "used eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.abc-_1 and sk-ant-0123456789 at "
            "postgresql://me:pw@db/x and http://h/#signin=abcDEF-_",
            "user": "alice",
        },
    )
    text = json.dumps(dict(event))
    for secret in ("eyJ", "sk-ant", "me:pw", "abcDEF", '"a"', '"b"', '"c"', '"d"'):
        assert secret not in text
    assert event["user"] == "alice"


async def test_a_request_is_one_line_without_query_or_headers(site: Site) -> None:
    stream = io.StringIO()
    with logging_to(stream, Logging()):
        alice = await site.client("alice")
        async with alice.get("api/v1/sessions?search=private-words") as response:
            assert response.status == 200
    assert "private-words" not in stream.getvalue()
    assert "Bearer" not in stream.getvalue()
