"""Nova of an embedded site: servers and what belongs to them, and the quiesce add-on's actions."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import uuid
from collections.abc import Sequence

from aiohttp import web

from antipode.sandbox.cinder import Cinder
from antipode.sandbox.conditions import Conditions, OperationFailed
from antipode.sandbox.database import Database, Json
from antipode.sandbox.guests import Disks, Hypervisor, Machine
from antipode.sandbox.http import Call, Caller, Refused, Route, Service, Version, fault_of, page
from antipode.sandbox.neutron import Neutron
from antipode.sandbox.quiescing import STATES, TASK, Quiescing, asked_timeout
from antipode.sandbox.work import Work

LOG = logging.getLogger(__name__)

ZONE = "nova"
QUOTAS = {
    "instances": 200,
    "cores": 400,
    "ram": 2_000_000,
    "key_pairs": 100,
    "metadata_items": 128,
    "server_groups": 10,
    "server_group_members": 10,
}
AGENT = "hw_qemu_guest_agent"


class Nova(Service):
    type = "compute"
    prefix = "/compute"
    oldest = (2, 1)
    newest = (2, 103)

    def __init__(
        self,
        site: str,
        database: Database,
        conditions: Conditions,
        cinder: Cinder,
        neutron: Neutron,
        hypervisor: Hypervisor,
        work: Work,
        add_on: bool,
    ) -> None:
        self.servers = database.table("server")
        self.flavors = database.table("flavor")
        self._keypairs = database.table("keypair")
        self._groups = database.table("server_group")
        self._limits = database.table("compute_quota")
        self._site = site
        self._conditions = conditions
        self._cinder = cinder
        self._neutron = neutron
        self._hypervisor = hypervisor
        self._add_on = add_on
        self._work = work
        self._quiescing = Quiescing(self.servers, conditions, hypervisor, self._has_agent)

    def routes(self) -> Sequence[Route]:
        v2 = "/v2.1"
        return [
            Route("GET", "/", self._versions, open=True),
            Route("GET", "/v2.1", self._version, open=True),
            Route("GET", "/v2.1/", self._version, open=True),
            Route("GET", f"{v2}/servers", self._list),
            Route("GET", f"{v2}/servers/detail", self._list),
            Route("POST", f"{v2}/servers", self._create, 202),
            Route("GET", f"{v2}/servers/{{item}}", self._show),
            Route("DELETE", f"{v2}/servers/{{item}}", self._delete, 204),
            Route("POST", f"{v2}/servers/{{item}}/action", self._act, 202),
            Route("POST", f"{v2}/servers/{{item}}/metadata", self._add_metadata),
            Route("GET", f"{v2}/servers/{{item}}/os-volume_attachments", self._attachments),
            Route("POST", f"{v2}/servers/{{item}}/os-volume_attachments", self._attach),
            Route("PUT", f"{v2}/servers/{{item}}/os-volume_attachments/{{volume}}", self._update_attachment, 202),
            Route("DELETE", f"{v2}/servers/{{item}}/os-volume_attachments/{{volume}}", self._detach, 202),
            Route("GET", f"{v2}/servers/{{item}}/os-interface", self._interfaces),
            Route("GET", f"{v2}/servers/{{item}}/os-quiesce", self._show_quiesce),
            Route("GET", f"{v2}/os-quiesce", self._quiesce_support),
            Route("GET", f"{v2}/flavors", self._list_flavors),
            Route("GET", f"{v2}/flavors/detail", self._list_flavors),
            Route("POST", f"{v2}/flavors", self._create_flavor, admin=True),
            Route("GET", f"{v2}/flavors/{{item}}", self._show_flavor),
            Route("DELETE", f"{v2}/flavors/{{item}}", self._delete_flavor, 202, admin=True),
            Route("GET", f"{v2}/flavors/{{item}}/os-extra_specs", self._flavor_specs),
            Route("GET", f"{v2}/os-keypairs", self._list_keypairs),
            Route("POST", f"{v2}/os-keypairs", self._create_keypair, 201),
            Route("GET", f"{v2}/os-keypairs/{{item}}", self._show_keypair),
            Route("DELETE", f"{v2}/os-keypairs/{{item}}", self._delete_keypair, 204),
            Route("GET", f"{v2}/os-server-groups", self._list_groups),
            Route("POST", f"{v2}/os-server-groups", self._create_group),
            Route("GET", f"{v2}/os-server-groups/{{item}}", self._show_group),
            Route("DELETE", f"{v2}/os-server-groups/{{item}}", self._delete_group, 204),
            Route("GET", f"{v2}/os-availability-zone", self._zones),
            Route("GET", f"{v2}/os-services", self._services, admin=True),
            Route("GET", f"{v2}/os-quota-sets/{{project}}", self._quota),
            Route("GET", f"{v2}/os-quota-sets/{{project}}/detail", self._quota_details),
            Route("PUT", f"{v2}/os-quota-sets/{{project}}", self._set_quota, admin=True),
            Route("GET", f"{v2}/limits", self._absolute_limits),
        ]

    def fault(self, refused: Refused) -> web.Response:
        if refused.status == 401:
            return web.json_response({"error": {"code": 401, "title": "Unauthorized", "message": refused.message}}, status=401)
        return fault_of(refused, "computeFault")

    def begin_again(self) -> None:
        """After the site's machines have come back: guests are off until somebody starts them, what was being done is done or failed."""
        for server in self.servers:
            if server[TASK] == "deleting":
                self._work.start(self._remove(server))
            elif server["status"] == "BUILD":
                self._fault(server, "Build of instance aborted: the compute service was restarted")
            elif server["status"] == "ACTIVE":
                self._state(server, "SHUTOFF", "stopped")

    # ---- versions, zones, services ----

    async def _versions(self, call: Call) -> Json:
        return {"versions": [self._describe(call)]}

    async def _version(self, call: Call) -> Json:
        return {"version": self._describe(call)}

    def _describe(self, call: Call) -> Json:
        links = [{"rel": "self", "href": f"{call.base}{self.prefix}/v2.1/"}]
        version = {"version": "{}.{}".format(*self.newest), "min_version": "{}.{}".format(*self.oldest)}
        return {"id": "v2.1", "status": "CURRENT", "updated": "2013-07-23T11:33:21Z", "links": links, **version}

    async def _zones(self, call: Call) -> Json:
        return {"availabilityZoneInfo": [{"zoneName": ZONE, "zoneState": {"available": True}, "hosts": None}]}

    async def _services(self, call: Call) -> Json:
        binaries = {"nova-scheduler": "internal", "nova-conductor": "internal", "nova-compute": ZONE}
        rows = [{"id": b, "binary": b, "host": self._site, "zone": z, "status": "enabled", "state": "up"} for b, z in binaries.items()]
        wanted = {k: call.query.get(k) for k in ("binary", "host") if call.query.get(k)}
        return {"services": [row for row in rows if all(row[k] == v for k, v in wanted.items())]}

    # ---- servers ----

    def _find(self, call: Call, server_id: str) -> Json:
        server = self.servers.get(server_id)
        if server is None or not call.caller.may_see(server):
            raise Refused(404, f"Instance {server_id} could not be found.")
        return server

    async def _list(self, call: Call) -> Json:
        everybody = call.caller.is_admin and call.query.get("all_tenants", "").lower() in ("1", "true")
        found = [s for s in self.servers if everybody or s["tenant_id"] == call.caller.project_id]
        if name := call.query.get("name"):
            found = [s for s in found if re.search(name, s["name"])]
        if status := call.query.get("status"):
            found = [s for s in found if s["status"] == status.upper()]
        if call.request.path.endswith("/detail"):
            return page(call, "servers", found, lambda s: self._view(s, call.caller, call.version))
        return page(call, "servers", found, lambda s: {"id": s["id"], "name": s["name"], "links": []})

    async def _show(self, call: Call, item: str) -> Json:
        server = self._find(call, item)
        groups = {"server_groups": [g["id"] for g in self._groups if item in g["members"]]} if call.version >= (2, 71) else {}
        return {"server": self._view(server, call.caller, call.version) | groups}

    def _view(self, server: Json, caller: Caller, version: Version) -> Json:
        flavor = server["_flavor"]
        embedded = {"original_name": flavor["name"], "vcpus": flavor["vcpus"], "ram": flavor["ram"], "disk": flavor["disk"]}
        embedded |= {"ephemeral": 0, "swap": 0, "extra_specs": flavor["extra_specs"]}
        shown: Json = {k: v for k, v in server.items() if not k.startswith(("_", "OS-EXT-SRV-ATTR", "project_id"))}
        shown |= {
            "flavor": embedded if version >= (2, 47) else {"id": flavor["id"], "links": []},
            "addresses": self._addresses(server),
            "os-extended-volumes:volumes_attached": [
                {"id": a["volume_id"], "delete_on_termination": a["delete_on_termination"]} for a in server["_attachments"]
            ],
        }
        if version >= (2, 96):
            shown["pinned_availability_zone"] = server["_pinned_zone"]
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
                for fixed in port["fixed_ips"]:
                    row = {"addr": fixed["ip_address"], "version": 6 if ":" in fixed["ip_address"] else 4, "OS-EXT-IPS:type": "fixed"}
                    found.setdefault(network["name"], []).append({**row, "OS-EXT-IPS-MAC:mac_addr": port["mac_address"]})
        return found

    async def _create(self, call: Call) -> Json:
        wanted = call.part("server")
        flavor = self._flavor(str(wanted.get("flavorRef")))
        self._reserve(call.caller.project_id, flavor)
        keypair = wanted.get("key_name")
        if keypair and self._keypairs.get(f"{call.caller.user_id}/{keypair}") is None:
            raise Refused(400, "Invalid key_name provided.")
        if (wanted.get("availability_zone") or ZONE) != ZONE:
            raise Refused(400, "The requested availability zone is not available")
        group = self._hinted_group(call)
        disks = self._disks(call, wanted)
        ports = self._ports_for(call, wanted)
        server_id, now = str(uuid.uuid4()), self._now()
        hostname = wanted.get("hostname") if call.version >= (2, 90) else None
        server = self.servers.keep(
            {
                "id": server_id,
                "name": wanted["name"],
                "status": "BUILD",
                "OS-EXT-STS:vm_state": "building",
                TASK: "scheduling",
                "OS-EXT-STS:power_state": 0,
                "OS-EXT-AZ:availability_zone": ZONE,
                "OS-DCF:diskConfig": "MANUAL",
                "OS-SRV-USG:launched_at": None,
                "OS-SRV-USG:terminated_at": None,
                "OS-EXT-SRV-ATTR:host": self._site,
                "OS-EXT-SRV-ATTR:hypervisor_hostname": self._site,
                "OS-EXT-SRV-ATTR:hostname": hostname or re.sub(r"[^a-z0-9-]", "-", wanted["name"].lower())[:63],
                "OS-EXT-SRV-ATTR:instance_name": f"instance-{len(self.servers) + 1:08x}",
                "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda",
                "OS-EXT-SRV-ATTR:user_data": wanted.get("user_data"),
                "OS-EXT-SRV-ATTR:launch_index": 0,
                "accessIPv4": "",
                "accessIPv6": "",
                "config_drive": "True" if wanted.get("config_drive") else "",
                "created": now,
                "updated": now,
                "description": wanted.get("description"),
                "hostId": hashlib.sha224(f"{call.caller.project_id}{self._site}".encode()).hexdigest(),
                "host_status": "UP",
                "image": "",
                "key_name": keypair,
                "links": [],
                "locked": False,
                "locked_reason": None,
                "metadata": wanted.get("metadata") or {},
                "progress": 0,
                "security_groups": [{"name": "default"}],
                "tags": sorted(wanted.get("tags") or []),
                "tenant_id": call.caller.project_id,
                "project_id": call.caller.project_id,
                "user_id": call.caller.user_id,
                "trusted_image_certificates": None,
                "_flavor": dict(flavor),
                "_attachments": [],
                "_ports": ports,
                "_pinned_zone": wanted.get("availability_zone"),
            }
        )
        if group:
            self._groups.keep(group, members=[*group["members"], server_id])
        for interface in ports:
            self._bind(interface["port_id"], server_id)
        self._work.start(self._build(server, disks, call.caller))
        return {"server": {"id": server_id, "links": [], "OS-DCF:diskConfig": "MANUAL", "security_groups": [{"name": "default"}]}}

    def _hinted_group(self, call: Call) -> Json | None:
        hint = (call.body.get("os:scheduler_hints") or {}).get("group")
        if hint and hint not in self._groups:
            raise Refused(400, f"Instance group {hint} could not be found.")
        return self._groups.get(hint)

    def _disks(self, call: Call, wanted: Json) -> list[Json]:
        """The block devices wanted, the root first, each with its volume if that is there already."""
        given = wanted.get("block_device_mapping_v2")
        if not given:
            raise Refused(400, "Only booting from a volume is supported by this cloud: give block_device_mapping_v2")
        indices = sorted(d["boot_index"] for d in given if (d.get("boot_index") if d.get("boot_index") is not None else -1) >= 0)
        if indices != list(range(len(indices))) or not indices:
            message = (
                "Block Device Mapping is Invalid: Boot sequence for the instance and image/block device mapping combination is not valid."
            )
            raise Refused(400, message)
        for disk in given:
            if disk["source_type"] == "volume":
                self._check_disk(call.caller, disk)
        return sorted(given, key=lambda d: 0 if d.get("boot_index") == 0 else 1)

    def _check_disk(self, caller: Caller, disk: Json) -> None:
        volume = self._cinder.volumes.get(str(disk.get("uuid")))
        if volume is None or not caller.may_see(volume):
            raise Refused(400, f"Block Device Mapping is Invalid: failed to get volume {disk.get('uuid')}.")
        if disk.get("boot_index") == 0 and volume["bootable"] != "true":
            raise Refused(400, f"Block Device {volume['id']} is not bootable.")
        if volume["status"] != "available":
            message = f"volume {volume['id']} status must be 'available' to reserve, but the status is {volume['status']}."
            raise Refused(400, f"Invalid volume: {message}")

    def _ports_for(self, call: Call, wanted: Json) -> list[Json]:
        """The ports wanted, in order; Nova creates one where only a network is named."""
        networks = wanted.get("networks", "auto")
        if networks == "none":
            return []
        if networks == "auto":
            mine = self._neutron.networks.where(lambda n: n["project_id"] == call.caller.project_id)
            if len(mine) > 1:
                raise Refused(409, "Multiple possible networks found, use a Network ID to be more specific.")
            networks = [{"uuid": n["id"]} for n in mine]
        found = []
        for one in networks:
            if "port" in one:
                port = self._neutron.ports.get(one["port"])
                if port is None or not call.caller.may_see(port):
                    raise Refused(400, f"Port {one['port']} could not be found.")
                if port["device_id"]:
                    raise Refused(409, f"Port {port['id']} is still in use.")
                found.append({"port_id": port["id"], "tag": one.get("tag"), "made": False})
                continue
            network = self._neutron.networks.get(one["uuid"])
            if network is None:
                raise Refused(400, f"Network {one['uuid']} could not be found.")
            fixed = [{"ip_address": one["fixed_ip"]}] if one.get("fixed_ip") else None
            made = self._neutron.make_port(network, call.caller.project_id, {"fixed_ips": fixed} if fixed else {})
            found.append({"port_id": made["id"], "tag": one.get("tag"), "made": True})
        return found

    def _bind(self, port_id: str, server_id: str) -> None:
        port = self._neutron.ports[port_id]
        owner = {"device_id": server_id, "device_owner": f"compute:{ZONE}", "status": "ACTIVE"}
        self._neutron.ports.keep(port, **owner, **{"binding:host_id": self._site, "binding:vif_type": "ovs"})

    async def _build(self, server: Json, disks: list[Json], caller: Caller) -> None:
        try:
            await self._conditions.take("server.create")
            for number, disk in enumerate(disks):
                volume = await self._volume_of(server, disk, caller)
                device = f"/dev/vd{chr(ord('a') + number)}"
                self._cinder.attach(volume, server["id"], device)
                row = {"id": volume["attachments"][0]["attachment_id"], "volume_id": volume["id"], "device": device, "tag": disk.get("tag")}
                server["_attachments"].append({**row, "delete_on_termination": bool(disk.get("delete_on_termination"))})
                self.servers.keep(server)
        except (OperationFailed, Refused, OSError) as error:
            self._fault(server, f"Build of instance {server['id']} aborted: {error}")
            return
        if server["id"] not in self.servers:
            return
        self.servers.keep(server, **{"OS-SRV-USG:launched_at": self._now()})
        self._power_on(server)

    async def _volume_of(self, server: Json, disk: Json, caller: Caller) -> Json:
        """The volume of a block device, made from an image if that is what it is to come from."""
        if disk["source_type"] == "volume":
            self._check_disk(caller, disk)
            return self._cinder.volumes[disk["uuid"]]
        source = {"imageRef": disk["uuid"]} if disk["source_type"] == "image" else {}
        volume, work = self._cinder.new_volume(caller, {"name": "", "size": int(disk["volume_size"]), **source}, self._cinder.newest)
        await work
        if volume["status"] != "available":
            raise OperationFailed(f"Volume {volume['id']} did not finish being created")
        return volume

    def _power_on(self, server: Json) -> None:
        self._state(server, "ACTIVE", "active")
        volumes = [a["volume_id"] for a in server["_attachments"]]
        disks = Disks([self._cinder.path(v) for v in volumes], [self._cinder.writing[v] for v in volumes])
        addresses = [
            (port["network_id"], fixed["ip_address"])
            for interface in server["_ports"]
            if (port := self._neutron.ports.get(interface["port_id"]))
            for fixed in port["fixed_ips"]
        ]
        user_data = server["OS-EXT-SRV-ATTR:user_data"] if server["config_drive"] else None
        self._hypervisor.start(Machine(server["id"], server["name"], user_data, disks, addresses))

    def _power_off(self, server: Json) -> None:
        self._hypervisor.stop(server["id"])
        self._state(server, "SHUTOFF", "stopped")

    def _state(self, server: Json, status: str, vm_state: str, task: str | None = None) -> None:
        power = {"active": 1, "stopped": 4, "error": 0}.get(vm_state, 0)
        changes = {"OS-EXT-STS:vm_state": vm_state, TASK: task, "OS-EXT-STS:power_state": power}
        self.servers.keep(server, status=status, updated=self._now(), **changes)

    def _fault(self, server: Json, message: str) -> None:
        LOG.warning("%s: server %s: %s", self._site, server["id"], message)
        self._state(server, "ERROR", "error")
        self.servers.keep(server, fault={"code": 500, "created": self._now(), "message": message})

    async def _delete(self, call: Call, item: str) -> None:
        server = self._find(call, item)
        self._refuse_locked(server, call.caller)
        if server[TASK] == "deleting":
            return
        self.servers.keep(server, **{TASK: "deleting"})
        self._work.start(self._remove(server))

    async def _remove(self, server: Json) -> None:
        self._hypervisor.stop(server["id"])
        try:
            await self._conditions.take("server.delete")
        except OperationFailed as error:
            self._fault(server, str(error))
            return
        for attachment in server["_attachments"]:
            if volume := self._cinder.volumes.get(attachment["volume_id"]):
                self._cinder.detach(volume)
                if attachment["delete_on_termination"]:
                    self._cinder.forget(volume)
                    self._cinder.path(volume["id"]).unlink(missing_ok=True)
        for interface in server["_ports"]:
            port = self._neutron.ports.get(interface["port_id"])
            if port and interface["made"]:
                self._neutron.ports.drop(port["id"])
            elif port:
                free = {"device_id": "", "device_owner": "", "status": "DOWN", "binding:host_id": "", "binding:vif_type": "unbound"}
                self._neutron.ports.keep(port, **free)
        for group in self._groups:
            if server["id"] in group["members"]:
                self._groups.keep(group, members=[m for m in group["members"] if m != server["id"]])
        self.servers.drop(server["id"])

    async def _attachments(self, call: Call, item: str) -> Json:
        server = self._find(call, item)
        return {"volumeAttachments": [self._view_attachment(server, a, call.version) for a in server["_attachments"]]}

    def _view_attachment(self, server: Json, attachment: Json, version: Version) -> Json:
        a = attachment
        row: Json = {"volumeId": a["volume_id"], "serverId": server["id"], "device": a["device"]}
        row |= {"attachment_id": a["id"], "bdm_uuid": a["id"]} if version >= (2, 89) else {"id": a["volume_id"]}
        row |= {"tag": a["tag"]} if version >= (2, 70) else {}
        return row | ({"delete_on_termination": a["delete_on_termination"]} if version >= (2, 79) else {})

    async def _attach(self, call: Call, item: str) -> Json:
        server, wanted = self._find(call, item), call.part("volumeAttachment")
        self._refuse_locked(server, call.caller)
        self._refuse_task(server, "attach_volume")
        volume = self._cinder.volumes.get(str(wanted.get("volumeId")))
        if volume is None or not call.caller.may_see(volume):
            raise Refused(404, f"Volume {wanted.get('volumeId')} could not be found.")
        if volume["status"] != "available":
            raise Refused(400, f"Invalid volume: volume {volume['id']} status must be 'available'. Currently in '{volume['status']}'")
        used = {a["device"] for a in server["_attachments"]}
        device = next(d for d in (f"/dev/vd{chr(ord('a') + n)}" for n in range(26)) if d not in used)
        self._cinder.attach(volume, server["id"], device)
        row = {"id": volume["attachments"][0]["attachment_id"], "volume_id": volume["id"], "device": device, "tag": wanted.get("tag")}
        row["delete_on_termination"] = bool(wanted.get("delete_on_termination"))
        self.servers.keep(server, _attachments=[*server["_attachments"], row])
        return {"volumeAttachment": self._view_attachment(server, row, call.version)}

    def _attachment(self, server: Json, volume_id: str) -> Json:
        for attachment in server["_attachments"]:
            if attachment["volume_id"] == volume_id:
                found: Json = attachment
                return found
        raise Refused(404, f"Volume attachment for volume {volume_id} could not be found in server {server['id']}")

    async def _add_metadata(self, call: Call, item: str) -> Json:
        server = self._find(call, item)
        self.servers.keep(server, metadata={**server["metadata"], **call.part("metadata")})
        return {"metadata": server["metadata"]}

    async def _update_attachment(self, call: Call, item: str, volume: str) -> None:
        server = self._find(call, item)
        attachment = self._attachment(server, volume)
        wanted = call.part("volumeAttachment")
        if wanted.get("volumeId") != volume or call.version < (2, 85):
            raise Refused(400, "Only the delete_on_termination of an attachment can be updated, since microversion 2.85")
        attachment["delete_on_termination"] = bool(wanted["delete_on_termination"])
        self.servers.keep(server)

    async def _detach(self, call: Call, item: str, volume: str) -> None:
        server = self._find(call, item)
        self._refuse_locked(server, call.caller)
        self._refuse_task(server, "detach_volume")
        attachment = self._attachment(server, volume)
        if attachment["device"] == "/dev/vda":
            raise Refused(403, "Cannot detach a root device volume")
        self.servers.keep(server, _attachments=[a for a in server["_attachments"] if a is not attachment])
        self._cinder.detach(self._cinder.volumes[volume])

    async def _interfaces(self, call: Call, item: str) -> Json:
        server = self._find(call, item)
        rows = []
        for interface in server["_ports"]:
            if port := self._neutron.ports.get(interface["port_id"]):
                row: Json = {
                    "port_id": port["id"],
                    "net_id": port["network_id"],
                    "mac_addr": port["mac_address"],
                    "port_state": port["status"],
                }
                row["fixed_ips"] = port["fixed_ips"]
                rows.append(row | ({"tag": interface["tag"]} if call.version >= (2, 70) else {}))
        return {"interfaceAttachments": rows}

    # ---- actions ----

    async def _act(self, call: Call, item: str) -> Json | web.Response | None:
        action = next(iter(call.body), "")
        wanted = call.body.get(action) or {}
        if self._add_on and action in ("quiesce", "unquiesce"):
            await self._act_quiesce(call, item, action)
            return None
        server = self._find(call, item)
        if action in ("lock", "unlock") and server[TASK] in STATES:
            self._refuse_task(server, action)
        if action == "lock":
            self.servers.keep(server, locked=True, locked_reason=wanted.get("locked_reason"))
        elif action == "unlock":
            self.servers.keep(server, locked=False, locked_reason=None)
        elif action == "os-getConsoleOutput":
            return web.json_response({"output": self._hypervisor.console(item)})
        elif action == "os-resetState" and call.caller.is_admin:
            self._quiescing.thaw_after_reset(server)
            self.servers.keep(server, status=wanted["state"].upper(), **{"OS-EXT-STS:vm_state": wanted["state"], TASK: None})
        elif action in ("os-start", "os-stop", "reboot"):
            self._refuse_locked(server, call.caller)
            self._switch(server, action, str(wanted.get("type", "")) if isinstance(wanted, dict) else "")
        else:
            raise Refused(400, f"There is no such action: {action}")
        return None

    def _switch(self, server: Json, action: str, kind: str) -> None:
        allowed = {
            "os-start": ("stopped",),
            "os-stop": ("active", "error"),
            "reboot": ("active", "stopped") if kind == "HARD" else ("active",),
        }
        name = action.removeprefix("os-")
        if (state := server["OS-EXT-STS:vm_state"]) not in allowed[action]:
            raise Refused(409, f"Cannot '{name}' instance {server['id']} while it is in vm_state {state}")
        self._refuse_task(server, name)
        doing = {"os-start": "powering-on", "os-stop": "powering-off", "reboot": f"rebooting{'_hard' if kind == 'HARD' else ''}"}
        self.servers.keep(server, **{TASK: doing[action]})
        self._work.start(self._switched(server, action))

    async def _switched(self, server: Json, action: str) -> None:
        try:
            await self._conditions.take("server.power")
        except OperationFailed as error:
            self._fault(server, str(error))
            return
        if action != "os-start":
            self._power_off(server)
        if action != "os-stop":
            self._power_on(server)

    def _refuse_task(self, server: Json, action: str) -> None:
        if task := server[TASK]:
            raise Refused(409, f"Cannot '{action}' instance {server['id']} while it is in task_state {task}")

    def _refuse_locked(self, server: Json, caller: Caller) -> None:
        if server["locked"] and not caller.is_admin:
            raise Refused(409, f"Instance {server['id']} is locked")

    # ---- the quiesce add-on ----

    async def _quiesce_support(self, call: Call) -> Json:
        self._need_add_on()
        return {"quiesce": self._quiescing.support()}

    async def _show_quiesce(self, call: Call, item: str) -> Json:
        self._need_add_on()
        return {"quiesce": self._quiescing.show(self._find(call, item))}

    def _need_add_on(self) -> None:
        if not self._add_on:
            raise Refused(404, "The resource could not be found.")

    async def _act_quiesce(self, call: Call, item: str, action: str) -> None:
        timeout_s = asked_timeout(call.body) if action == "quiesce" else 0
        server = self._find(call, item)
        if not call.caller.is_admin:
            raise Refused(403, f"Policy doesn't allow os_compute_api:os-quiesce:{action} to be performed.")
        await (self._quiescing.quiesce(server, timeout_s) if action == "quiesce" else self._quiescing.unquiesce(server))

    def _has_agent(self, server: Json) -> bool:
        root = self._cinder.volumes.get(server["_attachments"][0]["volume_id"]) if server["_attachments"] else None
        return str((root or {}).get("volume_image_metadata", {}).get(AGENT, "")).lower() in ("yes", "true", "1")

    # ---- flavors, keypairs, server groups ----

    def _flavor(self, flavor_id: str) -> Json:
        flavor = self.flavors.get(flavor_id)
        if flavor is None:
            raise Refused(400, f"Flavor {flavor_id} could not be found.")
        return flavor

    def _view_flavor(self, flavor: Json, version: Version) -> Json:
        shown = {**flavor, "links": []}
        if version < (2, 61):
            del shown["extra_specs"]
        return shown

    async def _list_flavors(self, call: Call) -> Json:
        if call.request.path.endswith("/detail"):
            return page(call, "flavors", list(self.flavors)[::-1], lambda f: self._view_flavor(f, call.version))
        return page(call, "flavors", list(self.flavors)[::-1], lambda f: {"id": f["id"], "name": f["name"], "links": []})

    async def _show_flavor(self, call: Call, item: str) -> Json:
        if item not in self.flavors:
            raise Refused(404, f"Flavor {item} could not be found.")
        return {"flavor": self._view_flavor(self.flavors[item], call.version)}

    async def _flavor_specs(self, call: Call, item: str) -> Json:
        if item not in self.flavors:
            raise Refused(404, f"Flavor {item} could not be found.")
        return {"extra_specs": self.flavors[item]["extra_specs"]}

    async def _create_flavor(self, call: Call) -> Json:
        wanted = call.part("flavor")
        if self.flavors.where(lambda f: f["name"] == wanted["name"]):
            raise Refused(409, f"Flavor with name {wanted['name']} already exists.")
        flavor_id = wanted.get("id") if wanted.get("id") not in (None, "auto") else None
        flavor = self.make_flavor(wanted["name"], int(wanted["vcpus"]), int(wanted["ram"]), int(wanted["disk"]), flavor_id)
        return {"flavor": self._view_flavor(flavor, call.version)}

    def make_flavor(self, name: str, vcpus: int, ram: int, disk: int, flavor_id: str | None = None) -> Json:
        """A public flavor; `ram` in MiB, `disk` in GiB."""
        flavor: Json = {"id": flavor_id or str(uuid.uuid4()), "name": name, "vcpus": vcpus, "ram": ram, "disk": disk, "swap": 0}
        flavor |= {"OS-FLV-EXT-DATA:ephemeral": 0, "OS-FLV-DISABLED:disabled": False, "os-flavor-access:is_public": True}
        return self.flavors.keep({**flavor, "rxtx_factor": 1.0, "description": None, "extra_specs": {}})

    async def _delete_flavor(self, call: Call, item: str) -> None:
        if item not in self.flavors:
            raise Refused(404, f"Flavor {item} could not be found.")
        self.flavors.drop(item)

    def _view_keypair(self, keypair: Json) -> Json:
        return {k: v for k, v in keypair.items() if k != "id"}

    def _keypair_owner(self, call: Call) -> str:
        owner = call.query.get("user_id", call.caller.user_id)
        if owner != call.caller.user_id and not call.caller.is_admin:
            raise Refused(403, "Policy doesn't allow os_compute_api:os-keypairs:show to be performed.")
        return str(owner)

    async def _list_keypairs(self, call: Call) -> Json:
        owner = self._keypair_owner(call)
        shown = ("name", "public_key", "fingerprint", "type")
        mine = self._keypairs.where(lambda k: k["user_id"] == owner)
        return {"keypairs": [{"keypair": {k: item[k] for k in shown}} for item in mine]}

    async def _show_keypair(self, call: Call, item: str) -> Json:
        owner = self._keypair_owner(call)
        keypair = self._keypairs.get(f"{owner}/{item}")
        if keypair is None:
            raise Refused(404, f"Keypair {item} not found for user {owner}")
        return {"keypair": self._view_keypair(keypair)}

    async def _create_keypair(self, call: Call) -> Json:
        wanted = call.part("keypair")
        owner = str(wanted.get("user_id") or call.caller.user_id) if call.caller.is_admin else call.caller.user_id
        if f"{owner}/{wanted['name']}" in self._keypairs:
            raise Refused(409, f"Key pair '{wanted['name']}' already exists.")
        if "public_key" not in wanted:
            raise Refused(400, "Invalid input for field/attribute keypair. 'public_key' is a required property")
        try:
            raw = base64.b64decode(wanted["public_key"].split()[1], validate=True)
        except (IndexError, ValueError):
            raise Refused(400, "Keypair data is invalid: failed to generate fingerprint") from None
        digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
        keypair: Json = {"id": f"{owner}/{wanted['name']}", "name": wanted["name"], "public_key": wanted["public_key"], "user_id": owner}
        keypair |= {"type": wanted.get("type", "ssh"), "fingerprint": ":".join(digest[i : i + 2] for i in range(0, 32, 2))}
        keypair |= {"created_at": self._now(), "deleted": False, "deleted_at": None, "updated_at": None}
        shown = ("name", "public_key", "user_id", "type", "fingerprint")
        return {"keypair": {k: self._keypairs.keep(keypair)[k] for k in shown}}

    async def _delete_keypair(self, call: Call, item: str) -> None:
        owner = self._keypair_owner(call)
        if f"{owner}/{item}" not in self._keypairs:
            raise Refused(404, f"Keypair {item} not found for user {owner}")
        self._keypairs.drop(f"{owner}/{item}")

    def _find_group(self, call: Call, group_id: str) -> Json:
        group = self._groups.get(group_id)
        if group is None or not call.caller.may_see(group):
            raise Refused(404, f"Instance group {group_id} could not be found.")
        return group

    async def _list_groups(self, call: Call) -> Json:
        return {"server_groups": self._groups.where(lambda g: g["project_id"] == call.caller.project_id)}

    async def _show_group(self, call: Call, item: str) -> Json:
        return {"server_group": self._find_group(call, item)}

    async def _create_group(self, call: Call) -> Json:
        wanted = call.part("server_group")
        policy = wanted.get("policy") or (wanted.get("policies") or [None])[0]
        if policy not in ("affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"):
            raise Refused(400, f"Invalid input for field/attribute policy. Value: {policy}.")
        limit = self._limits_of(call.caller.project_id)["server_groups"]
        if 0 <= limit <= len(self._groups.where(lambda g: g["project_id"] == call.caller.project_id)):
            raise Refused(403, "Quota exceeded, too many server groups.")
        group: Json = {"id": str(uuid.uuid4()), "name": wanted["name"], "policy": policy, "rules": wanted.get("rules") or {}, "members": []}
        return {"server_group": self._groups.keep({**group, "project_id": call.caller.project_id, "user_id": call.caller.user_id})}

    async def _delete_group(self, call: Call, item: str) -> None:
        self._groups.drop(self._find_group(call, item)["id"])

    # ---- quotas ----

    def _limits_of(self, project: str) -> dict[str, int]:
        return {**QUOTAS, **(self._limits.get(project) or {}).get("limits", {})}

    def _usage_of(self, project: str) -> dict[str, int]:
        flavors = [s["_flavor"] for s in self.servers if s["tenant_id"] == project]
        used = {"instances": len(flavors), "cores": sum(f["vcpus"] for f in flavors), "ram": sum(f["ram"] for f in flavors)}
        return {**used, "server_groups": len(self._groups.where(lambda g: g["project_id"] == project))}

    def _reserve(self, project: str, flavor: Json) -> None:
        limits, used = self._limits_of(project), self._usage_of(project)
        for name, amount in (("instances", 1), ("cores", flavor["vcpus"]), ("ram", flavor["ram"])):
            if 0 <= limits[name] < used[name] + amount:
                message = f"Quota exceeded for {name}: Requested {amount}, but already used {used[name]} of {limits[name]} {name}"
                raise Refused(403, message)

    def _may_see_quota(self, call: Call, project: str) -> None:
        if not call.caller.is_admin and call.caller.project_id != project:
            raise Refused(403, "Policy doesn't allow os_compute_api:os-quota-sets:show to be performed.")

    async def _quota(self, call: Call, project: str) -> Json:
        self._may_see_quota(call, project)
        return {"quota_set": {"id": project, **self._limits_of(project)}}

    async def _quota_details(self, call: Call, project: str) -> Json:
        self._may_see_quota(call, project)
        used = self._usage_of(project)
        rows = {name: {"limit": limit, "in_use": used.get(name, 0), "reserved": 0} for name, limit in self._limits_of(project).items()}
        return {"quota_set": {"id": project, **rows}}

    async def _set_quota(self, call: Call, project: str) -> Json:
        changes = {k: v for k, v in call.part("quota_set").items() if k in QUOTAS}
        limits = {**self._limits_of(project), **changes}
        self._limits.keep({"id": project, "limits": limits})
        return {"quota_set": limits}

    async def _absolute_limits(self, call: Call) -> Json:
        limits, used = self._limits_of(call.caller.project_id), self._usage_of(call.caller.project_id)
        absolute = {"maxTotalInstances": limits["instances"], "maxTotalCores": limits["cores"], "maxTotalRAMSize": limits["ram"]}
        absolute |= {"totalInstancesUsed": used["instances"], "totalCoresUsed": used["cores"], "totalRAMUsed": used["ram"]}
        return {"limits": {"rate": [], "absolute": absolute}}

    def _now(self) -> str:
        return self._conditions.now().strftime("%Y-%m-%dT%H:%M:%SZ")
