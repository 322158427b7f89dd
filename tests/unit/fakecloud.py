# SPDX-License-Identifier: Apache-2.0
"""A small OpenStack behind the HTTP seam: answers the calls that antipode makes, keeps their order,
and fails where a test wants it to.
"""

from __future__ import annotations

import base64
import hashlib
import json
import string
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from antipode.cloud.api import Api, Reply
from antipode.cloud.image_bytes import Content
from antipode.cloud.site import Site
from antipode.model.steps import StepName

Json = dict[str, Any]
PROJECT = "project-1"
PLENTY = {"limit": 1000, "in_use": 0, "used": 0, "reserved": 0}

A_SERVER: Json = {
    "name": "",
    "status": "ACTIVE",
    "metadata": {},
    "user_id": "user-1",
    "flavor": {"original_name": "small", "vcpus": 1, "ram": 128, "disk": 0},
    "addresses": {},
}
"""What every answer has of a server; so the next."""
A_BACKUP: Json = {
    "status": "available",
    "size": 1,
    "object_count": 2,
    "container": "backups",
    "created_at": "2026-01-01",
    "data_timestamp": None,
    "snapshot_id": None,
    "metadata": {},
}
SWIFT = "cinder.backup.drivers.swift.SwiftBackupDriver"
NAME_ID = "os-vol-mig-status-attr:name_id"
SECRET = "not-to-be-seen-anywhere"


def wired(port: Json) -> str:
    """The status of a port, which is that of its server's interface."""
    return "ACTIVE" if port.get("device_id") and port.get("admin_state_up", True) else "DOWN"


A_PORT: Json = {"name": "", "device_id": "", "fixed_ips": [], "description": ""}


class FakeCloud:
    """Servers `db`, `app`, `front`, each with a root and a data volume, unless `empty`."""

    def __init__(
        self, name: str = "site-a", *, empty: bool = False, cinder: tuple[int, int] = (3, 70)
    ) -> None:
        self.events: list[str] = []
        """what changed something, in order: `quiesce db`, `snapshot db-root`, …"""
        self.before: Callable[[str], None] = lambda event: None
        """called with each event before it takes effect; what it raises is what the caller gets"""
        self.lock = threading.RLock()
        # iterators that can be copied, as those of `itertools` cannot for much longer
        self.ids: Iterator[int] = iter(range(1, sys.maxsize))
        self.changes = iter(range(1, sys.maxsize))
        self.clock: Iterator[int] = iter(range(1, sys.maxsize))
        self.add_on = True
        self.may_import = True
        self.frozen: set[str] = set()
        """by the add-on"""
        self.frozen_for_images: dict[str, list[str]] = {}
        """server -> the snapshots of its image: frozen by Nova until none is being created"""
        self.images: dict[str, Json] = {}
        self.image_members: dict[tuple[str, str], str] = {}
        """(image, project) -> the status of the membership"""
        self.image_limits: dict[str, Json] = {}
        self.root_disks: dict[str, bytes] = {}
        """server -> what is on its disk on the hypervisor, of those that boot from an image"""
        self.looks_until_available = 2
        self.servers: dict[str, Json] = {}
        self.server_actions: dict[str, list[Json]] = {}
        """server -> the locks that were set and released, the newest first"""
        self.volumes: dict[str, Json] = {}
        self.snapshots: dict[str, Json] = {}
        self.backups: dict[str, Json] = {}
        self.volume_groups: dict[str, Json] = {}
        self.group_types: dict[str, Json] = {}
        self.group_snapshots: dict[str, Json] = {}
        self.snapshots_groups_at_once = False
        """whether its pool reports so"""
        self.attachments: dict[str, list[Json]] = {}
        self.is_admin = True
        self.asked: list[str] = []
        """the paths of Cinder's back ends that were asked, in order"""
        self.connections: dict[str, Json | None] = {}
        """volume -> its connection_info, where that is not the usual one"""
        self.manageable: list[Json] = []
        self.clones: dict[str, Json] = {}
        """in its storage: name -> the state that it rests on"""
        self.ports: dict[str, Json] = {}
        self.networks: list[Json] = [{"id": "net-1", "name": "net"}]
        self.subnets: list[Json] = [
            {"id": "subnet-1", "name": "subnet", "network_id": "net-1", "cidr": "10.0.0.0/24"}
        ]
        self.groups: list[Json] = [{"id": "group-1", "name": "default"}]
        self.extensions = [
            "port-security",
            "allowed-address-pairs",
            "extra_dhcp_opt",
            "dns-integration",
            "dns-domain-ports",
            "qos",
            "trunk",
            "router",
            "port-numa-affinity-policy",
            "uplink-status-propagation",
        ]
        self.policies: list[Json] = []
        self.trunks: dict[str, Json] = {}
        self.floating_ips: list[Json] = []
        self.console = "[    0.0] Linux\n{name} login: \n"
        """what a server's console log has"""
        self.nics: dict[str, list[str]] = {}
        """server id -> MAC addresses as its hypervisor has them"""
        self.flavors = [{"id": "flavor-1", "name": "small", "vcpus": 1, "ram": 128, "disk": 0}]
        self.types: list[Json] = [{"id": "type-1", "name": "fast"}]
        self.encrypted_types: dict[str, Json] = {}
        """type id -> how its volumes are encrypted"""
        self.zones = ["nova"]
        self.volume_zones: list[str] | None = None
        """of Cinder, where they are not those of Nova"""
        self.hosts = ["compute-1"]
        self.host_of_new_servers: str | None = "compute-1"
        """None: a server that is built has no host yet"""
        self.server_groups: list[Json] = []
        self.keypairs: dict[str, Json] = {
            "key": {"name": "key", "public_key": "ssh-ed25519 AAAA me", "type": "ssh"}
        }
        self.quotas: dict[str, Json] = {}
        self.backup_state = "up"
        self.service_states: dict[str, str] = {}
        """of binaries that are not up"""
        self.network_agents = [
            {
                "id": "agent-1",
                "agent_type": "DHCP agent",
                "host": "net-1",
                "alive": True,
                "admin_state_up": True,
            }
        ]
        if not empty:
            for index, member in enumerate(("db", "app", "front")):
                self.add_server(member, index)
        self.site = Site(
            name,
            project_id=PROJECT,
            user_id="user-1",
            roles=["admin"],
            compute=Api(name, "compute", self._transport(self._compute), (2, 96)),
            volume=Api(name, "block-storage", self._transport(self._volume), cinder),
            network=Api(name, "network", self._transport(self._network)),
        )
        image = Api(name, "image", self._transport(self._image))
        self.site._image = image
        self.site._image_streams = lambda gate: CalledStreams(image.behind(gate))
        self.site._keys = Api(name, "key-manager", self._transport(self._no_keys))
        self.site._payloads = lambda _: SimpleNamespace()

    def becomes(self, other: FakeCloud) -> None:
        """Have all that another cloud has now, and share nothing with it."""
        own = ("before", "lock", "site")
        vars(self).update(deepcopy({k: v for k, v in vars(other).items() if k not in own}))

    def add_server(self, name: str, index: int, server_id: str | None = None) -> str:
        server_id = server_id or f"id-{name}"
        mac, address = f"fa:16:3e:00:00:{index:02x}", f"10.0.0.{index + 10}"
        self.servers[server_id] = {
            "id": server_id,
            "name": name,
            "status": "ACTIVE",
            "user_id": "user-1",
            "metadata": {"role": name},
            "flavor": {
                "original_name": "small",
                "vcpus": 1,
                "ram": 128,
                "disk": 0,
                "ephemeral": 0,
                "swap": 0,
            },
            "image": "",
            "key_name": "key",
            "config_drive": "True",
            "addresses": {"net": [{"addr": address, "OS-EXT-IPS-MAC:mac_addr": mac}]},
            "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda",
            "OS-EXT-SRV-ATTR:user_data": "cm9sZQ==",
            "OS-EXT-STS:task_state": None,
        }
        self.attachments[server_id] = []
        for device, kind in (("/dev/vdb", "data"), ("/dev/vda", "root")):
            volume = f"{name}-{kind}"
            agent = {"hw_qemu_guest_agent": "yes", "os_require_quiesce": "yes"}
            image = agent if kind == "root" else {}
            self.volumes[volume] = {
                "id": volume,
                "name": volume,
                "size": 1,
                "volume_type": "fast",
                "status": "in-use",
                "metadata": {"kind": kind},
                "bootable": str(kind == "root").lower(),
                "volume_image_metadata": image,
                "availability_zone": "nova",
                "description": "",
                "created_at": "2026-01-01",
                "os-vol-host-attr:host": "host@rbd#pool",
                NAME_ID: None,
            }
            self.attachments[server_id].append(
                {"volumeId": volume, "device": device, "delete_on_termination": False, "tag": None}
            )
        self.ports[f"port-{server_id}"] = {
            "id": f"port-{server_id}",
            "name": "",
            "network_id": "net-1",
            "mac_address": mac,
            "device_id": server_id,
            "fixed_ips": [{"ip_address": address, "subnet_id": "subnet-1"}],
            "security_groups": ["group-1"],
            "description": "",
        }
        return server_id

    def boots_from_image(self, server_id: str, content: bytes) -> str:
        """Have a server boot from an image, and `content` be on its disk; the id of the image."""
        image = f"base-of-{server_id}"
        properties = {"hw_qemu_guest_agent": "yes", "os_require_quiesce": "yes"}
        self.images[image] = {
            "id": image,
            "name": image,
            "owner": "others",
            "visibility": "public",
            "disk_format": "qcow2",
            **properties,
        }
        self._keep_image(image, b"as it was when it booted")
        self.servers[server_id]["image"] = {"id": image}
        self.servers[server_id]["flavor"] |= {"disk": 1}
        self.attachments[server_id] = [
            a for a in self.attachments[server_id] if a["device"] != "/dev/vda"
        ]
        self.root_disks[server_id] = content
        return image

    def _keep_image(self, image: str, content: bytes) -> None:
        self.images[image] |= {
            "status": "active",
            "content": content,
            "size": len(content),
            "os_hash_algo": "sha512",
            "os_hash_value": hashlib.sha512(content).hexdigest(),
        }

    def add_backup(self, volume: str, **fields: Any) -> str:
        """Somebody makes a backup of a volume."""
        # a backup of a snapshot gets known at another site, where no other may have its id
        by_antipode = "backup" if self.site.name == "site-a" else f"backup-of-{self.site.name}"
        maker = by_antipode if "snapshot_id" in fields else self.site.name
        backup_id = f"{maker}-{next(self.ids)}"
        self.backups[backup_id] = {
            **deepcopy(A_BACKUP),
            "id": backup_id,
            "volume_id": volume,
            "size": self.volumes[volume]["size"],
            "parent_id": None,
            "data_timestamp": f"{next(self.clock):09}",
            **fields,
        }
        return backup_id

    def _name_of(self, volume: str) -> str:
        """The name of a volume; its id where it has none, or is not there."""
        return str(self.volumes.get(volume, {}).get("name") or volume)

    # What the services do.

    def _transport(self, service: Callable[[str, list[str], Json, Json], Any]) -> Any:
        def send(
            method: str,
            path: str,
            *,
            json: Any,
            params: Any,
            microversion: str | None,
            timeout: float | None,
        ) -> Reply:
            try:
                with self.lock:
                    return Reply(
                        200,
                        service(method, path.strip("/").split("/"), json or {}, dict(params or {})),
                    )
            except Refuse as refusal:
                return Reply(refusal.status, {"fault": {"message": refusal.reason}})

        return send

    def _happens(self, event: str) -> None:
        self.before(event)
        self.events.append(event)

    def _quota(self) -> Json:
        names = [
            "instances",
            "cores",
            "ram",
            "volumes",
            "gigabytes",
            "snapshots",
            "backups",
            "backup_gigabytes",
            "port",
        ]
        names += ["volumes_standard", "gigabytes_standard"]
        names += [n for n in self.quotas if n not in names]
        return {"quota_set": {n: {**PLENTY, **self.quotas.get(n, {})} for n in names}}

    def _compute(self, method: str, path: list[str], body: Json, params: Json) -> Any:
        match method, path:
            case "GET", ["servers", "detail"]:
                for server in self.servers.values():
                    if server["status"] == "BUILD":
                        server["status"] = "ACTIVE"
                return {"servers": list(self.servers.values())}
            case "GET", ["os-server-groups"]:
                return {
                    "server_groups": [
                        {**g, "members": self._members(g)} for g in self.server_groups
                    ]
                }
            case "GET", ["os-server-groups", group]:
                return {"server_group": next(g for g in self.server_groups if g["id"] == group)}
            case "POST", ["os-server-groups"]:
                self._happens(f"group {body['server_group']['name']}")
                self.server_groups.append({**body["server_group"], "id": f"group-{next(self.ids)}"})
                return {"server_group": self.server_groups[-1]}
            case "GET", ["os-services"]:
                return {
                    "services": [
                        {
                            "host": host,
                            "state": self.service_states.get(params["binary"], "up"),
                            "status": "enabled",
                        }
                        for host in self.hosts
                    ]
                }
            case "GET", ["os-quiesce"]:
                return (
                    {"quiesce": {"version": "1", "default_timeout": 60, "maximum_timeout": 600}}
                    if self.add_on
                    else refuse(404, "none")
                )
            case "GET", ["servers", server]:
                return {"server": {"OS-EXT-STS:vm_state": "active", **self.servers[server]}}
            case "GET", ["servers", server, "os-quiesce"]:
                return {"quiesce": {"quiesced": server in self.frozen}}
            case "GET", ["servers", server, "os-volume_attachments"]:
                return {"volumeAttachments": self.attachments[server]}
            case "GET", ["servers", server, "os-interface"]:
                plugged = [i for i, p in self.ports.items() if p["device_id"] == server]
                ports = [f"port-{server}"] if f"port-{server}" in plugged else plugged
                return {"interfaceAttachments": [{"port_id": i, "tag": None} for i in ports]}
            case "GET", ["servers", server, "diagnostics"]:
                if server not in self.nics:
                    refuse(409, "not while it is in power state shutdown")
                return {"nic_details": [{"mac_address": mac} for mac in self.nics[server]]}
            case "GET", ["servers", server, "os-instance-actions"]:
                return {"instanceActions": self.server_actions.get(server, [])}
            case "GET", ["flavors", "detail"]:
                return {"flavors": self.flavors}
            case "GET", ["os-availability-zone"]:
                return {
                    "availabilityZoneInfo": [
                        {"zoneName": z, "zoneState": {"available": True}} for z in self.zones
                    ]
                }
            case "GET", ["os-keypairs", name]:
                return (
                    {"keypair": self.keypairs[name]}
                    if name in self.keypairs
                    else refuse(404, "no such keypair")
                )
            case "POST", ["os-keypairs"]:
                if body["keypair"]["name"] in self.keypairs:
                    refuse(409, "there is a keypair of this name")
                self._happens(f"keypair {body['keypair']['name']}")
                self.keypairs[body["keypair"]["name"]] = body["keypair"]
                return body
            case "GET", ["os-quota-sets", _, "detail"]:
                return self._quota()
            case "POST", ["servers"]:
                return {
                    "server": {"id": self._boot(body["server"], body.get("os:scheduler_hints", {}))}
                }
            case "POST", ["servers", server, "metadata"]:
                self._happens(f"mark {self.servers[server]['name']}")
                self.servers[server]["metadata"] |= body["metadata"]
                return body
            case "DELETE", ["servers", server, "metadata", key]:
                self._happens(f"unmark {self.servers[server]['name']}")
                self.servers[server]["metadata"].pop(key, None)
                return None
            case "DELETE", ["servers", server]:
                self._delete_server(server)
                return None
            case "PUT", ["servers", server, "os-volume_attachments", volume]:
                self._happens(f"keep {self.volumes[volume]['name']}")
                attachment = next(a for a in self.attachments[server] if a["volumeId"] == volume)
                attachment["delete_on_termination"] = body["volumeAttachment"][
                    "delete_on_termination"
                ]
                return None
            case "POST", ["servers", server, "action"]:
                if server not in self.servers:
                    refuse(404, "no such server")
                if "os-getConsoleOutput" in body:
                    return {"output": self.console.format(**self.servers[server])}
                if "createImage" in body:
                    return {"image_id": self._create_image(server, **body["createImage"])}
                return self._action(server, *body)
        raise AssertionError(f"compute: {method} {path}")

    def _members(self, group: Json) -> list[str]:
        booted = [
            i
            for i, server in self.servers.items()
            if server.get("hints", {}).get("group") == group["id"]
        ]
        return [*group.get("members", []), *booted]

    def _boot(self, wanted: Json, hints: Json) -> str:
        """As Nova does it: volumes must be free, and so must ports."""
        disks = wanted["block_device_mapping_v2"]
        volumes = [d["uuid"] for d in disks if d["destination_type"] == "volume"]
        if (image := wanted.get("imageRef")) is not None:
            assert [d["uuid"] for d in disks if d["destination_type"] == "local"] == [image]
            if image not in self.images:
                refuse(400, f"Can not find requested image {image}")
        ports = [n["port"] for n in wanted["networks"]] if wanted["networks"] != "none" else []
        if taken := [v for v in volumes if not self._is_free(v)]:
            refuse(400, f"volume {taken[0]} is {self.volumes[taken[0]]['status']}")
        if plugged := [p for p in ports if self.ports[p]["device_id"]]:
            refuse(409, f"port {plugged[0]} is in use")
        self._happens(f"boot {wanted['name']}")
        server = f"server-{next(self.ids)}"
        self.servers[server] = {
            **deepcopy(A_SERVER),
            **wanted,
            "id": server,
            "status": "BUILD",
            "hints": hints,
            "OS-EXT-SRV-ATTR:host": self.host_of_new_servers,
            "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda",
        }
        self.attachments[server] = [
            {
                "volumeId": d["uuid"],
                "device": f"/dev/vd{letter}",
                "delete_on_termination": d["delete_on_termination"],
            }
            for letter, d in zip(string.ascii_lowercase, disks, strict=False)
            if d["destination_type"] == "volume"
        ]
        if image is not None:
            self.servers[server]["image"] = {"id": image}
            self.root_disks[server] = self.images[image]["content"]
        for volume in volumes:
            self.volumes[volume]["status"] = "in-use"
        for port in ports:
            self.ports[port]["device_id"] = server
        return server

    def share(self, volume: str, server: str) -> None:
        """Attach a volume that another server has, too."""
        self.volumes[volume]["multiattach"] = True
        taken = len(self.attachments[server])
        device = f"/dev/vd{string.ascii_lowercase[taken]}"
        self.attachments[server].append({"volumeId": volume, "device": device})

    def _is_free(self, volume: str) -> bool:
        """Whether a new server may have a volume: one that several may have is reserved for a
        server until that is built.
        """
        users = self._users(volume)
        return self.volumes[volume]["status"] == "available" or (
            bool(self.volumes[volume].get("multiattach"))
            and self.volumes[volume]["status"] == "in-use"
            and all(self.servers[s]["status"] != "BUILD" for s in users)
        )

    def _users(self, volume: str) -> list[str]:
        return [s for s, of in self.attachments.items() if volume in [a["volumeId"] for a in of]]

    def _delete_server(self, server: str) -> None:
        self._happens(f"delete server {self.servers[server]['name']}")
        del self.servers[server]
        for attachment in self.attachments.pop(server):
            if self._users(attachment["volumeId"]):
                continue
            self.volumes[attachment["volumeId"]]["status"] = (
                "deleting" if attachment["delete_on_termination"] else "detaching"
            )
        for port in self.ports.values():
            if port["device_id"] == server:
                port["device_id"] = ""

    def _action(self, server: str, action: str) -> None:
        self._happens(f"{action} {self.servers[server]['name']}")
        if "quiesce" in action:
            self.servers[server]["updated"] = f"change {next(self.changes)}"
        if action == "quiesce":
            if server in self.all_frozen:
                refuse(409, "already quiesced")
            self.frozen.add(server)
        elif action in ("os-stop", "os-start"):
            self.servers[server]["status"] = "SHUTOFF" if action == "os-stop" else "ACTIVE"
        elif action in ("lock", "unlock"):
            self.servers[server]["locked"] = action == "lock"
            done = self.server_actions.setdefault(server, [])
            done.insert(0, {"action": action, "project_id": self.site.project_id})
        else:
            self.frozen.discard(server)
            self.frozen_for_images.pop(server, None)

    @property
    def all_frozen(self) -> set[str]:
        """The servers that are frozen, by the add-on or by Nova."""
        return self.frozen | set(self.frozen_for_images)

    def _create_image(self, server: str, name: str, metadata: Json) -> str:
        """As Nova does it for a server that boots from a volume: it freezes the guest and has the
        volumes snapshot one after another. `before` hears of `freeze db` and `snapshot db-root`;
        what happened is `image db`, at the end.
        """
        if server in self.frozen:
            refuse(409, "Cannot 'createImage' instance while it is in task_state quiesced")
        if server in self.root_disks:
            return self._image_of_root_disk(server, name, metadata)
        attachments = sorted(self.attachments[server], key=lambda a: a.get("device") or "")
        properties = self.volumes[attachments[0]["volumeId"]]["volume_image_metadata"]
        if server in self.frozen_for_images and properties.get("os_require_quiesce") == "yes":
            refuse(500, "the agent is in frozen state")
        self.before(f"freeze {self.servers[server]['name']}")
        made = self.frozen_for_images.setdefault(server, [])
        for attachment in attachments:
            wanted = {"volume_id": attachment["volumeId"], "name": f"snapshot for {name}"}
            self.before(f"snapshot {attachment['volumeId']}")
            made.append(self._snapshot_of({**wanted, "metadata": {}}))
        self._happens(f"image {self.servers[server]['name']}")
        image = f"image-{next(self.ids)}"
        mapping = [
            {"source_type": "snapshot", "snapshot_id": s, "boot_index": -1 if n else 0}
            for n, s in enumerate(made[-len(attachments) :])
        ]
        self.images[image] = {
            **properties,
            **metadata,
            "id": image,
            "name": name,
            "status": "active",
            "owner": PROJECT,
            "block_device_mapping": json.dumps(mapping),
        }
        return image

    def _image_of_root_disk(self, server: str, name: str, metadata: Json) -> str:
        self._happens(f"image {self.servers[server]['name']}")
        image = f"image-{next(self.ids)}"
        base = self.images.get(self.servers[server]["image"]["id"], {})
        inherited = {k: v for k, v in base.items() if k.startswith(("hw_", "os_r", "antipode:"))}
        formats = {"disk_format": "raw", "container_format": "bare"}
        self.images[image] = {
            **inherited, **metadata, **formats, "id": image, "name": name, "owner": PROJECT,
        }  # fmt: skip
        self._keep_image(image, self.root_disks[server])
        return image

    def _no_keys(self, method: str, path: list[str], body: Json, params: Json) -> Any:
        refuse(404, "the site has no key manager")

    def _image(self, method: str, path: list[str], body: Json, params: Json) -> Any:
        match method, path:
            case "GET", ["images"]:
                wanted = {k: v for k, v in params.items() if k not in ("limit", "os_hidden")}
                hidden = params.get("os_hidden", "false") == "true"
                found = [
                    i
                    for i in self.images.values()
                    if wanted.items() <= i.items() and i.get("os_hidden", False) is hidden
                ]
                return {"images": [_without_bytes(i) for i in found]}
            case "GET", ["images", image, "members", project]:
                self._happens(f"look at members of {image}")
                status = self.image_members.get((image, project))
                return {"status": status} if status else refuse(404, "no such member")
            case "GET", ["images", image]:
                return _without_bytes(self.images.get(image) or refuse(404, "no such image"))
            case "POST", ["images"]:
                self._happens(f"new image {body['name']}")
                image = f"image-{next(self.ids)}"
                queued = {"status": "queued", "owner": PROJECT, "size": None}
                self.images[image] = {**body, **queued, "id": image}
                return self.images[image]
            case "PUT", ["images", image, "file"]:
                if self.images[image]["status"] != "queued":
                    refuse(409, f"the image is {self.images[image]['status']}")
                self._happens(f"upload {self.images[image]['name']}")
                self._keep_image(image, body["content"])
                return None
            case "GET", ["images", image, "file"]:
                if image not in self.images:
                    refuse(404, "no such image")
                self.before(f"download image {self.images[image]['name'].split()[-1]}")
                return self.images[image]["content"][params.get("begin", 0) :]
            case "GET", ["info", "usage"]:
                return {"usage": self.image_limits}
            case "DELETE", ["images", image]:
                if image not in self.images:
                    refuse(404, "no such image")
                self._happens(f"delete image {self.images[image]['name'].split()[-1]}")
                del self.images[image]
                return None
        raise AssertionError(f"image: {method} {path}")

    def _volume(self, method: str, path: list[str], body: Json, params: Json) -> Any:
        match method, path:
            case "GET", ["volumes", "detail"]:
                self._age({i: b for i, b in self.backups.items() if b["snapshot_id"] is None})
                self._end_backing_up()
                listed = [self._shown(v) for v in self.volumes.values()]
                for volume in list(self.volumes.values()):
                    if volume["status"] in ("restoring-backup", "detaching"):
                        volume["status"] = "available"
                    elif volume["status"] == "deleting":
                        del self.volumes[volume["id"]]
                        self.clones.pop(f"volume-{volume['id']}", None)
                return {"volumes": listed}
            case "GET", ["volumes", volume]:
                return (
                    {"volume": self._shown(self.volumes[volume])}
                    if volume in self.volumes
                    else refuse(404, "no such volume")
                )
            case "GET", ["snapshots"]:
                return {"snapshots": []}
            case "GET", ["snapshots", "detail"]:
                self._age(self.snapshots)
                self._thaw_what_has_its_snapshots()
                return {"snapshots": list(self.snapshots.values())}
            case "GET", ["attachments" | "scheduler-stats" | "manageable_volumes" as what, _] if (
                self._asked(what)
            ):
                return refuse(403, "policy")
            case "GET", ["attachments", "detail"]:
                return {"attachments": [] if "marker" in params else self._connections()}
            case "GET", ["scheduler-stats", "get_pools"]:
                location: Json = {"location_info": f"ceph:{self.site.name}"}
                if self.snapshots_groups_at_once:
                    location |= {"consistent_group_snapshot_enabled": True}
                return {"pools": [{"name": "host@rbd#pool", "capabilities": location}]}
            case _, ["group_types" | "groups" | "group_snapshots", *_]:
                return self._of_groups(method, path, body)
            case "GET", ["manageable_volumes", "detail"]:
                return {"manageable-volumes": [] if params["offset"] else self.manageable}
            case "GET", ["backups", "detail"]:
                self._age(self.backups)
                self._end_backing_up()
                return {"backups": list(self.backups.values())}
            case "GET", ["types"]:
                return {"volume_types": self.types}
            case "GET", ["types", kind, "encryption"]:
                return dict(self.encrypted_types.get(kind, {}))
            case "GET", ["os-availability-zone"]:
                return {
                    "availabilityZoneInfo": [
                        {"zoneName": z, "zoneState": {"available": True}}
                        for z in self.volume_zones or self.zones
                    ]
                }
            case "GET", ["os-services"]:
                state = (
                    self.backup_state
                    if params["binary"] == "cinder-backup"
                    else self.service_states.get(params["binary"], "up")
                )
                host = "host@rbd" if params["binary"] == "cinder-volume" else "cinder"
                return {"services": [{"host": host, "state": state, "status": "enabled"}]}
            case "GET", ["os-quota-sets", _]:
                return self._quota()
            case "GET", ["backups", backup, "export_record"]:
                fields = {
                    k: self.backups[backup][k]
                    for k in ("id", "volume_id", "parent_id", "size", "object_count", "metadata")
                } | {"service_metadata": f"objects-of-{backup}"}
                url = base64.b64encode(json.dumps(fields).encode()).decode()
                return {"backup-record": {"backup_service": SWIFT, "backup_url": url}}
            case "POST", ["backups", "import_record"]:
                if not self.may_import:
                    refuse(403, "policy")
                try:
                    fields = json.loads(base64.b64decode(body["backup-record"]["backup_url"]))
                except ValueError:
                    refuse(400, "cannot parse the record")
                if fields["id"] in self.backups:
                    refuse(400, "there is a backup of this id")
                self._happens(f"import {fields['id']}")
                self.backups[fields["id"]] = {
                    **deepcopy(A_BACKUP),
                    **fields,
                    "status": "creating",
                    "looks": 1,
                }
                return {"backup": {"id": fields["id"]}}
            case "POST", ["snapshots"]:
                return {"snapshot": {"id": self._snapshot(body["snapshot"])}}
            case "POST", ["backups"]:
                return {"backup": {"id": self._backup(body["backup"])}}
            case "POST", ["backups", backup, "restore"]:
                return {"restore": self._restore_into(backup, body["restore"]["volume_id"])}
            case "POST", ["volumes"]:
                made = self._restore(body["volume"])
                name = body["volume"].get("volume_type")
                specs = [t.get("extra_specs", {}) for t in self.types if t["name"] == name]
                if any(each.get("multiattach") == "<is> True" for each in specs):
                    self.volumes[made]["multiattach"] = True
                return {"volume": {"id": made}}
            case "POST", ["manageable_volumes"]:
                return {"volume": {"id": self._manage(**body["volume"])}}
            case "PUT", ["volumes", volume]:
                self._happens(f"update {self.volumes[volume]['name']}")
                self.volumes[volume].update(body["volume"])
                return {"volume": self.volumes[volume]}
            case "POST", ["volumes", volume, "metadata"]:
                if volume not in self.volumes:
                    refuse(404, "no such volume")
                self._happens(f"mark volume {self.volumes[volume]['name']}")
                self.volumes[volume]["metadata"] |= body["metadata"]
                return body
            case "POST", ["volumes", volume, "action"]:
                self._happens(f"{next(iter(body))} {self.volumes[volume]['name']}")
                if "os-set_bootable" in body:
                    self.volumes[volume]["bootable"] = "true"
                else:
                    self.volumes[volume]["volume_image_metadata"] |= body["os-set_image_metadata"][
                        "metadata"
                    ]
                return None
            case "DELETE", ["volumes", volume]:
                if not self.volumes[volume]["status"].startswith(("available", "error")):
                    refuse(400, f"volume {volume} is {self.volumes[volume]['status']}")
                if self.volumes[volume].get("group_id"):
                    refuse(400, f"volume {volume} must not belong to a group")
                if any(s["volume_id"] == volume for s in self.snapshots.values()):
                    refuse(400, f"volume {volume} must not have snapshots")
                self._happens(f"delete volume {self.volumes[volume]['name']}")
                self.volumes[volume]["status"] = "deleting"
                return None
            case "DELETE", ["snapshots", snapshot]:
                if self.snapshots[snapshot].get("group_snapshot_id"):
                    refuse(400, "a snapshot must not be part of a group")
                if self.snapshots[snapshot]["status"] == "creating" or self._is_backed_up(snapshot):
                    refuse(400, "a snapshot that is being made or backed up cannot be deleted")
                self._happens(
                    f"delete snapshot of {self._name_of(self.snapshots[snapshot]['volume_id'])}"
                )
                del self.snapshots[snapshot]
                return None
            case "DELETE", ["backups", backup]:
                if any(b["parent_id"] == backup for b in self.backups.values()):
                    refuse(400, "increments rest on this backup")
                if self.backups[backup]["status"] == "creating":
                    refuse(400, "a backup that is being made cannot be deleted")
                of = self.backups[backup]["volume_id"]
                self._happens(f"delete backup of {self._name_of(of)}")
                del self.backups[backup]
                return None
        raise AssertionError(f"volume: {method} {path}")

    def _of_groups(self, method: str, path: list[str], body: Json) -> Any:
        """Cinder's volume groups, their types and snapshots."""
        match method, path:
            case "GET", ["group_types"]:
                return {"group_types": list(self.group_types.values())}
            case "GET", ["groups", "detail"]:
                for found in self.volume_groups.values():
                    if found["status"] in ("creating", "updating"):
                        found["looks"] = found.get("looks", self.looks_until_available) - 1
                        if found["looks"] <= 0:
                            found["status"] = "available"
                return {"groups": list(self.volume_groups.values())}
            case "GET", ["group_snapshots", "detail"]:
                self._age(self.snapshots)
                self._make_groups_whole()
                return {"group_snapshots": list(self.group_snapshots.values())}
            case "POST", ["group_types"]:
                self._happens(f"group type {body['group_type']['name']}")
                kind = f"group-type-{next(self.ids)}"
                self.group_types[kind] = {"id": kind, **body["group_type"]}
                return {"group_type": {"id": kind}}
            case "POST", ["groups"]:
                self._happens(f"volume group {body['group']['name']}")
                group = f"volume-group-{next(self.ids)}"
                self.volume_groups[group] = {"id": group, "status": "available", **body["group"]}
                return {"group": {"id": group}}
            case "POST", ["groups", group, "action"]:
                if any(v.get("group_id") == group for v in self.volumes.values()):
                    refuse(400, "the group is not empty")
                self._happens(f"delete volume group {self.volume_groups.pop(group)['name']}")
                return None
            case "PUT", ["groups", group]:
                if self.volume_groups[group]["status"] != "available":
                    refuse(400, "Group status must be available")
                self._happens(f"change volume group {self.volume_groups[group]['name']}")
                for volume in body["group"].get("add_volumes", "").split(","):
                    if volume:
                        self.volumes[volume]["group_id"] = group
                for volume in body["group"].get("remove_volumes", "").split(","):
                    if volume:
                        self.volumes[volume]["group_id"] = None
                return None
            case "POST", ["group_snapshots"]:
                return {"group_snapshot": {"id": self._snapshot_group(body["group_snapshot"])}}
            case "DELETE", ["group_snapshots", snapshot]:
                parts = {
                    i: s
                    for i, s in self.snapshots.items()
                    if s.get("group_snapshot_id") == snapshot
                }
                if self.group_snapshots[snapshot]["status"] not in ("available", "error"):
                    refuse(400, "GroupSnapshot status must be available or error")
                self._happens("delete group snapshot")
                for part in parts:
                    del self.snapshots[part]
                self.group_snapshots.pop(snapshot, None)
                return None
        raise AssertionError(f"groups: {method} {path}")

    def _make_groups_whole(self) -> None:
        """Group snapshots are made a moment after their parts."""
        for made in self.group_snapshots.values():
            parts = {
                s["status"]
                for s in self.snapshots.values()
                if s.get("group_snapshot_id") == made["id"]
            }
            if made["status"] == "creating" and "creating" not in parts:
                made["status"] = "error" if "error" in parts else "available"

    def _snapshot_group(self, wanted: Json) -> str:
        group = wanted["group_id"]
        self._happens(f"snapshot group {self.volume_groups[group]['name']}")
        made = f"group-snapshot-{next(self.ids)}"
        self.group_snapshots[made] = {"id": made, "status": "creating", **wanted}
        for volume in [v for v in self.volumes.values() if v.get("group_id") == group]:
            self._snapshot_of(
                {
                    "volume_id": volume["id"],
                    "name": wanted["name"],
                    "description": wanted["description"],
                    "metadata": {},
                    "group_snapshot_id": made,
                }
            )
        return made

    def _asked(self, what: str) -> bool:
        """Whether a call about back ends is refused."""
        self.asked.append(what)
        return not self.is_admin and what != "attachments"

    def _shown(self, volume: Json) -> Json:
        """A volume as its user is shown it."""
        hidden = () if self.is_admin else ("os-vol-host-attr:host", NAME_ID)
        attached = [{"server_id": s} for s in self._users(volume["id"])]
        shown = {"attachments": attached, **volume}
        if volume.get("multiattach") and any(
            self.servers[s["server_id"]]["status"] == "BUILD" for s in attached
        ):
            shown["status"] = "reserved"
        return {k: v for k, v in shown.items() if k not in hidden}

    def _connections(self) -> list[Json]:
        """The volumes of all servers as RBD's driver connects them."""
        return [
            {
                "id": f"{server}-{a['volumeId']}",
                "volume_id": a["volumeId"],
                "instance": server,
                "connection_info": self.connections.get(
                    a["volumeId"],
                    {
                        "driver_volume_type": "rbd",
                        "name": f"volumes/volume-{a['volumeId']}",
                        "auth_password": SECRET,
                        "keyring": SECRET,
                    },
                ),
            }
            for server, attached in self.attachments.items()
            for a in attached
        ]

    def _manage(self, ref: Json, **wanted: Any) -> str:
        """Take over a clone of its storage, which gets the name of the volume; what is not there
        ends in `error`.
        """
        self._happens(f"manage {wanted['name']}")
        volume, name = f"managed-{next(self.ids)}", ref["source-name"]
        there = name in self.clones
        self.volumes[volume] = {
            "volume_image_metadata": {},
            "description": "",
            "volume_type": "",
            "availability_zone": "nova",
            "created_at": "2026-01-01",
            **wanted,
            "id": volume,
            "size": 1,
            "status": "available" if there else "error",
            "bootable": str(wanted["bootable"]).lower(),
            "os-vol-host-attr:host": wanted["host"],
        }
        if there:
            self.clones[f"volume-{volume}"] = self.clones.pop(name)
        return volume

    def _age(self, resources: dict[str, Json]) -> None:
        for resource in resources.values():
            if resource["status"] == "creating":
                resource["looks"] -= 1
                if resource["looks"] <= 0:
                    resource["status"] = resource.get("becomes", "available")

    def _thaw_what_has_its_snapshots(self) -> None:
        """Nova looks for itself; here it does so whenever anybody lists the snapshots."""
        for server, made in list(self.frozen_for_images.items()):
            if all(self.snapshots.get(s, {}).get("status") != "creating" for s in made):
                del self.frozen_for_images[server]

    def _snapshot(self, wanted: Json) -> str:
        self._happens(f"snapshot {self.volumes[wanted['volume_id']]['name']}")
        return self._snapshot_of(wanted)

    def _snapshot_of(self, wanted: Json) -> str:
        snapshot = f"snapshot-{next(self.ids)}"
        self.snapshots[snapshot] = {
            **wanted,
            "id": snapshot,
            "status": "creating",
            "looks": self.looks_until_available,
        }
        self.snapshots[snapshot]["created_at"] = f"{next(self.clock):09}"
        return snapshot

    def _backup(self, wanted: Json) -> str:
        """As Cinder does it: the parent is the available backup of the volume with the newest data
        before the snapshot.
        """
        volume = wanted["volume_id"]
        if "snapshot_id" not in wanted:
            return self._backup_of_volume(wanted)
        if wanted["snapshot_id"] not in self.snapshots:
            refuse(404, "no such snapshot")
        if self._is_backed_up(wanted["snapshot_id"]):
            refuse(400, "the snapshot is backing-up")
        kind = "incremental" if wanted["incremental"] else "full"
        self._happens(f"{kind} backup {self.volumes[volume]['name']}")
        at = self.snapshots[wanted["snapshot_id"]]["created_at"]
        older = [
            b
            for b in self.backups.values()
            if b["volume_id"] == volume and b["status"] == "available" and b["data_timestamp"] < at
        ]
        if wanted["incremental"] and not older:
            refuse(400, "Invalid backup: No backups available to do an incremental backup.")
        parent = (
            max(older, key=lambda b: b["data_timestamp"])["id"] if wanted["incremental"] else None
        )
        return self.add_backup(
            volume,
            parent_id=parent,
            metadata=wanted["metadata"],
            status="creating",
            looks=self.looks_until_available,
            data_timestamp=at,
            snapshot_id=wanted["snapshot_id"],
        )

    def _end_backing_up(self) -> None:
        """Volumes whose backups are made are available again."""
        under_way = {b["volume_id"] for b in self.backups.values() if b["status"] == "creating"}
        for volume in self.volumes.values():
            if volume["status"] == "backing-up" and volume["id"] not in under_way:
                volume["status"] = "available"

    def _backup_of_volume(self, wanted: Json) -> str:
        """A full backup of a volume that is attached to nothing."""
        volume = self.volumes.get(wanted["volume_id"]) or refuse(404, "no such volume")
        if volume["status"] != "available":
            refuse(400, f"the volume is {volume['status']}")
        self._happens(f"full backup {volume['name']}")
        volume["status"] = "backing-up"
        return self.add_backup(
            wanted["volume_id"],
            metadata=wanted["metadata"],
            status="creating",
            looks=self.looks_until_available,
        )

    def _is_backed_up(self, snapshot: str) -> bool:
        """Whether a backup of it is under way: to Cinder its status is then backing-up."""
        return any(
            b.get("snapshot_id") == snapshot and b["status"] == "creating"
            for b in self.backups.values()
        )

    def _restore(self, wanted: Json) -> str:
        backup = wanted.get("backup_id")
        self._happens(f"restore {wanted['name']}" if backup else f"volume {wanted['name']}")
        if backup and self.backups[backup]["status"] != "available":
            refuse(400, "Invalid backup: Backup status must be available")
        volume = f"volume-{next(self.ids)}"
        created_at = f"2026-01-01T00:00:00.{next(self.clock):06}"
        # A restore puts the metadata of the backup in the place of those given.
        self.volumes[volume] = {
            "volume_type": None,
            **wanted,
            "id": volume,
            "status": "restoring-backup" if backup else "available",
            "metadata": {"src_backup_id": backup} if backup else wanted["metadata"],
        }
        self.volumes[volume] |= {
            "bootable": "false",
            "volume_image_metadata": {},
            "created_at": created_at,
        }
        return volume

    def _restore_into(self, backup: str, volume_id: str) -> Json:
        if volume_id not in self.volumes:
            refuse(404, "no such volume")
        volume = self.volumes[volume_id]
        if self.backups[backup]["status"] != "available":
            refuse(400, "Invalid backup: Backup status must be available")
        if volume["status"] != "available":
            refuse(400, f"volume is {volume['status']}")
        self._happens(f"restore {volume['name']}")
        volume |= {
            "status": "restoring-backup",
            "metadata": {"src_backup_id": backup},
            "backup_id": backup,
            "written": True,
        }
        return {"backup_id": backup, "volume_id": volume_id, "volume_name": volume["name"]}

    def _rows(self, collection: str) -> list[Json]:
        return {"networks": self.networks, "subnets": self.subnets, "security-groups": self.groups}[
            collection
        ]

    def _of(self, rows: list[Json], item: str) -> Json:
        return next((r for r in rows if r["id"] == item), None) or refuse(404, f"no {item}")

    def _made(self, what: str, rows: list[Json], wanted: Json) -> Json:
        """A network, subnet or group, as Neutron makes it: without tags."""
        self._happens(f"{what} {wanted['name']}")
        made = {"tags": [], "project_id": self.site.project_id, **wanted}
        rows.append(made | {"id": f"made-{next(self.ids)}"})
        return rows[-1]

    def _serve_addresses(self, subnet: Json) -> None:
        """Neutron has a port of its own where DHCP serves."""
        port = f"port-dhcp-{subnet['id']}"
        self.ports[port] = {
            **A_PORT,
            "id": port,
            "network_id": subnet["network_id"],
            "mac_address": f"fa:16:3d:{subnet['id']}",
            "device_owner": "network:dhcp",
            "device_id": f"dhcp-{subnet['id']}",
        }

    def _network(self, method: str, path: list[str], body: Json, params: Json) -> Any:
        def chosen(items: Any) -> list[Json]:
            wanted = {
                k: v if isinstance(v, list) else [v] for k, v in params.items() if k != "project_id"
            }
            if (of := params.get("project_id")) is not None:
                items = [i for i in items if i.get("project_id", of) == of]
            return [i for i in items if all(i.get(k) in v for k, v in wanted.items())]

        match method, path:
            case "GET", ["ports"]:
                return {"ports": chosen([{"status": wired(p), **p} for p in self.ports.values()])}
            case "GET", ["extensions"]:
                return {"extensions": [{"alias": alias} for alias in self.extensions]}
            case "GET", ["qos", "policies"]:
                return {"policies": self.policies}
            case "GET", ["trunks"]:
                return {"trunks": chosen(self.trunks.values())}
            case "POST", ["trunks"]:
                parent = body["trunk"]["port_id"]
                if any(t["port_id"] == parent for t in self.trunks.values()):
                    refuse(409, "the port is in a trunk")
                self._happens(f"trunk {self.ports[parent]['mac_address']}")
                trunk = f"trunk-{next(self.ids)}"
                self.trunks[trunk] = {"tags": [], **body["trunk"], "id": trunk}
                self.ports[parent]["trunk_details"] = {"trunk_id": trunk}
                return {"trunk": {"id": trunk}}
            case "PUT", ["trunks", trunk, "tags"]:
                self.trunks[trunk]["tags"] = body["tags"]
                return None
            case "DELETE", ["trunks", trunk]:
                self._happens(f"delete trunk {trunk}")
                self.ports[self.trunks.pop(trunk)["port_id"]]["trunk_details"] = None
                return None
            case "GET", ["floatingips"]:
                return {"floatingips": self.floating_ips}
            case "PUT", ["floatingips", floating]:
                self._happens(f"associate {floating}")
                row = next(f for f in self.floating_ips if f["id"] == floating)
                row.update(body["floatingip"])
                return {"floatingip": row}
            case "GET", ["agents"]:
                return {"agents": self.network_agents}
            case "GET", ["networks"]:
                return {"networks": chosen(self.networks)}
            case "GET", ["subnets"]:
                return {"subnets": chosen(self.subnets)}
            case "GET", ["security-groups"]:
                return {"security_groups": self.groups}
            case "GET", ["routers" | "address-groups"]:
                return {path[0].replace("-", "_"): []}
            case "POST", ["networks"]:
                return {"network": self._made("network", self.networks, body["network"])}
            case "POST", ["subnets"]:
                wanted = body["subnet"]
                self._of(self.networks, wanted["network_id"])
                if any(
                    (s["network_id"], s["cidr"]) == (wanted["network_id"], wanted["cidr"])
                    for s in self.subnets
                ):
                    refuse(400, "Requested subnet overlaps with another subnet")
                return {"subnet": self._made("subnet", self.subnets, wanted)}
            case "POST", ["security-groups"]:
                born = {"direction": "egress", "ethertype": "IPv4", "id": f"rule-{next(self.ids)}"}
                wanted = {**body["security_group"], "security_group_rules": [born]}
                return {"security_group": self._made("security group", self.groups, wanted)}
            case "POST", ["security-group-rules"]:
                self._happens("rules")
                for rule in body["security_group_rules"]:
                    group = self._of(self.groups, rule["security_group_id"])
                    if any(
                        rule.items() <= there.items() for there in group["security_group_rules"]
                    ):
                        refuse(409, "Security group rule already exists")
                    group["security_group_rules"].append({**rule, "id": f"rule-{next(self.ids)}"})
                return None
            case "DELETE", ["security-group-rules", rule]:
                self._happens("delete rule")
                for group in self.groups:
                    rules = group.get("security_group_rules", [])
                    rules[:] = [r for r in rules if r["id"] != rule]
                return None
            case "PUT", ["networks" | "subnets" | "security-groups", item, "tags"]:
                self._happens(f"tags of {path[0]}")
                self._of(self._rows(path[0]), item)["tags"] = body["tags"]
                return None
            case "PUT", ["networks" | "subnets" | "security-groups", item]:
                self._happens(f"change of {path[0]}")
                row = self._of(self._rows(path[0]), item)
                row.update(next(iter(body.values())))
                if path[0] == "subnets" and row.get("enable_dhcp"):
                    self._serve_addresses(row)
                return None
            case "DELETE", ["networks" | "security-groups", item]:
                using = {
                    i: p.get("device_owner")
                    for i, p in self.ports.items()
                    if item in (p["network_id"], *p.get("security_groups", []))
                }
                if set(using.values()) - {"network:dhcp"}:
                    refuse(409, f"{item} is in use")
                self._happens(f"delete of {path[0]}")
                self._rows(path[0]).remove(self._of(self._rows(path[0]), item))
                self.ports = {i: p for i, p in self.ports.items() if i not in using}
                self.subnets = [s for s in self.subnets if s["network_id"] != item]
                return None
            case "GET", ["quotas", _, "details.json"]:
                return {"quota": self._quota()["quota_set"]}
            case "POST", ["ports"]:
                port = f"port-{next(self.ids)}"
                wanted = {"mac_address": f"fa:16:3f:{port}", **body["port"]}
                if any(
                    (p["network_id"], p["mac_address"])
                    == (wanted["network_id"], wanted["mac_address"])
                    for p in self.ports.values()
                ):
                    refuse(409, "the MAC address is in use")
                if wanted["network_id"] not in {n["id"] for n in self.networks}:
                    refuse(404, f"network {wanted['network_id']} could not be found")
                if wanted.get("binding:profile") is not None:
                    refuse(403, "rule:create_port:binding:profile is disallowed by policy")
                self._happens(f"port {wanted['mac_address']}")
                self.ports[port] = {**wanted, "id": port, "device_id": ""}
                return {"port": {"id": port}}
            case "PUT", ["ports", port, "tags"]:
                self._happens(f"tag {self.ports[port]['mac_address']}")
                self.ports[port]["tags"] = body["tags"]
                return None
            case "PUT", ["ports", port]:
                self._happens(f"describe {self.ports[port]['mac_address']}")
                self.ports[port] |= body["port"]
                return None
            case "DELETE", ["ports", port]:
                below = [s["port_id"] for t in self.trunks.values() for s in t["sub_ports"]]
                if self.ports[port].get("trunk_details") or port in below:
                    refuse(409, "the port is part of a trunk")
                self._happens(f"delete port {self.ports[port]['mac_address']}")
                del self.ports[port]
                return None
        raise AssertionError(f"network: {method} {path}")


def _without_bytes(image: Json) -> Json:
    return {k: v for k, v in image.items() if k != "content"}


class CalledStreams:
    """The bytes of images as bodies of calls, whole; an `ImageStreams`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    @contextmanager
    def read(self, image_id: str, begin: int = 0) -> Iterator[Iterator[bytes]]:
        content = self._api.call("GET", f"/images/{image_id}/file", params={"begin": begin})
        yield iter([content[i : i + 7] for i in range(0, len(content), 7)])

    def write(self, image_id: str, content: Content) -> None:
        whole = b"".join(content)
        self._api.call("PUT", f"/images/{image_id}/file", {"content": whole})


class Refuse(Exception):
    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(reason)


def refuse(status: int, reason: str) -> Any:
    raise Refuse(status, reason)


class FakeLedger:
    """A freeze ledger that remembers who is on it."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.frozen_rightly: set[tuple[str, str]] = set()
        self.deadlines: list[datetime] = []
        """the earliest moment that each can be"""
        self.overdue: list[str] = []
        self.may_write: Callable[[str], None] = lambda server: None

    def freezing(self, site: str, server_id: str, server: str, lasts_s: float) -> str:
        self.may_write(server)
        self.open.append(server)
        self.frozen_rightly.add((site, server_id))
        self.deadlines.append(datetime.now(UTC) + timedelta(seconds=lasts_s))
        return server

    def thawed(self, row: str) -> None:
        self.open.remove(row)

    def due(self, row: str) -> None:
        assert row in self.open
        self.overdue.append(row)

    def is_frozen_rightly(self, site: str, server_id: str) -> bool:
        return (site, server_id) in self.frozen_rightly


class FakeTimeline:
    """A timeline that keeps number, name and resource of each step, and its facts."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str, str]] = []
        self.facts: dict[tuple[str, str], dict[str, object]] = {}
        self.errors: dict[tuple[str, str], str] = {}

    @contextmanager
    def step(self, name: StepName, resource: str = "") -> Iterator[Any]:
        number = name.number
        self.steps.append((number, name.words, resource))
        timeline = self

        class Step:
            def result(self, **facts: object) -> None:
                timeline.facts[(number, resource)] = facts

            def waits_for(self, what: str) -> None:
                """Waits are told to people; see test_watch."""

        yield Step()

    def past(
        self,
        name: StepName,
        resource: str,
        *,
        started: datetime,
        ended: datetime,
        error: str | None = None,
        **facts: object,
    ) -> None:
        assert started <= ended
        number = name.number
        self.steps.append((number, name.words, resource))
        self.facts[(number, resource)] = facts
        if error:
            self.errors[(number, resource)] = error
