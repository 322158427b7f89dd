# SPDX-License-Identifier: Apache-2.0
"""A member that boots from an image, on embedded sites: the bytes of its root disk are at the
backup site before the recovery point is, and it boots there from them when the primary is gone.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from antipode.sandbox import canary, desk, records
from antipode.sandbox.creation import Creation
from antipode.sandbox.demo import Silence
from antipode.sandbox.members import PAIR
from antipode.sandbox.site import IMAGE
from antipode.sandbox.supervision import Sandbox
from antipode.transfer.images import MOST_UPLOADS
from tests.sandbox.conftest import BACKUP, LATENCY, PRIMARY, until
from tests.sandbox.test_server_snapshot import Pair, _answers

pytestmark = pytest.mark.sandbox
ACTIVE, STANDBY = PAIR[0], replace(PAIR[1], boots_from_image=True)
UPLOAD = r"^image PUT /v2/images/[^/]+/file"
WRITTEN = b"what the operator of the VNF has configured on the root disk"
AT = 64 << 10


class ImageBooted(Pair):
    """The pair, of which the standby member boots from an image and has a data volume."""

    def copies(self, site: str = BACKUP) -> dict[str, Any]:
        images = self.cloud(site).image.images()
        return {i.id: i for i in images if i.name.startswith("antipode root disk of ")}

    def disk(self, site: str) -> Path:
        """The root disk of the standby member on the hypervisor of a site."""
        server = next(s for s in self.cloud(site).compute.servers() if s.name == STANDBY.server)
        return self.sandbox.directory / site / "disks" / server.id

    def configure(self) -> None:
        """Have the guest's root disk differ from the image that it booted from."""
        with self.disk(PRIMARY).open("r+b") as disk:
            disk.seek(AT)
            disk.write(WRITTEN)

    def configured(self, site: str) -> bytes:
        with self.disk(site).open("rb") as disk:
            disk.seek(AT)
            return disk.read(len(WRITTEN))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[ImageBooted]:
    sandbox = Sandbox(tmp_path / "own")
    sandbox.up(latency=LATENCY)
    try:
        desk.write(sandbox)
        Creation(
            canary.connect(sandbox, f"{PRIMARY}-tenant"),
            PRIMARY,
            IMAGE,
            canary.PERIOD_MS,
            lambda server: None,
            canary.PATIENCE_S,
            interval_s=0.1,
            members=(ACTIVE, STANDBY),
        ).run()
        pair = ImageBooted(sandbox)
        pair.know(required=False)
        for member in PAIR:
            until(partial(_answers, pair, member), f"{member.server} answers")
        yield pair
    finally:
        sandbox.down()


def test_the_bits_are_at_the_backup_site_and_the_member_boots_there_from_them(
    pair: ImageBooted,
) -> None:
    pair.configure()
    result = pair.protect()
    assert result["consistency"] == "volume"
    assert len(pair.copies()) == 1
    assert (pair.snapshots(), pair.images()) == ([], [])
    assert not pair.copies(PRIMARY)
    pair.verify()
    before = {member: pair.durable(member) for member in PAIR}

    pair.sandbox.kill(PRIMARY)
    with Silence(pair.sandbox.settings(PRIMARY).port) as silence:
        recovered = pair.operator.ask("failover", "canary", "--to", BACKUP, "--yes")
        assert silence.calls == 0
    assert sorted(recovered["servers"]) == sorted(m.server for m in PAIR)
    assert pair.configured(BACKUP) == WRITTEN
    for member in PAIR:
        pair.works(member, BACKUP)
        assert pair.durable(member, BACKUP) > 0
    assert all(before.values())
    for name, content in pair.records_on(BACKUP).items():
        assert records.check_alone("db", content).is_whole, name
    pair.operator.tell("recovery-point", "verify", "canary", "--deep")


def test_a_member_whose_root_disk_is_made_again_has_its_records_and_nothing_else(
    pair: ImageBooted,
) -> None:
    pair.configure()
    by_option_1 = {"option": "quiesced-snapshot", "quiesce": {"timeout": "120s"}}
    pair.tell_of([by_option_1], standby={"root": "rebuild"})
    done = pair.operator.run("protect", "canary")
    assert done.returncode != 0
    assert "no active image" in done.stderr
    there = pair.cloud(PRIMARY).image
    content = there.download_image(there.find_image(IMAGE)).content
    formats = {"disk_format": "raw", "container_format": "bare"}
    pair.cloud(BACKUP).image.upload_image(name="golden", data=content, **formats)
    assert pair.protect()["consistency"] == "application"
    assert pair.copies() == {}
    pair.verify()
    pair.operator.tell("recovery-point", "verify", "canary", "--deep")

    pair.sandbox.kill(PRIMARY)
    with Silence(pair.sandbox.settings(PRIMARY).port) as silence:
        pair.operator.ask("failover", "canary", "--to", BACKUP, "--yes")
        assert silence.calls == 0
    assert pair.configured(BACKUP) != WRITTEN
    for member in PAIR:
        pair.works(member, BACKUP)
    for name, content in pair.records_on(BACKUP).items():
        assert records.check_alone("db", content).is_whole, name
    images = pair.cloud(BACKUP).image.images()
    assert [i.name for i in images] == ["golden"], "nothing was brought or removed"


@pytest.mark.rest
@pytest.mark.parametrize(("effect", "times"), [("error", 1), ("drop", MOST_UPLOADS)])
def test_an_upload_that_fails_leaves_neither_a_point_nor_an_image(
    pair: ImageBooted, effect: str, times: int
) -> None:
    pair.fault(BACKUP, UPLOAD, effect, times=times)
    done = pair.operator.run("protect", "canary")
    assert pair.struck(BACKUP) == times
    assert done.returncode != 0, done.stderr
    assert pair.points() == []
    assert (pair.copies(), pair.snapshots(), pair.images()) == ({}, [], [])
    pair.protect()
    assert len(pair.copies()) == 1


@pytest.mark.rest
@pytest.mark.parametrize("effect", ["drop", "lost"])
def test_an_upload_without_an_answer_begins_again_and_leaves_one_copy(
    pair: ImageBooted, effect: str
) -> None:
    pair.fault(BACKUP, UPLOAD, effect)
    pair.protect()
    assert pair.struck(BACKUP) == 1
    assert [i.status for i in pair.copies().values()] == ["active"]
    assert (pair.snapshots(), pair.images()) == ([], [])
    pair.verify()


def test_an_upload_whose_process_is_killed_is_resumed(pair: ImageBooted) -> None:
    pair.configure()
    pair.fault(BACKUP, r"^image\.upload$", "stuck", times=None)
    process = pair.operator.begin("protect", "canary")
    until(lambda: pair.struck(BACKUP), "the image is being brought", 300)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    pair.sandbox.ask(BACKUP, "DELETE", "/faults")
    run = pair.newest_run()["run"]
    assert pair.operator.run("run", "resume", run).returncode == 0
    assert len(pair.points()) == 1
    assert [i.status for i in pair.copies().values()] == ["active"]
    assert (pair.snapshots(), pair.images()) == ([], [])
    pair.verify()


@pytest.mark.rest
def test_a_download_that_breaks_off_continues(pair: ImageBooted) -> None:
    pair.fault(PRIMARY, r"^image GET /v2/images/[^/]+/file", "drop", times=2)
    pair.protect()
    assert pair.struck(PRIMARY) == 2
    pair.verify()


def test_a_glance_without_room_is_found_before_anything_is_captured(pair: ImageBooted) -> None:
    pair.conditions(BACKUP, image_limits={"image_size_total": 0})
    done = pair.operator.run("protect", "canary")
    assert done.returncode != 0
    assert "image_size_total" in done.stderr
    assert pair.images() == []
    pair.conditions(BACKUP, image_limits={})
    pair.protect()
