"""Every operation of the OpenAPI document with what fits it and with what does not; ``make fuzz-api``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.fuzz.ground import SECONDS, Ground, ground, rounds

pytestmark = [pytest.mark.timeout(int(SECONDS) + 180), pytest.mark.usefixtures("forked_servers")]

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
# Not to be done by chance: they stop the whole ground, or sign the attacker out.
LEFT_OUT = {("POST", "/api/v1/admin/drain"), ("POST", "/api/v1/auth/logout")}
# They do not end by themselves; test_frames has them.
STREAMS = {"/api/v1/sessions/{sid}/events"}
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
_EXAMPLES = 8 if SECONDS else 1


async def test_no_operation_breaks_or_tells_of_others(short_dir: Path, fake_claude: Path) -> None:
    async with ground(short_dir, fake_claude) as here:
        await asyncio.to_thread(fuzz, here)
        counts = dict(sorted(here.counts.items()))
        print(f"\n{sum(counts.values())} requests, by role and status: {counts}")
        assert not here.findings, "\n\n".join(here.findings.values())
        assert here.counts["alice 200"]


def fuzz(here: Ground) -> None:
    """Rounds over all operations, with each role and both kinds of input."""
    schema = from_dict(here.document)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    with requests.Session() as session:
        for seed in rounds(0.6):
            # A sample has every fourth: what is dear is to make requests up, not to send them.
            for operation in operations if SECONDS else operations[seed % 4 :: 4]:
                place = (operation.method.upper(), operation.path)
                if place in LEFT_OUT or operation.path in STREAMS:
                    continue
                for role in here.tokens:
                    for mode in MODES:
                        _fuzz_one(here, session, operation, role, mode, seed)


def _fuzz_one(
    here: Ground, session: requests.Session, operation: Any, role: str, mode: GenerationMode, seed: int
) -> None:
    token = here.tokens[role]

    @seeded(seed)
    @settings(
        max_examples=_EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def attack(case: Case[Any]) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        case.headers.pop("Authorization", None)
        response = case.call(here.site.url, session=session, headers=headers, timeout=60)
        where = (
            f"{role}: {operation.method.upper()} {case.formatted_path}, seed {seed}: {response.text[:500]}"
        )
        here.counts[f"{role} {response.status_code}"] += 1
        assert response.status_code not in (500, 502, 504), where
        here.check_answer(response.content, response.headers, of=role)
        case.validate_response(response, checks=CHECKS)

    try:
        attack()
    except Unsatisfiable:
        # There is nothing that could be wrong with a request without parameters.
        assert mode is GenerationMode.NEGATIVE
    except (AssertionError, FailureGroup) as error:
        told = error.exceptions if isinstance(error, FailureGroup) else [error]
        for one in told:
            here.findings.setdefault(
                (operation.label, type(one).__name__), f"{operation.label}, {role}: {one}"
            )
