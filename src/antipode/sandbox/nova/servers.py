# SPDX-License-Identifier: Apache-2.0
"""Servers: listed, shown, switched on and off, deleted; and what the parts of Nova share about
them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from antipode.sandbox.cinder.snapshots import Snapshots
from antipode.sandbox.cinder.storage import Storage
from antipode.sandbox.cinder.volumes import Volumes
from antipode.sandbox.conditions import Conditions, OperationFailed
from antipode.sandbox.database import Database, Json
from antipode.sandbox.glance import Glance
from antipode.sandbox.guests import Disks, Hypervisor, Machine
from antipode.sandbox.http import Call, Caller, Part, Refused, Route, Version, page
from antipode.sandbox.neutron.service import Neutron
from antipode.sandbox.nova.flavors import EPHEMERAL
from antipode.sandbox.nova.server_groups import ServerGroups
from antipode.sandbox.quotas import Quotas
from antipode.sandbox.work import Work

LOG = logging.getLogger(__name__)

TASK = "OS-EXT-STS:task_state"
AGENT = "hw_qemu_guest_agent"
_WITH_METADATA = ("active", "paused", "suspended", "stopped")
"""The states in which the metadata of a server may be changed."""


@dataclass(frozen=True)
class Infrastructure:
    """The parts of a site that servers are built from."""

    hypervisor: Hypervisor
    storage: Storage
    volumes: Volumes
    snapshots: Snapshots
    neutron: Neutron
    glance: Glance


class Servers(Part):
    def __init__(
        self,
        site: str,
        database: Database,
        conditions: Conditions,
        work: Work,
        infrastructure: Infrastructure,
        groups: ServerGroups,
        quotas: Quotas,
    ) -> None:
        self.site = site
        self.conditions = conditions
        self.start = work.start
        self.hypervisor = infrastructure.hypervisor
        self.table = database.table("server")
        self._storage = infrastructure.storage
        self._neutron = infrastructure.neutron
        self._groups = groups
        self._quotas = quotas
        quotas.count(self._usage_of)

    def routes(self) -> Sequence[Route]:
        servers = "/v2.1/servers"
        return [
            Route("GET", servers, self._list),
            Route("GET", f"{servers}/detail", self._list),
            Route("GET", f"{servers}/{{item}}", self._show),
            Route("DELETE", f"{servers}/{{item}}", self._delete, 204),
            Route("POST", f"{servers}/{{item}}/metadata", self._add_metadata),
            Route("DELETE", f"{servers}/{{item}}/metadata/{{key}}", self._remove_metadata, 204),
            Route("GET", f"{servers}/{{item}}/diagnostics", self._diagnostics, admin=True),
        ]

    def _usage_of(self, project: str) -> dict[str, int]:
        flavors = [s["_flavor"] for s in self.table if s["tenant_id"] == project]
        return {
            "instances": len(flavors),
            "cores": sum(f["vcpus"] for f in flavors),
            "ram": sum(f["ram"] for f in flavors),
        }

    def begin_again(self) -> None:
        """After the site's machines have come back: guests are off until somebody starts them, what
        was being done is done or failed.
        """
        for server in self.table:
            if server[TASK] == "deleting":
                self.start(self._remove(server))
            elif server["status"] == "BUILD":
                self.fault(server, "Build of instance aborted: the compute service was restarted")
            elif server["status"] == "ACTIVE":
                self.become(server, "SHUTOFF", "stopped")

    def find(self, call: Call, server_id: str) -> Json:
        server = self.table.get(server_id)
        if server is None or not call.caller.may_see(server):
            raise Refused(404, f"Instance {server_id} could not be found.")
        return server

    async def _list(self, call: Call) -> Json:
        everybody = call.caller.is_admin and call.query.get("all_tenants", "").lower() in (
            "1",
            "true",
        )
        found = [s for s in self.table if everybody or s["tenant_id"] == call.caller.project_id]
        if name := call.query.get("name"):
            found = [s for s in found if re.search(name, s["name"])]
        if status := call.query.get("status"):
            found = [s for s in found if s["status"] == status.upper()]
        if call.request.path.endswith("/detail"):
            return page(call, "servers", found, lambda s: self._view(s, call.caller, call.version))
        return page(
            call, "servers", found, lambda s: {"id": s["id"], "name": s["name"], "links": []}
        )

    async def _show(self, call: Call, item: str) -> Json:
        server = self.find(call, item)
        groups = {"server_groups": self._groups.of(item)} if call.version >= (2, 71) else {}
        return {"server": self._view(server, call.caller, call.version) | groups}

    def _view(self, server: Json, caller: Caller, version: Version) -> Json:
        flavor = server["_flavor"]
        embedded = {
            "original_name": flavor["name"],
            "vcpus": flavor["vcpus"],
            "ram": flavor["ram"],
            "disk": flavor["disk"],
            "ephemeral": flavor[EPHEMERAL],
            "swap": flavor["swap"],
            "extra_specs": flavor["extra_specs"],
        }
        shown: Json = {
            k: v
            for k, v in server.items()
            if not k.startswith(("_", "OS-EXT-SRV-ATTR", "project_id"))
        }
        shown |= {
            "flavor": embedded if version >= (2, 47) else {"id": flavor["id"], "links": []},
            "addresses": self._addresses(server),
            "os-extended-volumes:volumes_attached": [
                {"id": a["volume_id"], "delete_on_termination": a["delete_on_termination"]}
                for a in server["_attachments"]
            ],
        }
        if version >= (2, 96):
            shown["pinned_availability_zone"] = server["_pinned_zone"]
        if version >= (2, 98) and shown["image"]:
            shown["image"] = {**shown["image"], "properties": {}}
        if version >= (2, 100):
            shown["scheduler_hints"] = server["_hints"]
        if caller.is_admin:
            attributes = {k: v for k, v in server.items() if k.startswith("OS-EXT-SRV-ATTR")}
            shown |= attributes if version >= (2, 3) else {}
        elif version >= (2, 90):
            shown["OS-EXT-SRV-ATTR:hostname"] = server["OS-EXT-SRV-ATTR:hostname"]
        if server["status"] != "ERROR":
            shown.pop("fault", None)
        return shown

    def _addresses(self, server: Json) -> Json:
        found: dict[str, list[Json]] = {}
        for interface in server["_ports"]:
            port = self._neutron.ports.get(interface["port_id"])
            network = port and self._neutron.networks.get(port["network_id"])
            if port and network:
                found.setdefault(network["name"], [])
                for fixed in port["fixed_ips"]:
                    row = {
                        "addr": fixed["ip_address"],
                        "version": 6 if ":" in fixed["ip_address"] else 4,
                        "OS-EXT-IPS:type": "fixed",
                    }
                    found[network["name"]].append(
                        {**row, "OS-EXT-IPS-MAC:mac_addr": port["mac_address"]}
                    )
        return found

    async def _diagnostics(self, call: Call, item: str) -> Json:
        """What the hypervisor knows of a server; of it only the interfaces, in the order of the
        guest's.
        """
        server = self.find(call, item)
        if (state := server["OS-EXT-STS:vm_state"]) != "active":
            raise Refused(
                409, f"Cannot 'get_diagnostics' instance {item} while it is in vm_state {state}"
            )
        ports = (self._neutron.ports.get(i["port_id"]) for i in server["_ports"])
        nics = [{"mac_address": port["mac_address"]} for port in ports if port]
        return {"state": "running", "driver": "libvirt", "nic_details": nics}

    async def _add_metadata(self, call: Call, item: str) -> Json:
        server = self._with_metadata(call, item, "update_instance_metadata")
        metadata = {**server["metadata"], **call.part("metadata")}
        self.refuse_metadata(call.caller.project_id, metadata)
        self.table.keep(server, metadata=metadata)
        return {"metadata": metadata}

    async def _remove_metadata(self, call: Call, item: str, key: str) -> None:
        server = self._with_metadata(call, item, "delete_instance_metadata")
        if key not in server["metadata"]:
            raise Refused(404, "Metadata item was not found")
        self.table.keep(server, metadata={k: v for k, v in server["metadata"].items() if k != key})

    def _with_metadata(self, call: Call, item: str, action: str) -> Json:
        """A server whose metadata may be changed now."""
        server = self.find(call, item)
        self.refuse_locked(server, call.caller)
        if (state := server["OS-EXT-STS:vm_state"]) not in _WITH_METADATA:
            raise Refused(409, f"Cannot '{action}' instance {item} while it is in vm_state {state}")
        return server

    async def _delete(self, call: Call, item: str) -> None:
        server = self.find(call, item)
        self.refuse_locked(server, call.caller)
        if server[TASK] == "deleting":
            return
        self.table.keep(server, **{TASK: "deleting"})
        self.start(self._remove(server))

    async def _remove(self, server: Json) -> None:
        self.hypervisor.stop(server["id"])
        try:
            await self.conditions.take("server.delete")
        except OperationFailed as error:
            self.fault(server, str(error))
            return
        self._storage.free_reserved(server["id"])
        for attachment in server["_attachments"]:
            if volume := self._storage.volumes.get(attachment["volume_id"]):
                self._storage.detach(volume, server["id"])
                if attachment["delete_on_termination"] and not volume["attachments"]:
                    self._storage.remove_volume(volume)
        self._storage.disk_path(server["id"]).unlink(missing_ok=True)
        for interface in server["_ports"]:
            port = self._neutron.ports.get(interface["port_id"])
            if port and interface["made"]:
                self._neutron.ports.drop(port["id"])
            elif port:
                free = {
                    "device_id": "",
                    "device_owner": "",
                    "status": "DOWN",
                    "binding:host_id": "",
                    "binding:vif_type": "unbound",
                    "dns_name": "",
                }
                self._neutron.ports.keep(port, **free)
        self._groups.leave(server["id"])
        self.table.drop(server["id"])

    def refuse_task(self, server: Json, action: str) -> None:
        if task := server[TASK]:
            raise Refused(
                409, f"Cannot '{action}' instance {server['id']} while it is in task_state {task}"
            )

    def refuse_locked(self, server: Json, caller: Caller) -> None:
        if server["locked"] and not caller.is_admin:
            raise Refused(409, f"Instance {server['id']} is locked")

    def refuse_lock_of_others(self, server: Json, caller: Caller) -> None:
        """Refuse that a caller unlocks what was locked from another project than its own, and the
        other way round (`is_expected_locked_by`), unless it is an administrator.
        """
        locks = (done for done in server.get("_done", []) if done["action"] in ("lock", "unlock"))
        locked_from = next((done["project_id"] for done in locks), None)
        is_owners = locked_from == server["tenant_id"]
        expected = caller.project_id == server["tenant_id"]
        if server["locked"] and locked_from and is_owners != expected and not caller.is_admin:
            rule = "os_compute_api:os-lock-server:unlock:unlock_override"
            raise Refused(403, f"Policy doesn't allow {rule} to be performed.")

    def note(self, server: Json, caller: Caller, action: str) -> None:
        """Keep that something is done to a server, and by whom."""
        done = {
            "action": action,
            "project_id": caller.project_id,
            "instance_uuid": server["id"],
            "user_id": caller.user_id,
            "start_time": self.conditions.timestamp(),
            "message": None,
        }
        self.table.keep(server, _done=[done, *server.get("_done", [])])

    def has_agent(self, server: Json) -> bool:
        if server["image"]:
            return says_yes(server["_image_properties"].get(AGENT))
        root = (
            self._storage.volumes.get(server["_attachments"][0]["volume_id"])
            if server["_attachments"]
            else None
        )
        return says_yes((root or {}).get("volume_image_metadata", {}).get(AGENT))

    def power_on(self, server: Json) -> None:
        self.become(server, "ACTIVE", "active")
        volumes = [a["volume_id"] for a in server["_attachments"]]
        root = [self._storage.disk_path(server["id"])] if server["image"] else []
        disks = Disks(
            lambda: [*root, *(self._storage.path(v) for v in volumes)],
            [self._storage.writing[v] for v in [*(server["id"] for _ in root), *volumes]],
        )

        def addresses() -> list[tuple[str, str]]:
            return [
                (port["network_id"], fixed["ip_address"])
                for interface in server["_ports"]
                if (port := self._neutron.ports.get(interface["port_id"]))
                and port["admin_state_up"]
                for fixed in port["fixed_ips"]
            ]

        user_data = server["OS-EXT-SRV-ATTR:user_data"] if server["config_drive"] else None
        self.hypervisor.start(Machine(server["id"], server["name"], user_data, disks, addresses))

    def power_off(self, server: Json) -> None:
        self.hypervisor.stop(server["id"])
        self.become(server, "SHUTOFF", "stopped")

    def become(self, server: Json, status: str, vm_state: str, task: str | None = None) -> None:
        power = {"active": 1, "stopped": 4, "error": 0}.get(vm_state, 0)
        changes = {"OS-EXT-STS:vm_state": vm_state, TASK: task, "OS-EXT-STS:power_state": power}
        self.table.keep(server, status=status, updated=self.conditions.timestamp(), **changes)

    def fault(self, server: Json, message: str) -> None:
        LOG.warning("%s: server %s: %s", self.site, server["id"], message)
        self._storage.free_reserved(server["id"])
        self.become(server, "ERROR", "error")
        self.table.keep(
            server, fault={"code": 500, "created": self.conditions.timestamp(), "message": message}
        )

    def attach(self, server: Json, volume: Json, wanted: Json) -> Json:
        """Attach a volume as the next device; `wanted` has its tag, and whether it ends with the
        server.
        """
        flavor, names = server["_flavor"], [f"/dev/vd{letter}" for letter in ascii_lowercase]
        used = {a["device"] for a in server["_attachments"]}
        used |= set(names[:1]) if server["image"] else set()
        # these disks of the hypervisor come after the root disk
        used |= set(names[1 : 1 + bool(flavor[EPHEMERAL]) + bool(flavor["swap"])])
        device = next(d for d in names if d not in used)
        row = {
            "id": self._storage.attach(volume, server["id"], device),
            "volume_id": volume["id"],
            "device": device,
            "tag": wanted.get("tag"),
        }
        row["delete_on_termination"] = bool(wanted.get("delete_on_termination"))
        self.table.keep(server, _attachments=[*server["_attachments"], row])
        return row

    def reserve(self, project: str, flavor: Json) -> None:
        """See that the quotas of a project allow a server of that flavor; refused with 403 when one
        does not.
        """
        needed = {"instances": 1, "cores": flavor["vcpus"], "ram": flavor["ram"]}
        if over := self._quotas.exceeded(project, needed):
            words = (
                f"Requested {needed[over.name]}, but already used {over.used} of "
                f"{over.limit} {over.name}"
            )
            raise Refused(403, f"Quota exceeded for {over.name}: {words}")

    def refuse_metadata(self, project: str, metadata: Json) -> None:
        """Refuse with 403 that one server has more metadata than the quota of a project allows."""
        if over := self._quotas.exceeded(project, {"metadata_items": len(metadata)}):
            raise Refused(403, f"Maximum number of metadata items exceeds {over.limit}")


def says_yes(value: object) -> bool:
    """Whether a property of an image is set."""
    return str(value or "").lower() in ("yes", "true", "1")
