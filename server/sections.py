"""What every section of the configuration is: strict, frozen, with secrets that may come from files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from server.secret_files import NotPrivate, read_secret


def _json_text(value: object) -> object:
    """A list or map may be written as JSON text, as the environment must."""
    if isinstance(value, str):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise ValueError("must be a list or map, in the environment as JSON") from error
    return value


FromJson = BeforeValidator(_json_text)
Texts = Annotated[list[str], FromJson]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a field is, or that the values of its map are."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, Section) else None
    found = (section_in(one) for one in getattr(annotation, "__args__", ()))
    return next((one for one in found if one is not None), None)


def is_secret(annotation: object) -> bool:
    """Does a field hold a secret?"""
    return annotation is SecretStr or SecretStr in getattr(annotation, "__args__", ())


class Section(BaseModel):
    """One map of the configuration: unknown keys are errors, a secret ``x`` may be given as ``x_file``."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, data: Any) -> Any:
        data = _json_text(data)
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for name, field in cls.model_fields.items():
            path = data.pop(f"{name}_file", None) if is_secret(field.annotation) else None
            if path is None:
                continue
            if data.get(name) is not None:
                raise ValueError(f"give {name} or {name}_file, not both")
            try:
                data[name] = read_secret(Path(path)).strip()
            except NotPrivate as error:
                raise ValueError(f"{name}_file: {error}") from error
            except (OSError, UnicodeError, TypeError) as error:
                raise ValueError(f"{name}_file cannot be read") from error
        return data
