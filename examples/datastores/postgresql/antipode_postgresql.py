#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Commands for antipode's driver `command`: the data of one PostgreSQL cluster at one site, which
streaming replication carries between two.

Usage: antipode_postgresql.py VERB, with a request on standard input. It runs where the server is,
as the user of the server, and needs Python 3.9 and PostgreSQL 13 or newer. Variables: PGDATA,
PGPORT, PGHOST (an address, or the folder of its socket), PGUSER (a superuser), and optionally
PG_BIN (the folder of pg_ctl), PG_REFERENCE (by what other hosts find this server, as
`host=… port=…`) and PG_LOG.

A position is TIMELINE:LSN:ID. A server has reached it if its own history has it: an LSN alone would
also be found in data that has diverged. So would a timeline: two servers that are promoted at the
same LSN have the same number and the same history. So each timeline that is begun here has an id,
in a table that is replicated with the data.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Json = dict[str, Any]
DATA = Path(os.environ.get("PGDATA", "/nowhere"))
OWN_FILES = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf")
"""What a server does not take over from the one that it follows."""
FAILED, NO_ANSWER = 1, 75
STATE = """
SELECT json_build_object(
  'in_recovery', pg_is_in_recovery(),
  'lsn', (CASE WHEN pg_is_in_recovery()
    THEN greatest(coalesce(pg_last_wal_receive_lsn(), '0/0'),
                  coalesce(pg_last_wal_replay_lsn(), '0/0'))
    ELSE pg_current_wal_flush_lsn() END)::text,
  'replayed', pg_last_wal_replay_lsn()::text,
  'timeline', greatest(
    (SELECT timeline_id FROM pg_control_checkpoint()),
    (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
    (SELECT received_tli FROM pg_stat_wal_receiver),
    CASE WHEN pg_is_in_recovery() THEN 0 ELSE
      ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END),
  'receiver', (SELECT status FROM pg_stat_wal_receiver),
  'sent', (SELECT latest_end_lsn::text FROM pg_stat_wal_receiver),
  'age_s', extract(epoch FROM now() - pg_last_xact_replay_timestamp()))
"""


BEGUN = """
SET synchronous_commit = local;
CREATE TABLE IF NOT EXISTS public.antipode_timelines (
  timeline int PRIMARY KEY, id uuid NOT NULL DEFAULT gen_random_uuid());
INSERT INTO public.antipode_timelines (timeline)
  VALUES (('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int)
  ON CONFLICT DO NOTHING
"""
"""Gives the timeline of a primary its id, without waiting for a standby: there may be none."""


class Failed(Exception):
    """A request that cannot be done."""

    def __init__(self, words: str, code: int = FAILED) -> None:
        super().__init__(words)
        self.code = code


def program(name: str) -> str:
    """The path of a program of PostgreSQL."""
    places = [os.environ.get("PG_BIN", ""), os.environ.get("PATH", "")]
    places += map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))
    found = shutil.which(name, path=":".join(p for p in places if p))
    if found is None:
        raise Failed(f"{name} is not installed here")
    return found


def run(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program of PostgreSQL; how it ended."""
    done = subprocess.run(
        [program(str(words[0])), *map(str, words[1:])],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Failed(f"{words[0]}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done


def ask(statement: str) -> str:
    """The one value that a statement gives."""
    os.environ.setdefault("PGCONNECT_TIMEOUT", "5")
    done = run(
        "psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no answer"]
        raise Failed(said[-1], NO_ANSWER if done.returncode == 2 else FAILED)
    return done.stdout.strip()


def number(lsn: str) -> int:
    """An LSN as a number."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def has_reached(state: Json, position: str) -> bool:
    """Whether the history of this server has a position."""
    try:
        timeline, wanted = int(position.split(":")[0]), number(position.split(":")[1])
    except (ValueError, IndexError):
        raise Failed(f"{position} is no position of PostgreSQL: TIMELINE:LSN:ID") from None
    if (id_ := position.split(":")[2:]) and id_[0] not in timelines():
        return False
    if timeline == state["timeline"]:
        return number(state["lsn"]) >= wanted
    name = f"pg_wal/{state['timeline']:08X}.history"
    history = ask(f"SELECT pg_read_file('{name}', 0, 1000000, true)")
    for line in history.splitlines():
        fields = line.split("\t")
        if len(fields) > 1 and fields[0].strip() == str(timeline):
            return number(fields[1]) >= wanted and number(state["lsn"]) >= wanted
    return False


def timelines() -> list[str]:
    """The ids of the timelines that the data of this server was on, the newest last."""
    if not ask("SELECT to_regclass('public.antipode_timelines')"):
        return []
    return ask("SELECT id FROM public.antipode_timelines ORDER BY timeline").split()


def position_of(state: Json, lsn: str | None = None) -> str:
    """Where this server is, or an LSN of it."""
    return ":".join([str(state["timeline"]), lsn or state["lsn"], *timelines()[-1:]])


def status(request: Json) -> Json:
    state = json.loads(ask(STATE))
    found: Json = {"position": position_of(state)}
    if not state["in_recovery"]:
        found |= {"health": "writable", "detail": f"timeline {state['timeline']}"}
    else:
        is_streaming = state["receiver"] == "streaming"
        behind = [number(state[k]) for k in ("lsn", "sent") if state[k]]
        found |= {
            "health": "replicating" if is_streaming else "stopped",
            "lag_bytes": max(behind) - number(state["replayed"] or "0/0"),
            "detail": f"receiver: {state['receiver'] or 'none'}",
        }
        if is_streaming and not found["lag_bytes"]:
            found["lag_s"] = 0.0
        elif state["age_s"] is not None:
            found["lag_s"] = max(0.0, float(state["age_s"]))
    if "position" in request:
        found["reached"] = has_reached(state, request["position"])
    return found


def reference(request: Json) -> Json:
    here = f"host={os.environ.get('PGHOST', '127.0.0.1')} port={os.environ.get('PGPORT', '5432')}"
    return {"reference": os.environ.get("PG_REFERENCE", here)}


def point(request: Json) -> Json:
    if json.loads(ask(STATE))["in_recovery"]:
        raise Failed("the server is a standby, and has no positions made")
    ask(BEGUN)
    lsn = ask("SELECT pg_create_restore_point('antipode')")
    return {"position": position_of(json.loads(ask(STATE)), lsn)}


def promote(request: Json) -> Json:
    if json.loads(ask(STATE))["in_recovery"]:
        within_s = max(1, int(request["within_s"]) - 5)
        if ask(f"SELECT pg_promote(true, {within_s})") != "t":
            raise Failed(f"the server is not promoted after {within_s} s")
    ask(BEGUN)
    return {}


def demote(request: Json) -> Json:
    """Have the server be a standby of nobody. When it stops it waits until its standbys have all.

    It would take records of the server that it followed once for its own: `resync` has it follow.
    """
    try:
        if not (is_standby := json.loads(ask(STATE))["in_recovery"]):
            ask(BEGUN)
    except Failed:
        is_standby = False  # it does not run: one that demoted it was killed
    if not is_standby:
        stop()
        with (DATA / "postgresql.auto.conf").open("a") as file:
            file.write("primary_conninfo = ''\n")
        (DATA / "standby.signal").touch()
        start()
    state = json.loads(ask(STATE))
    if not state["in_recovery"]:
        raise Failed("the server runs on as a primary")
    return {"position": position_of(state)}


def resync(request: Json) -> Json:
    """Have the server follow another, with a new copy of it. Its own files of settings stay."""
    new, old = DATA.with_name(f"{DATA.name}.new"), DATA.with_name(f"{DATA.name}.old")
    if old.exists() and not DATA.exists():
        old.rename(DATA)  # one was killed between the two renames
    follows = json.loads(ask(STATE)) if is_running() else {}
    if follows.get("receiver") == "streaming":
        return {}
    shutil.rmtree(new, ignore_errors=True)
    run(
        "pg_basebackup",
        "-w",
        "-R",
        "-X",
        "stream",
        "-c",
        "fast",
        "-D",
        new,
        "-d",
        f"{request['origin']} user={os.environ.get('PGUSER', 'postgres')}",
    )
    if DATA.exists():
        for name in OWN_FILES:
            if (DATA / name).exists():
                shutil.copy2(DATA / name, new / name)
        stop()
        shutil.rmtree(old, ignore_errors=True)
        DATA.rename(old)
    new.rename(DATA)
    start()
    shutil.rmtree(old, ignore_errors=True)
    return {}


def is_running() -> bool:
    return DATA.exists() and run("pg_ctl", "status", "-D", DATA, check=False).returncode == 0


def stop() -> None:
    if is_running():
        run("pg_ctl", "stop", "-w", "-m", "fast", "-D", DATA)


def start() -> None:
    log = os.environ.get("PG_LOG", str(DATA.with_name(f"{DATA.name}.log")))
    if not is_running():
        run("pg_ctl", "start", "-w", "-D", DATA, "-l", log)


@contextmanager
def alone() -> Iterator[None]:
    """One change at a time: antipode may have died, and its earlier request may still be done."""
    with DATA.with_name(f"{DATA.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


READS = {"status": status, "reference": reference, "point": point}
CHANGES = {"promote": promote, "demote": demote, "resync": resync}


def main() -> None:
    request = json.load(sys.stdin)
    if request.get("version") != 1:
        raise Failed(f"version {request.get('version')} of the contract is not known here")
    verb = sys.argv[1] if len(sys.argv) > 1 else request["verb"]
    if verb in CHANGES:
        with alone():
            answer = CHANGES[verb](request)
    elif verb in READS:
        answer = READS[verb](request)
    else:
        raise Failed(f"there is no verb {verb}")
    json.dump({"version": 1, **answer}, sys.stdout)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
