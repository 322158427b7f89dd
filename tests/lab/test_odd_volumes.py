# SPDX-License-Identifier: Apache-2.0
"""Two members that share a volume, with others that were plugged in, extended and pulled out while
they ran, a volume of no server, and a stranger that is named like a member: carried from one real
site to the other while the former is a black hole, and compared field by field and byte by byte.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from antipode.recover.plan import MULTIATTACH, YES
from antipode.sandbox.creation import FLAVOR
from antipode.sandbox.members import HTTP_PORT, NAME, PAIR
from antipode.sandbox.records import RECORD, check_alone
from lab import canary, inside, pair, wan
from lab.desk import EXAMPLE, Desk
from lab.guest_agent import in_guest
from lab.services import identity, tenant
from lab.services.ceph import POOL
from lab.services.cinder import BACKEND
from lab.site import SITES, Site

pytestmark = pytest.mark.lab
VNF, SPARE = "odd", "Reserve ü"
ACTIVE, STANDBY = PAIR
NAMES = {ACTIVE.address: "Zwilling ä", STANDBY.address: "Wächter 'ü'"}
"""Of the members, by their addresses; the stranger has the first one, and no address."""
SHARED = {"site-a": "test-shared", "site-b": "test-together"}
"""The volume types of each site whose volumes several servers may have."""
PATIENCE_S = 600
Json = dict[str, Any]


class Odd:
    """A site as its operator sees it, with what is there of the VNF."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._cloud = identity.connect(site, "antipode", tenant.PROJECT)

    def ask(self, service: str, method: str, path: str, body: Json | None = None) -> Json:
        proxy = {"compute": self._cloud.compute, "volume": self._cloud.block_storage}[service]
        version = {"compute": "2.96", "volume": "3.70"}[service]
        answer = proxy.request(path, method, json=body, microversion=version)
        assert answer.ok, (method, path, answer.text)
        found: Json = answer.json() if answer.content else {}
        return found

    def make_type(self) -> None:
        self._cloud.block_storage.create_type(
            name=SHARED[self.site.name],
            extra_specs={"volume_backend_name": BACKEND, MULTIATTACH: YES},
        )

    def image(self) -> str:
        """The id of the guest image."""
        return str(self._cloud.image.find_image(NAME, ignore_missing=False).id)

    def volume(self, **wanted: Any) -> str:
        body = {"volume": {"size": 1, **wanted}}
        made = str(self.ask("volume", "POST", "/volumes", body)["volume"]["id"])
        self._await_volume(made, "available")
        return made

    def plug(self, server: str, volume: str, **wanted: Any) -> None:
        """Attach a volume to a server that runs."""
        body = {"volumeAttachment": {"volumeId": volume, **wanted}}
        self.ask("compute", "POST", f"/servers/{server}/os-volume_attachments", body)
        self._await_volume(volume, "in-use")

    def pull(self, server: str, volume: str) -> None:
        """Detach a volume from a server that runs, and delete it."""
        self.ask("compute", "DELETE", f"/servers/{server}/os-volume_attachments/{volume}")
        self._await_volume(volume, "available")
        self.ask("volume", "DELETE", f"/volumes/{volume}")

    def extend(self, volume: str, gib: int) -> None:
        """Make a volume larger while a server has it."""
        self.ask("volume", "POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": gib}})
        self._await_volume(volume, "in-use")

    def _await_volume(self, volume: str, status: str) -> None:
        found = self._cloud.block_storage.get_volume(volume)
        self._cloud.block_storage.wait_for_status(found, status, ["error"], 0.5, PATIENCE_S)

    def members(self) -> list[Json]:
        """The members of the VNF that are there."""
        return [row for row in self._named() if row["addresses"]]

    def make_stranger(self) -> None:
        """A server that is named like a member, and belongs to no VNF."""
        disk = {
            "uuid": self.volume(name=f"{NAME}-of-a-stranger", imageRef=self.image()),
            "source_type": "volume",
            "destination_type": "volume",
            "boot_index": 0,
        }
        wanted = {
            "name": NAMES[ACTIVE.address],
            "flavorRef": self._cloud.compute.find_flavor(FLAVOR, ignore_missing=False).id,
            "networks": "none",
            "block_device_mapping_v2": [disk],
        }
        made = self.ask("compute", "POST", "/servers", {"server": wanted})["server"]
        compute = self._cloud.compute
        compute.wait_for_server(compute.get_server(made["id"]), "ACTIVE", interval=1, wait=300)

    def _named(self) -> list[Json]:
        rows: list[Json] = self.ask("compute", "GET", "/servers/detail")["servers"]
        return [row for row in rows if row["name"] in NAMES.values()]

    def seen(self) -> Json:
        """All of the VNF that its owner has given it, with what each quiet volume holds.

        The boot and data volumes are written all the time: of them there is no digest.
        """
        groups = self.ask("compute", "GET", "/os-server-groups")["server_groups"]
        (spare,) = [
            v for v in self.ask("volume", "GET", "/volumes/detail")["volumes"] if v["name"] == SPARE
        ]
        return {
            "servers": {_address(row): self._server(row, groups) for row in self.members()},
            "spare": self._volume(spare["id"]) | {"status": spare["status"]},
            "sharing": self._sharing(),
        }

    def _server(self, row: Json, groups: list[Json]) -> Json:
        kept = (
            "name",
            "description",
            "tags",
            "status",
            "locked",
            "locked_reason",
            "config_drive",
            "key_name",
            "OS-EXT-SRV-ATTR:hostname",
            "OS-EXT-SRV-ATTR:user_data",
        )
        (group,) = [g for g in groups if row["id"] in g["members"]]
        attached = self.attachments(row["id"])
        return {
            **{name: row[name] for name in kept},
            "metadata": _own(row["metadata"]),
            "flavor": row["flavor"]["original_name"],
            "group": (group["name"], group["policy"]),
            "volumes": [
                self._volume(a["volumeId"], is_quiet=place > 1)
                | {"ends": a["delete_on_termination"], "tag": a["tag"]}
                for place, a in enumerate(attached)
            ],
        }

    def attachments(self, server: str) -> list[Json]:
        """In the order of the devices."""
        path = f"/servers/{server}/os-volume_attachments"
        found: list[Json] = self.ask("compute", "GET", path)["volumeAttachments"]
        return sorted(found, key=lambda a: (len(a["device"]), a["device"]))

    def _volume(self, volume: str, *, is_quiet: bool = True) -> Json:
        found = self.ask("volume", "GET", f"/volumes/{volume}")["volume"]
        kept = ("size", "bootable", "multiattach", "name", "description")
        return {
            **{name: found[name] or "" for name in kept},
            "metadata": _own(found["metadata"]),
            "image": found.get("volume_image_metadata"),
            "holds": self._digest(volume) if is_quiet else "",
        }

    def _digest(self, volume: str) -> str:
        """Of each byte, read from the site's Ceph."""
        export = f"rbd export --no-progress {POOL}/volume-{volume} - | sha256sum"
        said: str = inside.run(self.site, ["sh", "-c", export], timeout=PATIENCE_S).stdout
        return said.split()[0]

    def _sharing(self) -> list[list[str]]:
        """Of each volume that several servers have, the addresses of these."""
        having: dict[str, list[str]] = {}
        for row in self.members():
            for attached in self.attachments(row["id"]):
                having.setdefault(attached["volumeId"], []).append(_address(row))
        return [sorted(servers) for servers in having.values() if len(servers) > 1]

    def records(self) -> dict[str, bytes]:
        """The bytes of the records that each member has made, by its address."""
        volumes = {
            _address(row): str(self.attachments(row["id"])[1]["volumeId"]) for row in self.members()
        }
        read = canary.records_of_volumes(self.site, list(volumes.values()))
        return {address: read[volume] for address, volume in volumes.items()}

    def remove(self) -> None:
        """Remove what of the VNF is there, and its volume type."""
        names = {member.address: member.server for member in PAIR}
        for row in self._named():  # by the names that they had at first, as any pair
            path = f"/servers/{row['id']}"
            if not row["addresses"]:
                self.ask("compute", "DELETE", path)
                continue
            if row["locked"]:
                self.ask("compute", "POST", f"{path}/action", {"unlock": None})
            self.ask("compute", "PUT", path, {"server": {"name": names[_address(row)]}})
        canary.remove(self.site)
        for volume in self.ask("volume", "GET", "/volumes/detail")["volumes"]:
            if volume["name"] == SPARE:
                self.ask("volume", "DELETE", f"/volumes/{volume['id']}")
        for kind in self._cloud.block_storage.types():
            if kind.name in SHARED.values():
                self._cloud.block_storage.delete_type(kind)


def _address(row: Json) -> str:
    ((first,),) = row["addresses"].values()
    return str(first["addr"])


def _own(metadata: Json) -> Json:
    return {
        k: v for k, v in metadata.items() if not k.startswith("antipode:") and k != "src_backup_id"
    }


@pytest.fixture
def odd_sites() -> Iterator[tuple[Odd, Odd]]:
    here, there = (Odd(site) for site in SITES.values())
    for each in (here, there):
        each.remove()
        each.make_type()
    yield here, there
    for each in (here, there):
        each.remove()


def make_members(here: Odd) -> dict[str, str]:
    """The members with all of their volumes: name -> id."""
    servers = pair.create(here.site, PAIR)
    for name, server in servers.items():
        path = f"/servers/{server}"
        address = next(m.address for m in PAIR if m.name == name)
        told = {"server": {"name": NAMES[address], "description": f"einer von zweien: {name}"}}
        here.ask("compute", "PUT", path, told)
        here.ask("compute", "PUT", f"{path}/tags", {"tags": [name, "zwölf"]})
    active, standby = (servers[str(member.name)] for member in PAIR)
    shared = here.volume(
        name=f"{NAME}-gemeinsam", volume_type=SHARED[here.site.name], metadata={"kind": "jöurnal"}
    )
    here.plug(active, shared, tag="journal")
    here.plug(standby, shared)
    pulled = here.volume(name=f"{NAME}-pulled")
    here.plug(active, pulled)
    here.plug(active, here.volume(name="", description="ohne Namen"))
    here.pull(active, pulled)
    extended = here.volume(name=f"{NAME}-extended", volume_type="fast")
    here.plug(standby, extended)
    here.extend(extended, 2)
    write(here.site, active, "vdc", gib=1, at_mib=100)
    write(here.site, active, "vde", gib=1, at_mib=1000)
    write(here.site, standby, "vdd", gib=2, at_mib=2000)
    lock = {"lock": {"locked_reason": "nur für die Wartung"}}
    here.ask("compute", "POST", f"/servers/{standby}/action", lock)
    return servers


def write(site: Site, server: str, device: str, *, gib: int, at_mib: int) -> None:
    """Have the guest write what no compression makes smaller, once a disk has its size there."""
    size = f"/sys/class/block/{device}/size"
    script = f"""\
until test "$(cat {size} 2> /dev/null || echo 0)" -ge {gib << 21}; do sleep 1; done
dd if=/dev/urandom of=/dev/{device} bs=1048576 count=4 seek={at_mib}
sync
"""
    in_guest(site, server, script, PATIENCE_S)


def make_spare(here: Odd) -> None:
    """The volume of no server."""
    here.volume(
        name=SPARE,
        volume_type="fast",
        imageRef=here.image(),
        description="für schlechte Tage",
        metadata={"kind": "Reserve"},
    )


def desk_of(folder: Path, servers: dict[str, str]) -> Desk:
    """A desk that knows the members by their ids. The standby one comes back without user_data, so
    it writes nothing there.
    """
    desk = Desk(folder / "desk", f"antipode-test-{time.time_ns()}")
    answers = {
        "command": ["python", "-m", "lab", "answer", "{site}", "{address}", str(HTTP_PORT)],
        "within": "5m",
        "variables": ["ANTIPODE_LAB"],
    }
    example = yaml.safe_load(EXAMPLE.read_text())
    types = {**example["map"]["volume_types"], SHARED["site-a"]: SHARED["site-b"]}
    known = {
        **example,
        "vnf": VNF,
        "members": [
            {"server": servers[str(ACTIVE.name)], "user_data": "keep", "answers": answers},
            {"server": servers[str(STANDBY.name)], "user_data": "drop"},
        ],
        "volumes": [SPARE],
        "map": {**example["map"], "volume_types": types},
        "protections": [{"option": "quiesced-snapshot", "quiesce": {"timeout": "120s"}}],
    }
    file = folder / "odd.yaml"
    file.write_text(yaml.safe_dump(known))
    desk.tell("vnf", "add", str(file))
    return desk


def test_members_come_back_with_volumes_shared_plugged_in_extended_and_of_no_server(
    odd_sites: tuple[Odd, Odd], tmp_path: Path
) -> None:
    here, there = odd_sites
    servers = make_members(here)
    make_spare(here)
    here.make_stranger()
    desk = desk_of(tmp_path, servers)
    before, durable = here.seen(), {m.address: pair.durable(here.site, m) for m in PAIR}
    assert before["sharing"] == [[ACTIVE.address, STANDBY.address]]
    made = desk.ask("protect", VNF)
    assert (made["consistency"], made["volumes"]) == ("application", 8)
    after = here.records()
    assert here.seen() == before

    wan.isolate(here.site)
    try:
        desk.ask("failover", VNF, "--to", there.site.name, "--yes")
    finally:
        wan.rejoin(here.site)
    pair.wait_for_records(there.site, ACTIVE, 5)
    before["servers"][STANDBY.address]["OS-EXT-SRV-ATTR:user_data"] = None
    assert there.seen() == before
    found = there.records()
    for address, content in found.items():
        checked = check_alone("db", content)
        assert checked.is_whole, (address, checked)
        captured = sorted(checked.last_of_boot.values())[0]
        assert durable[address] <= captured <= check_alone("db", after[address]).last
        assert content[: captured * RECORD] == after[address][: captured * RECORD]
    assert len(check_alone("db", found[STANDBY.address]).last_of_boot) == 1
    assert len(check_alone("db", found[ACTIVE.address]).last_of_boot) == 2
