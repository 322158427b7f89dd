# SPDX-License-Identifier: Apache-2.0
"""The pydantic base of all models: unknown fields are errors, instances do not change."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
"""A name that is safe in resource names, object keys and paths."""


class Model(BaseModel):
    """A value that came from a file or a cloud and is not changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _no_boolean(value: object) -> object:
    """YAML has `yes` and `on` for true, which pydantic would take for 1."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, and is {str(value).lower()}")
    return value


Whole = Annotated[int, BeforeValidator(_no_boolean)]
"""A whole number of a file."""
Number = Annotated[float, BeforeValidator(_no_boolean)]
"""A number of a file."""


def parse_duration(value: object) -> object:
    """Turn `10s`, `500ms`, `2m`, `1h`, `7d` or a plain number (seconds) into seconds; anything else
    is left for pydantic to refuse.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", value)
        if match is None:
            raise ValueError(f"{value!r} is not a duration; write for example 10s, 500ms or 2m")
        return float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    return _no_boolean(value)


Seconds = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, allow_inf_nan=False)]
"""A duration that ends: seconds as a float, in a file also `10s`, `500ms`, `2m`, `1h`, `7d`."""
