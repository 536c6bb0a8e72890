"""The fake against the real CLI: the same story told to both gives the same frames in the same order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.host import Frame, Host, kinds
from tests.server.gateway.harness import gateway_process, listening_socket

pytestmark = pytest.mark.real_cli

# What a story says, in the words of the fake and of the demo model.
PHRASES = {
    "hello": ("hello", "say hello"),
    "long": ("stream 400 20", "count to 100 slowly"),
    "short": ("stream 20 50", "count to 4 slowly"),
    "write": ("write a.txt x", "create a file a.txt with x"),
    "fail": ("hello !api-error 400", "fail with 400"),
}
ALLOW = {"behavior": "allow"}
# The real CLI tells these when they happen to be due.
_UNTIMELY = ("system/background_tasks_changed", "system/task_started", "stream_event/ping")

Say = Callable[[str], str]
Story = Callable[[Host, Say], list[Frame]]


_LOOSE = ("stream_event/message_delta", "stream_event/message_stop", "command_lifecycle/queued")


def is_event(frame: Frame) -> bool:
    return frame.get("type") == "stream_event"


def plain(host: Host, say: Say) -> list[Frame]:
    say("hello")
    return host.until_idle()


def allowed(host: Host, say: Say) -> list[Frame]:
    say("write")
    before = len(host.seen)
    ask = host.until_ask()
    host.answer(ask, {**ALLOW, "updatedInput": ask["request"]["input"]})
    host.until_idle()
    return host.seen[before:]


def denied(host: Host, say: Say) -> list[Frame]:
    say("write")
    before = len(host.seen)
    host.answer(host.until_ask(), {"behavior": "deny", "message": "no"})
    host.until_idle()
    return host.seen[before:]


def interrupted_in_mid_stream(host: Host, say: Say) -> list[Frame]:
    say("long")
    before = len(host.seen)
    host.until(lambda frame: frame.get("event", {}).get("type") == "content_block_delta")
    host.request("interrupt", cancel_queued=True)
    host.until_idle()
    return host.seen[before:]


def interrupted_at_an_ask(host: Host, say: Say) -> list[Frame]:
    say("write")
    before = len(host.seen)
    host.until_ask()
    host.request("interrupt", cancel_queued=True)
    host.until_idle()
    return host.seen[before:]


def interrupted_with_a_queue(host: Host, say: Say) -> list[Frame]:
    say("long")
    before = len(host.seen)
    host.until(lambda frame: frame.get("event", {}).get("type") == "content_block_delta")
    waiting = say("hello")
    host.until(lambda frame: frame.get("command_uuid") == waiting)
    host.request("interrupt", cancel_queued=True)
    host.until_idle()
    return host.seen[before:]


def repeated(host: Host, say: Say) -> list[Frame]:
    message_id = say("hello")
    host.until_idle()
    host.say("hello", message_id)
    return host.until_idle()


def folded(host: Host, say: Say) -> list[Frame]:
    say("short")
    before = len(host.seen)
    host.until(is_event)
    for _ in range(2):
        waiting = say("hello")
        host.until(lambda frame, waiting=waiting: frame.get("command_uuid") == waiting)  # type: ignore[misc]
    host.until_idle()
    return host.seen[before:]


def refused_by_the_api(host: Host, say: Say) -> list[Frame]:
    say("fail")
    return host.until_idle()


def cleared(host: Host, say: Say) -> list[Frame]:
    host.say("/clear")
    return host.until_idle()


def asked_and_changed(host: Host, say: Say) -> list[Frame]:
    before = len(host.seen)
    host.request("set_permission_mode", mode="acceptEdits")
    host.request("set_permission_mode", mode="bypassPermissions")
    host.request("set_permission_mode", mode="nonsense")
    host.request("set_permission_mode", mode="default")
    host.request("ping")
    host.request("cancel_async_message", message_uuid="none")
    host.request("set_max_thinking_tokens", max_thinking_tokens=None)
    host.request("set_model", model="sonnet")
    say("hello")
    host.until_idle()
    host.request("set_model", model="haiku")
    host.request("get_binary_version")
    return host.seen[before:]


def hooked(host: Host, say: Say) -> list[Frame]:
    before = len(host.seen)
    host.request("initialize", hooks={"PreToolUse": [{"hookCallbackIds": ["gate"], "timeout": 30}]})
    say("write")
    output = {"hookEventName": "PreToolUse", "permissionDecision": "deny", "permissionDecisionReason": "no"}
    host.answer(host.until_ask(), {"hookSpecificOutput": output})
    host.until_idle()
    say("write")
    host.answer(host.until_ask(), {})
    host.answer(host.until_ask(), {"behavior": "deny", "message": "no"})
    host.until_idle()
    say("write")
    host.until_ask()
    host.request("interrupt")
    host.until_idle()
    host.request("initialize", hooks={})
    return host.seen[before:]


def reattached(host: Host, say: Say) -> list[Frame]:
    say("write")
    before = len(host.seen)
    ask = host.until_ask()
    assert host.request("initialize", hooks={})["pending_permission_requests"] == [ask]
    host.answer(ask, {"behavior": "deny", "message": "no"})
    host.until_idle()
    return host.seen[before:]


def ended_while_busy(host: Host, say: Say) -> list[Frame]:
    say("short")
    before = len(host.seen)
    host.until(is_event)
    assert host.process.stdin is not None
    host.process.stdin.close()
    host.until(lambda _: False, end_is_fine=True)
    assert host.process.wait(10) == 0
    return host.seen[before:]


STORIES: list[Story] = [
    plain,
    allowed,
    denied,
    interrupted_in_mid_stream,
    interrupted_at_an_ask,
    interrupted_with_a_queue,
    repeated,
    folded,
    cleared,
    refused_by_the_api,
    cleared,
    asked_and_changed,
    hooked,
    reattached,
    ended_while_busy,
]


BAD_LINES = (
    b"not json\n",
    b"null\n",
    b'{"type":"user"}\n',
    b'{"type":"control_request","request_id":"q"}\n',
)


def lives(cli: Path, home: Path, env: dict[str, str], words: int) -> Iterator[tuple[str, object]]:
    """What a process tells when it is resumed, or started or fed in a way that cannot work."""
    with Host(cli, home, env=env) as first:
        whole = first.say(PHRASES["hello"][words])
        first.until_idle()
        cut = first.say(PHRASES["long"][words])
        first.until(lambda frame: frame.get("event", {}).get("type") == "content_block_delta")
        first.process.kill()
        first.process.wait()
    with Host(cli, home, env=env, resume=first.session) as second:
        second.request("initialize", hooks={})
        before = len(second.seen)
        second.say(PHRASES["hello"][words], whole)
        second.until_idle()
        second.say(PHRASES["short"][words], cut)
        second.until_idle()
        yield "a resume", timely(second.seen[before:])
    with Host(cli, home, env=env, session=first.session) as third:
        code, complaint = third.end()
        yield "an id that exists", (code, complaint.replace(first.session, "ID"))
    nowhere = "00000000-0000-4000-8000-000000000000"
    with Host(cli, home, env=env, resume=nowhere) as fourth:
        yield "an id that does not exist", (timely(fourth.until(lambda _: True)), fourth.end())
    for line in BAD_LINES:
        with Host(cli, home, env=env) as fed:
            fed.write(line)
            fed.until(lambda _: False, end_is_fine=True)
            code, complaint = fed.end()
            yield f"the line {line!r}", (code, complaint.strip())


def told(host: Host, words: int) -> Iterator[tuple[str, list[Frame]]]:
    """Every story on one process."""
    host.request("initialize", hooks={})
    for story in STORIES:
        yield story.__name__, story(host, lambda phrase: host.say(PHRASES[phrase][words]))


def timely(frames: list[Frame]) -> list[str]:
    """The kinds in order, without those that come when they happen to be due.

    A tool that may run side by side begins before its message's last two
    stream events when those are late, and a message is queued at any moment
    of the turn before it: of those only that they came is looked at.
    """
    names = [name for name in kinds(frames) if name not in _UNTIMELY]
    loose = sorted({name for name in names if name in _LOOSE})
    return [name for name in names if name not in _LOOSE] + loose


def compare(fake: Path, real: Path, home: Path, env: dict[str, str]) -> list[str]:
    """The differences between the two over all stories, one line each."""
    found = []
    with Host(fake, home / "fake") as one, Host(real, home / "real", env=env) as other:
        for (story, ours), (_, theirs) in zip(told(one, 0), told(other, 1), strict=True):
            found += difference(story, timely(ours), timely(theirs))
            found += difference(story, answers(ours), answers(theirs))
        keys = keys_by_kind(other.seen)
        for name, ours_keys in keys_by_kind(one.seen).items():
            invented = ours_keys - keys.get(name, ours_keys)
            found += [f"{name} has {sorted(invented)}, which the real one has not"] if invented else []
    return found


def compare_lives(fake: Path, real: Path, home: Path, env: dict[str, str]) -> list[str]:
    """The differences between the two over starts, resumes and bad lines."""
    pairs = zip(lives(fake, home / "fake", {}, 0), lives(real, home / "real", env, 1), strict=True)
    return [line for (name, ours), (_, theirs) in pairs for line in difference(name, ours, theirs)]


def difference(name: str, ours: object, theirs: object) -> list[str]:
    return [f"{name}:\n  fake {ours}\n  real {theirs}"] if ours != theirs else []


def answers(frames: list[Frame]) -> list[list[str | None]]:
    """Of each answer to a control request: its outcome, its code, its keys."""
    bodies = [frame["response"] for frame in frames if frame.get("type") == "control_response"]
    return [[body["subtype"], body.get("error_code"), *sorted(body)] for body in bodies]


def keys_by_kind(frames: list[Frame]) -> dict[str, set[str]]:
    """Every key that frames of a kind have."""
    found: dict[str, set[str]] = {}
    for frame in frames:
        found.setdefault(kinds([frame])[0], set()).update(frame)
    return found


@pytest.mark.parametrize("comparison", [compare, compare_lives])
@pytest.mark.acceptance
async def test_both_tell_the_same(
    fake_claude: Path, real_cli: Path, short_dir: Path, comparison: Callable[..., list[str]]
) -> None:
    env = {"ANTHROPIC_UNIX_SOCKET": str(short_dir / "s"), "ANTHROPIC_BASE_URL": "http://model-gateway"}
    env |= {"ANTHROPIC_API_KEY": "dummy", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    env |= {"TMPDIR": str(short_dir), "CLAUDE_CODE_TMPDIR": str(short_dir), "DISABLE_AUTOUPDATER": "1"}
    with listening_socket(short_dir / "s") as listener:
        async with gateway_process(short_dir / "data", "--drain-seconds", "1") as gateway:
            gateway.listen("i1", listener, user="alice", session="default")
            found = await asyncio.to_thread(comparison, fake_claude, real_cli, short_dir, env)
    assert not found, "\n".join(["", *found])
