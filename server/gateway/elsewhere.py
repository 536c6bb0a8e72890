"""What teams have used on other machines: their limits hold for all of it together.

``<data>/gateway/elsewhere.json`` is written by the server, which has the
journals of all machines, a few seconds after each use; without the file
nothing was used elsewhere. The gateway adds it to what it has counted itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from server.gateway.private_file import PrivateFileError, read_private_json, write_private_json
from server.gateway.settings import GatewayConfigError
from server.gateway.spending import Spent, day_of, month_of


class TeamUse(BaseModel):
    """What a team used on a UTC day and in a month, as ``day_of`` and ``month_of`` count them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    day: int
    month: int
    tokens_today: Annotated[int, Field(ge=0)] = 0
    usd_today: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    usd_this_month: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def at(self, now: float) -> Spent:
        """What of it counts at ``now``."""
        is_today, is_this_month = self.day == day_of(now), self.month == month_of(now)
        return Spent(
            self.tokens_today if is_today else 0,
            self.usd_today if is_today else 0.0,
            self.usd_this_month if is_this_month else 0.0,
        )


Elsewhere = Mapping[str, TeamUse]
_TEAMS = TypeAdapter(dict[str, TeamUse])


def elsewhere_path(data_dir: Path) -> Path:
    """Where it lies."""
    return data_dir / "gateway" / "elsewhere.json"


def write_elsewhere(data_dir: Path, teams: Mapping[str, Any]) -> None:
    """Replace it; a running gateway heeds it with its next call.

    Raises ``GatewayConfigError`` for what is no use of teams, ``OSError``.
    """
    checked = _checked(dict(teams))
    write_private_json(elsewhere_path(data_dir), {name: use.model_dump() for name, use in checked.items()})


def read_elsewhere(data_dir: Path) -> Elsewhere:
    """By team; a missing file has none. Raises ``GatewayConfigError``."""
    try:
        raw = read_private_json(elsewhere_path(data_dir))
    except PrivateFileError as error:
        raise GatewayConfigError(str(error)) from error
    return {} if raw is None else _checked(raw)


def _checked(raw: Any) -> dict[str, TeamUse]:
    try:
        return _TEAMS.validate_python(raw)
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise GatewayConfigError("the use of teams elsewhere: " + "; ".join(wrong)) from None
