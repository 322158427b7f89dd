# SPDX-License-Identifier: Apache-2.0
"""Datastores of VNFs, and the storage that rbd-mirror keeps in step, by a command that says what
`rbd` of Ceph 16.2 has said on two real clusters.
"""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from antipode import config
from antipode.datastores import STORAGES, Storage, opened, storages_of
from antipode.datastores.rbd_mirror import RbdMirror
from antipode.errors import InvalidFile, InvalidInput, ResourceFailed, SiteUnreachable
from antipode.model.datastore import Health, StorageAt
from antipode.model.source import AnySource
from antipode.model.topology import Volume
from antipode.model.vnf import Vnf
from tests.unit import samples

HOST = "cinder-b@rbd1#rbd1"
Answers = Callable[..., RbdMirror]


def volume(name: str, **fields: Any) -> Volume:
    return Volume(id=f"id-{name}", name=name, size_gib=1, volume_type="", bootable=False, **fields)


def vnf(**datastores: Any) -> Vnf:
    fields = samples.vnf().model_dump(mode="json")
    return Vnf.model_validate({**fields, "datastores": datastores})


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    """A storage whose command answers by the words that it is called with: `[exit code, JSON,
    stderr]`; it fails at any others.
    """

    def make(said: dict[str, Any], **settings: Any) -> RbdMirror:
        script = tmp_path / "rbd"
        script.write_text(
            f"#!{sys.executable}\n"
            "import json, signal, sys\n"
            f"said = json.loads({json.dumps(json.dumps(said))})\n"
            "words = ' '.join(w for w in sys.argv[1:] if not w.startswith('--') and w != 'json')\n"
            f"with open({str(tmp_path / 'calls')!r}, 'a') as calls: print(words, file=calls)\n"
            "code, answer, error = said.get(words, [99, None, 'not expected: ' + words])\n"
            "if answer == 'hangs': signal.pause()\n"
            "print(json.dumps(answer)); print(error, file=sys.stderr); sys.exit(code)\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        found = opened(
            StorageAt("ceph", "rbd-mirror", {"command": [str(script)], "host": HOST, **settings}),
            "site-b",
        )
        assert isinstance(found, RbdMirror)
        return found

    return make


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def mirrored(name: str, state: str, description: str) -> dict[str, str]:
    return {"name": name, "state": state, "description": description}


REPLAYING = 'replaying, {"bytes_per_second":0.0,"entries_behind_primary":0}'
BY_SNAPSHOTS = (
    'replaying, {"bytes_per_second":0.0,"bytes_per_snapshot":0.0,"local_snapshot_timestamp":1,'
    '"remote_snapshot_timestamp":2,"replay_state":"syncing","syncing_percent":3}'
)
STATUS = "mirror pool status volumes"


@pytest.mark.parametrize(
    ("state", "description", "health"),
    [
        ("up+replaying", REPLAYING, Health.REPLICATING),
        ("up+syncing", "bootstrapping, IMAGE_COPY/COPY_OBJECT 12%", Health.FIRST_SYNC),
        ("up+starting_replay", "starting replay", Health.STOPPED),
        ("up+stopped", "local image is primary", Health.WRITABLE),
        ("up+stopped", "stopped", Health.STOPPED),
        ("up+error", "split-brain", Health.BROKEN),
        ("down+replaying", REPLAYING, Health.STOPPED),
        ("down+unknown", "status not found", Health.STOPPED),
        ("down+syncing", "bootstrapping, IMAGE_COPY/COPY_OBJECT 12%", Health.FIRST_SYNC),
        ("up+stopped", "remote image is not primary", Health.STOPPED),
        ("up+replaying", BY_SNAPSHOTS, Health.BROKEN),
    ],
)
def test_the_health_of_a_replica(
    answers: Answers, state: str, description: str, health: Health
) -> None:
    images = [mirrored("v", state, description)]
    storage = answers({STATUS: [0, {"summary": {}, "images": images}, ""]})
    found = storage.replicas(["v", "w"])
    assert found["v"].health is health
    assert found["w"].health is Health.ABSENT


def test_all_replicas_are_asked_for_at_once(answers: Answers, tmp_path: Path) -> None:
    names = [f"v{n}" for n in range(20)]
    images = [mirrored(n, "up+replaying", REPLAYING) for n in names]
    answers({STATUS: [0, {"summary": {}, "images": images}, ""]}).replicas(names)
    assert len(calls(tmp_path)) == 1


@pytest.mark.parametrize("state", ["up+syncing", "up+error", "down+replaying", "up+stopped"])
def test_a_listed_state_is_not_whole_unless_its_image_replicates(
    answers: Answers, state: str
) -> None:
    storage = answers(
        {
            "snap ls volumes/v": [0, [{"name": "s"}], ""],
            STATUS: [0, {"images": [mirrored("v", state, "bootstrapping")]}, ""],
        }
    )
    there, missing = storage.whole({"v": "s"})
    assert there == set()
    assert list(missing) == ["v"]


def test_a_state_that_is_not_listed_is_not_whole(answers: Answers) -> None:
    storage = answers(
        {
            "snap ls volumes/v": [0, [{"name": "older"}], ""],
            STATUS: [0, {"images": [mirrored("v", "up+replaying", REPLAYING)]}, ""],
        }
    )
    assert storage.whole({"v": "s"})[0] == set()


def test_a_clone_that_is_there_is_used_if_it_rests_on_that_state(answers: Answers) -> None:
    parent = {"pool": "volumes", "image": "v", "snapshot": "s"}
    said = {"clone volumes/v@s volumes/c": [17, None, "clone error: (17) File exists"]}
    answers({**said, "info volumes/c": [0, {"parent": parent}, ""]}).clone("v", "s", "c")
    other = {**parent, "snapshot": "another"}
    for info in ({"parent": other}, {}):
        with pytest.raises(ResourceFailed):
            answers({**said, "info volumes/c": [0, info, ""]}).clone("v", "s", "c")


def test_an_image_without_a_parent_is_not_copied(answers: Answers, tmp_path: Path) -> None:
    answers({"info volumes/v": [0, {"name": "v"}, ""]}).separate("v")
    assert calls(tmp_path) == ["info volumes/v"]


def test_an_image_that_is_replicated_is_not_touched(answers: Answers, tmp_path: Path) -> None:
    known = {"mirroring": {"state": "enabled", "primary": True}}
    said = {
        "info volumes/old": [0, known, ""],
        "info volumes/new": [0, {}, ""],
        "mirror image enable volumes/new journal": [0, None, ""],
    }
    assert answers(said).replicate(["old", "new"]) == ["new"]
    assert "mirror image enable volumes/old journal" not in calls(tmp_path)


def test_an_image_that_is_mirrored_by_snapshots_is_not_adopted(answers: Answers) -> None:
    known = {"mirroring": {"mode": "snapshot", "state": "enabled", "primary": True}}
    with pytest.raises(ResourceFailed):
        answers({"info volumes/v": [0, known, ""]}).replicate(["v"])


def test_an_image_that_is_gone_has_no_states_and_no_clones(answers: Answers) -> None:
    gone = [2, None, "rbd: error opening image v: (2) No such file or directory"]
    storage = answers(
        {"snap ls volumes/v": gone, "children volumes/v@s": gone, "rm volumes/v": gone}
    )
    assert storage.states(["v"]) == {"v": set()}
    assert storage.clones_of("v", ["s"]) == {}
    assert storage.remove_clone("v") is False


def test_a_storage_that_does_not_answer_is_unreachable(answers: Answers) -> None:
    storage = answers({STATUS: [0, "hangs", ""]}, timeout="1s")
    with pytest.raises(SiteUnreachable):
        storage.replicas(["v"])


def test_a_command_that_is_not_there_is_named(answers: Answers) -> None:
    with pytest.raises(ResourceFailed, match="/nowhere/rbd"):
        answers({}, command=["/nowhere/rbd"]).replicas(["v"])


@pytest.mark.parametrize(
    ("info", "status", "problems"),
    [
        ({"mode": "disabled"}, None, 1),
        ({"mode": "image", "peers": [{}]}, "OK", 0),
        ({"mode": "image", "peers": [{}]}, "ERROR", 1),
        ({"mode": "image", "peers": []}, "ERROR", 0),
    ],
)
def test_what_keeps_a_pool_from_replicating(
    answers: Answers, info: Any, status: str | None, problems: int
) -> None:
    said = {
        "mirror pool info volumes": [0, info, ""],
        STATUS: [0, {"summary": {"daemon_health": status}}, ""],
    }
    here = answers(said)
    assert len([*here.problems(), *here.receives_not()]) == problems


def test_a_daemon_that_is_dead_is_no_problem_of_a_site_that_only_sends(
    answers: Answers, tmp_path: Path
) -> None:
    said = {
        "mirror pool info volumes": [0, {"mode": "image", "peers": [{}]}, ""],
        STATUS: [0, {"summary": {"daemon_health": "ERROR"}}, ""],
    }
    here = answers(said)
    assert list(here.problems()) == []
    assert len(list(here.receives_not())) == 1
    assert calls(tmp_path).count("mirror pool info volumes") == 1


def test_the_settings_of_a_storage_are_checked_by_its_driver() -> None:
    with pytest.raises(InvalidInput, match=r"storages\.ceph\.sites\.site-b\.host"):
        opened(StorageAt("ceph", "rbd-mirror", {}), "site-b")
    with pytest.raises(InvalidInput, match="rbd-miror"):
        opened(StorageAt("ceph", "rbd-miror", {"host": HOST}), "site-b")


def test_a_driver_of_another_package_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "array-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: array\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[antipode.datastores]\narray = array_driver:Array\n"
    )
    (tmp_path / "array_driver.py").write_text(
        "from antipode.datastores.rbd_mirror import RbdMirror\nclass Array(RbdMirror): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(vars(STORAGES), "_places", raising=False)
    found = opened(StorageAt("a", "array", {"host": HOST}), "site-b")
    assert type(found).__name__ == "Array"
    assert isinstance(found, Storage)
    monkeypatch.delitem(vars(STORAGES), "_places", raising=False)


def test_volumes_of_a_datastore_by_name_or_id() -> None:
    volumes = [volume("db"), volume("log"), volume("front")]
    chosen = {"storage": "ceph", "volumes": ["db", "id-front"]}
    assert storages_of(vnf(a=chosen), volumes) == {"id-db": "ceph", "id-front": "ceph"}
    assert set(storages_of(vnf(a={"storage": "ceph"}), volumes).values()) == {"ceph"}


def test_a_volume_that_is_missing_or_in_two_datastores_is_refused() -> None:
    for wrong in (
        {"a": {"storage": "ceph", "volumes": ["no such"]}},
        {"a": {"storage": "ceph"}, "b": {"storage": "ceph", "volumes": ["db"]}},
    ):
        with pytest.raises(InvalidInput):
            storages_of(vnf(**wrong), [volume("db")])


def test_a_storage_is_at_sites_of_the_configuration(tmp_path: Path) -> None:
    path = samples.write_config(tmp_path)
    path.write_text(
        path.read_text()
        + "storages:\n  ceph:\n    driver: rbd-mirror\n    sites:\n"
        + "      site-a: {host: a@b#c}\n      site-x: {host: a@b#c}\n"
    )
    with pytest.raises(InvalidFile) as caught:
        config.load(str(path))
    assert [m.field for m in caught.value.mistakes] == ["storages.ceph.sites.site-x"]


PRIMARY = {"mirroring": {"state": "enabled", "primary": True}}
REPLICA = {"mirroring": {"state": "enabled", "primary": False}}
SPLIT = "split-brain"


@pytest.mark.parametrize(
    ("state", "description", "is_fit"),
    [
        ("up+replaying", REPLAYING, True),
        ("down+replaying", REPLAYING, True),
        ("up+stopped", "local image is primary", True),
        ("up+stopped", "remote image is not primary", True),
        ("up+syncing", "bootstrapping, IMAGE_COPY/COPY_OBJECT 12%", False),
        ("down+syncing", "bootstrapping, IMAGE_COPY/COPY_OBJECT 12%", False),
        ("up+starting_replay", "starting replay", False),
        ("down+unknown", "status not found", False),
        ("up+stopped", "stopped", False),
        ("up+error", SPLIT, False),
        ("up+replaying", BY_SNAPSHOTS, False),
    ],
)
def test_only_a_replica_that_is_known_to_be_whole_may_be_promoted(
    answers: Answers, state: str, description: str, is_fit: bool
) -> None:
    said = {STATUS: [0, {"images": [mirrored("v", state, description)]}, ""]}
    found = answers(said).unfit(["v", "not mirrored"])
    assert set(found) == ({"not mirrored"} if is_fit else {"v", "not mirrored"})


def test_a_replica_is_promoted_by_force_only_where_its_original_cannot_be_asked(
    answers: Answers, tmp_path: Path
) -> None:
    plain = {"info volumes/v": [0, REPLICA, ""], "mirror image promote volumes/v": [0, None, ""]}
    answers(plain).promote("v")
    assert calls(tmp_path) == ["info volumes/v", "mirror image promote volumes/v"]
    answers({"info volumes/v": [0, PRIMARY, ""]}).promote("v")
    refused = {
        **plain,
        "mirror image promote volumes/v": [16, None, "image is primary elsewhere"],
        STATUS: [0, {"images": [mirrored("v", "down+replaying", REPLAYING)]}, ""],
    }
    with pytest.raises(ResourceFailed):  # this one refuses it by force as well
        answers(refused).promote("v")
    promote = "mirror image promote volumes/v"
    assert calls(tmp_path)[-3:] == [promote, STATUS, promote]


def test_a_replica_to_which_the_demotion_of_its_original_has_not_come_is_not_forced(
    answers: Answers, tmp_path: Path
) -> None:
    """Its first synchronisation may have been interrupted: it says the same then."""
    demoted = mirrored("v", "up+unknown", "remote image is not primary")
    said = {
        "info volumes/v": [0, REPLICA, ""],
        "mirror image promote volumes/v": [16, None, "demotion is not propagated yet"],
        STATUS: [0, {"images": [demoted]}, ""],
    }
    with pytest.raises(ResourceFailed, match="demoted"):
        answers(said).promote("v")
    assert calls(tmp_path).count("mirror image promote volumes/v") == 1


def test_a_kept_head_is_protected_once_and_dropped_once(answers: Answers, tmp_path: Path) -> None:
    loose, held = ({"name": "s", "protected": protected} for protected in ("false", "true"))
    answers(
        {
            "snap create volumes/v@s": [17, None, "(17) File exists"],
            "snap ls volumes/v": [0, [loose], ""],
            "snap protect volumes/v@s": [0, None, ""],
        }
    ).keep_head("v", "s")
    assert calls(tmp_path)[-1] == "snap protect volumes/v@s"
    answers(
        {
            "snap ls volumes/v": [0, [held], ""],
            "snap unprotect volumes/v@s": [0, None, ""],
            "snap rm volumes/v@s": [0, None, ""],
        }
    ).drop_head("v", "s")
    answers({"snap ls volumes/v": [0, [], ""]}).drop_head("v", "s")
    assert calls(tmp_path)[-3:] == [
        "snap unprotect volumes/v@s",
        "snap rm volumes/v@s",
        "snap ls volumes/v",
    ]


def test_what_is_made_to_follow_is_demoted_first(answers: Answers, tmp_path: Path) -> None:
    said = {
        "info volumes/v": [0, PRIMARY, ""],
        "mirror image demote volumes/v": [0, None, ""],
        "mirror image resync volumes/v": [0, None, ""],
    }
    answers(said).follow("v")
    assert calls(tmp_path)[1:] == [
        "mirror image demote volumes/v",
        "mirror image resync volumes/v",
    ]


def test_a_split_is_told_from_other_errors(answers: Answers) -> None:
    images = [mirrored("v", "up+error", SPLIT), mirrored("w", "up+error", "failed to open")]
    found = answers({STATUS: [0, {"images": images}, ""]}).replicas(["v", "w"])
    assert (found["v"].is_original, found["w"].is_original) == (True, False)


def test_no_recovery_point_has_a_head() -> None:
    head = {"kind": "replicated-head", "storage": "s", "image": "i", "state": "s"}
    rest = {"snapshot_id": "x", "gib": 1, "sites": ["site-b"], "kept_state": "k"}
    with pytest.raises(ValidationError):
        TypeAdapter(AnySource).validate_python({**head, **rest})
