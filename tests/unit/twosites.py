# SPDX-License-Identifier: Apache-2.0
"""Data that an application keeps at two sites, as a plug-in of the driver `command` serves it: each
site has a position, which follows that of the original. As a program it answers requests from the
state in a file; it imports nothing but the standard library.
"""

from __future__ import annotations

import fcntl
import json
import signal
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

State = dict[str, Any]
VERBS = ("status", "reference", "point", "promote", "demote", "resync")


class Refused(Exception):
    """A request that cannot be done."""


def new_state(original: str = "site-a", copy: str = "site-b") -> State:
    """Data of one original, position 1, that a copy follows."""
    return {
        "replicates": True,
        "sites": {
            original: {"health": "writable", "position": 1},
            copy: {"health": "replicating", "position": 1},
        },
        "calls": [],
        "says": {},
    }


def answer(state: State, request: State) -> State:
    """Do what a request asks for, and answer it.

    Raises:
        Refused: it cannot be done.
    """
    if request.get("version") != 1:
        raise Refused("I know version 1 only")
    site, verb = request["site"], request["verb"]
    here = state["sites"][site]
    if verb == "status":
        found = {"health": here["health"], "position": str(here["position"]), "lag_bytes": 0}
        if "origin" in here:
            found["origin"] = here["origin"]
        if (wanted := request.get("position")) is not None:
            if not wanted.isdigit():
                raise Refused(f"{wanted} is no position")
            found["reached"] = here["position"] >= int(wanted)
        return {"version": 1, **found}
    if verb == "reference":
        return {"version": 1, "reference": f"db.{site}.example:5432"}
    if verb == "point":
        if here["health"] != "writable":
            raise Refused("it is not writable")
        here["position"] += 1
        if state["replicates"]:
            _follow(state, here["position"])
        return {"version": 1, "position": str(here["position"])}
    if verb == "promote":
        here["health"] = "writable"
        return {"version": 1}
    if verb == "demote":
        here["health"] = "stopped"
        return {"version": 1, "position": str(here["position"])}
    if verb == "resync":
        origin = request["origin"].split(".")[1]
        here |= {"health": "replicating", "position": state["sites"][origin]["position"]}
        if "origin" in here:
            here["origin"] = request["origin"]
        return {"version": 1}
    raise Refused(f"I do not know {verb}")


def _follow(state: State, position: int) -> None:
    for other in state["sites"].values():
        if other["health"] == "replicating":
            other["position"] = position


@contextmanager
def changing(place: Path) -> Iterator[State]:
    """The state in a file, which is written when the block is left: a process that is killed leaves
    it whole.
    """
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads(place.read_text())
        yield state
        new = place.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.replace(place)


def handle(place: Path, request: State) -> tuple[int, bytes, str, bool]:
    """Answer a request from the state in a file: the exit code, what is printed, an error, and
    whether it hangs.
    """
    call = f"{request['verb']} at {request['site']}"
    with changing(place) as state:
        say = state["says"].get(call, {})
        state["calls"].append(call)
        code, said, error = say.get("code", 0), b"", say.get("error", "")
        try:
            if not say.get("does_nothing"):
                said = json.dumps(answer(state, request)).encode()
        except Refused as refused:
            code, error = 1, str(refused)
    return code, say["raw"].encode() if "raw" in say else said, error, say.get("hangs", False)


def main(place: Path) -> int:
    """Answer the request on standard input; the exit code."""
    code, said, error, hangs = handle(place, json.loads(sys.stdin.read()))
    if hangs:
        signal.pause()
    sys.stderr.write(error)
    sys.stdout.buffer.write(said)
    return code


class Application:
    """Such data in a folder, for the test."""

    def __init__(self, folder: Path, name: str = "records") -> None:
        self.place = folder / f"{name}.json"
        self.place.write_text(json.dumps(new_state()))
        self.program = folder / f"{name}-command"
        self.program.write_text(
            f"#!{sys.executable} -IS\nimport sys\n"
            f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            f"import pathlib, twosites\n"
            f"sys.exit(twosites.main(pathlib.Path({str(self.place)!r})))\n"
        )
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)

    def settings(self, verbs: Collection[str] = VERBS, **more: Any) -> State:
        """Of the driver `command` at one site."""
        return {"commands": {verb: [str(self.program)] for verb in verbs}, **more}

    def configuration(self, storage: str = "pg", verbs: Collection[str] = VERBS) -> str:
        """For an antipode.yaml, in `storages`."""
        settings = json.dumps(self.settings(verbs))
        return (
            f"  {storage}:\n    driver: command\n"
            f"    sites: {{site-a: {settings}, site-b: {settings}}}\n"
        )

    @property
    def state(self) -> State:
        found: State = json.loads(self.place.read_text())
        return found

    @property
    def health(self) -> dict[str, str]:
        """Site -> how the data is there."""
        return {site: here["health"] for site, here in self.state["sites"].items()}

    def calls(self, verb: str = "") -> list[str]:
        return [call for call in self.state["calls"] if call.startswith(verb)]

    def change(self, how: Callable[[State], object]) -> None:
        with changing(self.place) as state:
            how(state)

    def says(self, call: str, **how: Any) -> None:
        """Have a call, as `status at site-b`, answered in another way."""
        self.change(lambda state: state["says"].update({call: how}))

    def is_at(self, site: str, **what: Any) -> None:
        self.change(lambda state: state["sites"][site].update(what))
