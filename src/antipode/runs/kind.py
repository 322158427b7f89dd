"""The kinds of runs there are, and what each knows: how it is done, how it is taken back, and from
when on it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from antipode.errors import InvalidInput

if TYPE_CHECKING:
    from antipode.engine.run import Run

MODULES = {
    "protect": "antipode.runs.protect",
    "failover": "antipode.runs.failover",
}
"""Each has a `KIND`."""


@dataclass(frozen=True)
class Kind:
    flow_version: int
    """raised when a run begun by an older antipode cannot be gone on with by this one"""
    do: Callable[[Run], None]
    """Begin, or go on from the last step that was finished. Fills the run's result."""
    take_back: Callable[[Run], list[str]]
    """Remove what the run has made, whatever it was; again is fine. What is left of it, and why, in
    words. Raises when it has to be tried again.
    """
    too_late: Callable[[Run], str | None]
    """Why the run cannot be taken back any more; None while it can."""
    takes_back_failures: bool
    """whether a run that fails is taken back at once; else it can be gone on with"""


def kind_of(name: str) -> Kind:
    """The kind of this name.

    Raises:
        InvalidInput: this antipode has none.
    """
    if name not in MODULES:
        raise InvalidInput(
            f"this antipode knows no run of kind {name}; a newer one has made it: use that"
        )
    kind: Kind = import_module(MODULES[name]).KIND
    return kind
