# SPDX-License-Identifier: Apache-2.0
"""The process of the mover ends when its run is to stop, whatever it does then, and what fails of
it fails no more than its volumes.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from antipode.errors import ResourceFailed, Stopped
from antipode.mover import child, lock
from antipode.mover.child import ChildMover
from antipode.mover.job import Access, Job, Outcome, VolumeJob

ACCESS = Access(site="b", cloud="b", store="s", store_cloud="s")
JOB = VolumeJob(volume="v", claim="c")
LONG_S = 60
"""More than any test waits for."""
CONNECTS = """
import os, sys, threading
from antipode.mover import carrying
carrying.ENDS_WITHIN_S = 0.1
carrying.cloud_site.connect = carrying.cloud_site.connect_objects = lambda *names: None
def attached_by(site, access):
    print("a word of a library")
    os.system("echo a word of a command")
    {deed}
sys.exit(carrying.main(attached_by))
"""
READS = "import os, signal, subprocess, sys, threading\nfrom pathlib import Path\n"
"""The beginning of programs that stand for the mover and import nothing of it."""

Programmed = Callable[[str], ChildMover]


@pytest.fixture
def programmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programmed:
    """A mover whose process does something else."""
    monkeypatch.setattr(child, "POLL_S", 0.01)
    lock.prepare(tmp_path / "c")
    begun = subprocess.Popen

    def mover(program: str) -> ChildMover:
        (tmp_path / "mover.py").write_text(program)
        monkeypatch.setattr(
            subprocess,
            "Popen",
            lambda _, **more: begun([sys.executable, tmp_path / "mover.py"], **more),
        )
        return ChildMover(ACCESS, tmp_path, nullcontext)

    return mover


def carried(mover: ChildMover, go_on: Callable[[], None] = lambda: None, **more: Any) -> Outcome:
    with mover.turn(1) as turn:
        return turn.carry("c", more.get("jobs", [JOB]), go_on)["v"]


def stops_when(there: Path) -> Callable[[], None]:
    def go_on() -> None:
        if there.exists():
            raise Stopped("the run must stop")

    return go_on


def test_a_word_on_standard_output_is_no_outcome(programmed: Programmed) -> None:
    done = Outcome(volume="v").model_dump_json()
    mover = programmed(
        f"{READS}sys.stdin.read(9)\nprint('iscsiadm: a word')\nprint({done!r})\nprint('{{')"
    )
    assert carried(mover).is_done


def test_what_libraries_and_their_commands_say_comes_not_among_outcomes(tmp_path: Path) -> None:
    lock.prepare(tmp_path / "c")
    program = CONNECTS.format(deed="raise ValueError('no such host')")
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for word in (ACCESS, Job(lock=tmp_path / "c", volumes=[JOB])):
            print(word.model_dump_json(), file=process.stdin, flush=True)
        (said,) = process.stdout  # it waits for no end of its input
        assert process.wait(LONG_S) == 1
        words = process.stderr.read().splitlines()
    outcome = Outcome.model_validate_json(said)
    assert (outcome.volume, outcome.code, outcome.touched) == ("v", "unexpected", False)
    assert "no such host" in outcome.problem
    assert {"a word of a command", "a word of a library"} <= set(words)


@pytest.mark.parametrize("what", ["the folder", "the process"])
def test_a_mover_that_cannot_start_fails_as_a_resource(
    what: str, programmed: Programmed, monkeypatch: pytest.MonkeyPatch
) -> None:
    mover = programmed("")

    def refused(*args: Any, **more: Any) -> Any:
        raise OSError(28, "No space left on device")

    place, name = {
        "the folder": (tempfile, "mkdtemp"),
        "the process": (subprocess, "Popen"),
    }[what]
    monkeypatch.setattr(place, name, refused)
    with pytest.raises(ResourceFailed), mover.turn(1):
        pass


def test_an_error_in_a_turn_is_none_of_the_start(programmed: Programmed) -> None:
    with pytest.raises(OSError, match="of the block"), programmed("").turn(1):
        raise OSError("of the block")


def test_a_run_that_is_to_stop_does_not_wait_for_a_site(
    programmed: Programmed, tmp_path: Path
) -> None:
    there, late = tmp_path / "connects", tmp_path / "late"
    hangs = f"open({str(there)!r}, 'x'); threading.Event().wait({LONG_S}); open({str(late)!r}, 'x')"
    with pytest.raises(Stopped):
        carried(programmed(CONNECTS.format(deed=hangs)), stops_when(there))
    assert not late.exists()


def test_the_end_of_the_input_before_a_job_ends_the_mover_while_it_connects() -> None:
    program = CONNECTS.format(deed=f"threading.Event().wait({LONG_S})")
    ended = subprocess.run(
        [sys.executable, "-c", program],
        input=f"{ACCESS.model_dump_json()}\n{{".encode(),
        capture_output=True,
        timeout=LONG_S / 2,
    )
    assert ended.returncode == 2


def test_a_run_can_stop_while_a_long_job_is_handed_over(
    programmed: Programmed, tmp_path: Path
) -> None:
    there, late = tmp_path / "begun", tmp_path / "late"
    mover = programmed(
        f"{READS}sys.stdin.read(9)\nPath({str(there)!r}).touch()\n"
        f"threading.Event().wait({LONG_S})\nPath({str(late)!r}).touch()"
    )
    jobs = [JOB.model_copy(update={"volume": f"{n}" * 300}) for n in range(1000)]
    with pytest.raises(Stopped):
        carried(mover, stops_when(there), jobs=jobs)
    assert not late.exists()


def test_a_long_job_arrives_whole(programmed: Programmed) -> None:
    mover = programmed(
        f"{READS}import json\nsys.stdin.readline()\nfor v in json.loads(input())['volumes']:\n"
        f"    print(json.dumps({{'volume': v['volume']}}))"
    )
    jobs = [JOB.model_copy(update={"volume": f"{n}" * 300}) for n in range(1000)]
    with mover.turn(1) as turn:
        found = turn.carry("c", jobs, lambda: None)
    assert len(found) == 1000
    assert all(outcome.is_done for outcome in found.values())


def test_a_mover_that_does_not_end_is_killed_before_its_volumes_are_released(
    programmed: Programmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "KILLED_AFTER_S", 0.1)
    there = tmp_path / "locked"
    mover = programmed(
        f"{READS}from antipode.mover import lock\nlock.take(Path({str(tmp_path / 'c')!r}))\n"
        f"sys.stdin.readline(), sys.stdin.readline()\nPath({str(there)!r}).touch()\n"
        "os.kill(os.getpid(), signal.SIGSTOP)"
    )

    def go_on() -> None:
        if there.exists():
            assert not lock.is_over(tmp_path / "c")
            raise Stopped("the run must stop")

    with pytest.raises(Stopped):
        carried(mover, go_on)
    assert lock.is_over(tmp_path / "c")


def test_a_command_that_outlives_the_mover_holds_up_none_of_its_outcomes(
    programmed: Programmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "READ_S", 0.5)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = Outcome(volume="v").model_dump_json()
    mover = programmed(
        f"{READS}print({done!r}, flush=True)\nsubprocess.Popen(['cat', {str(pipe)!r}])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ours = os.open(pipe, os.O_RDWR)  # the command lives until this is closed
    try:
        assert carried(mover).is_done
    finally:
        os.close(ours)


def test_a_mover_without_a_job_ends_with_its_commands(
    programmed: Programmed, tmp_path: Path
) -> None:
    """The other end of a named pipe is closed when the last process that holds it has ended."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    mover = programmed(
        f"{READS}held = open({str(pipe)!r}, 'w')\n"
        f"subprocess.Popen(['sleep', '{LONG_S}'], stdout=held)\n"
        f"print('begun', file=held, flush=True)\nthreading.Event().wait({LONG_S})"
    )
    with pytest.raises(Stopped), mover.turn(1), pipe.open() as lines:
        assert lines.readline() == "begun\n"
        ours = os.dup(lines.fileno())
        raise Stopped("the run must stop")
    ends = select.poll()  # a test process may have more files open than select() takes
    ends.register(ours)
    assert ends.poll(LONG_S * 500)
    assert os.read(ours, 1) == b""
    os.close(ours)
