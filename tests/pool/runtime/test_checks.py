"""What ``/health`` says of the pool's surroundings."""

from __future__ import annotations

from typing import Any

from tests.pool.runtime.conftest import World


async def test_as_whom_the_model_gateway_runs_and_what_is_in_the_way(world: World) -> None:
    pool = await world.start()

    def said() -> Any:
        return pool.health()["checks"]["gateway"]

    own = "the model gateway runs as the service's own user"
    assert said() == {"ok": True, "detail": own, "uid": None}
    world.host.gateway = (265535, None)
    assert said() == {
        "ok": True,
        "detail": "the model gateway runs as uid 265535, without any rights",
        "uid": 265535,
    }
    # no reason to take the service out of use, so it does not count as degraded
    world.host.gateway = (None, "cannot pass through /root: chmod o+x /root")
    assert said() == {"ok": True, "detail": f"{own}; cannot pass through /root: chmod o+x /root", "uid": None}
