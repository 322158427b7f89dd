# SPDX-License-Identifier: Apache-2.0
"""The way of a new server: what it asks for is checked and reserved, then it is built."""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from collections.abc import Sequence

from antipode.sandbox import blocks
from antipode.sandbox.cinder.volumes import NEWEST
from antipode.sandbox.conditions import OperationFailed
from antipode.sandbox.database import Json
from antipode.sandbox.http import Call, Caller, Part, Refused, Route
from antipode.sandbox.nova.flavors import Flavors
from antipode.sandbox.nova.keypairs import Keypairs
from antipode.sandbox.nova.server_groups import ServerGroups
from antipode.sandbox.nova.servers import TASK, Infrastructure, Servers

ZONE = "nova"


class Booting(Part):
    def __init__(
        self,
        servers: Servers,
        flavors: Flavors,
        keypairs: Keypairs,
        groups: ServerGroups,
        infrastructure: Infrastructure,
    ) -> None:
        self._servers = servers
        self._flavors = flavors
        self._keypairs = keypairs
        self._groups = groups
        self._storage = infrastructure.storage
        self._volumes = infrastructure.volumes
        self._neutron = infrastructure.neutron
        self._glance = infrastructure.glance

    def routes(self) -> Sequence[Route]:
        return [Route("POST", "/v2.1/servers", self._create, 202)]

    async def _create(self, call: Call) -> Json:
        wanted = call.part("server")
        flavor = self._flavors.wanted(str(wanted.get("flavorRef")))
        self._servers.refuse_metadata(call.caller.project_id, wanted.get("metadata") or {})
        self._servers.reserve(call.caller.project_id, flavor)
        keypair = wanted.get("key_name")
        if keypair and not self._keypairs.has(call.caller, keypair):
            raise Refused(400, "Invalid key_name provided.")
        if (wanted.get("availability_zone") or ZONE) != ZONE:
            raise Refused(400, "The requested availability zone is not available")
        hints = (
            call.body.get("os:scheduler_hints") or call.body.get("OS-SCH-HNT:scheduler_hints") or {}
        )
        group = self._groups.hinted(hints.get("group"))
        image = self._image(call, wanted)
        disks = self._disks(call, wanted, image)
        ports = self._ports_for(call, wanted)
        server_id, now = str(uuid.uuid4()), self._servers.conditions.timestamp()
        hostname = wanted.get("hostname") if call.version >= (2, 90) else None
        server = self._servers.table.keep(
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
                "OS-EXT-SRV-ATTR:host": self._servers.site,
                "OS-EXT-SRV-ATTR:hypervisor_hostname": self._servers.site,
                "OS-EXT-SRV-ATTR:hostname": hostname
                or re.sub(r"[^a-z0-9-]", "-", wanted["name"].lower())[:63],
                "OS-EXT-SRV-ATTR:instance_name": f"instance-{len(self._servers.table) + 1:08x}",
                "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda",
                "OS-EXT-SRV-ATTR:user_data": wanted.get("user_data"),
                "OS-EXT-SRV-ATTR:launch_index": 0,
                "accessIPv4": "",
                "accessIPv6": "",
                "config_drive": "True" if wanted.get("config_drive") else "",
                "created": now,
                "updated": now,
                "description": wanted.get("description"),
                "hostId": hashlib.sha224(
                    f"{call.caller.project_id}{self._servers.site}".encode()
                ).hexdigest(),
                "host_status": "UP",
                "image": {"id": image["id"], "links": []} if image else "",
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
                "_hints": {n: h if isinstance(h, list) else [h] for n, h in hints.items()},
                "_pinned_zone": wanted.get("availability_zone"),
            }
        )
        self._servers.note(server, call.caller, "create")
        if group:
            self._groups.join(group, server_id)
        refusal = self._refusal(server, ports)
        for disk in disks:
            if disk["source_type"] == "volume":
                self._storage.reserve_for(self._storage.volumes[disk["uuid"]], server_id)
        for interface in ports if refusal is None else []:
            self._bind(interface["port_id"], server)
        self._servers.start(self._build(server, disks, call.caller, refusal))
        return {
            "server": {
                "id": server_id,
                "links": [],
                "OS-DCF:diskConfig": "MANUAL",
                "security_groups": [{"name": "default"}],
            }
        }

    def _image(self, call: Call, wanted: Json) -> Json | None:
        """The image whose bytes become the root disk on the hypervisor; None for a server that
        boots from a volume.
        """
        if not (image_id := wanted.get("imageRef")):
            return None
        try:
            image = self._glance.find(call.caller, str(image_id))
        except Refused:
            raise Refused(400, f"Can not find requested image {image_id}") from None
        if image["status"] != "active":
            raise Refused(400, f"Image {image_id} is not active.")
        return image

    def _disks(self, call: Call, wanted: Json, image: Json | None) -> list[Json]:
        """The volumes wanted as block devices, the root first, each with its volume if that is
        there already.
        """
        given = [
            disk
            for disk in wanted.get("block_device_mapping_v2") or []
            if image is None or disk.get("destination_type") != "local"
        ]
        if not given and image is None:
            raise Refused(400, "Block Device Mapping is Invalid: a server needs a root disk.")
        indices = sorted(
            d["boot_index"]
            for d in given
            if (d.get("boot_index") if d.get("boot_index") is not None else -1) >= 0
        )
        if indices != list(range(len(indices))) or bool(indices) == (image is not None):
            message = (
                "Block Device Mapping is Invalid: Boot sequence for the instance and "
                "image/block device mapping combination is not valid."
            )
            raise Refused(400, message)
        for disk in given:
            if disk["source_type"] == "volume":
                self._check_disk(call.caller, disk)
        return sorted(given, key=lambda d: 0 if d.get("boot_index") == 0 else 1)

    def _check_disk(self, caller: Caller, disk: Json, server_id: str = "") -> None:
        volume = self._storage.volumes.get(str(disk.get("uuid")))
        if volume is None or not caller.may_see(volume):
            raise Refused(
                400, f"Block Device Mapping is Invalid: failed to get volume {disk.get('uuid')}."
            )
        if disk.get("boot_index") == 0 and volume["bootable"] != "true":
            raise Refused(400, f"Block Device {volume['id']} is not bootable.")
        if not self._storage.may_be_attached(volume, server_id):
            message = (
                f"volume {volume['id']} status must be 'available' to reserve, but the "
                f"status is {volume['status']}."
            )
            raise Refused(400, f"Invalid volume: {message}")

    def _ports_for(self, call: Call, wanted: Json) -> list[Json]:
        """The ports wanted, in order; Nova creates one where only a network is named."""
        networks = wanted.get("networks", "auto")
        if networks == "none":
            return []
        if networks == "auto":
            mine = self._neutron.networks.where(lambda n: n["project_id"] == call.caller.project_id)
            if len(mine) > 1:
                raise Refused(
                    409, "Multiple possible networks found, use a Network ID to be more specific."
                )
            networks = [{"uuid": n["id"]} for n in mine]
        found = []
        for one in networks:
            if "port" in one:
                port = self._neutron.ports.get(one["port"])
                if port is None or not call.caller.may_see(port):
                    raise Refused(400, f"Port {one['port']} could not be found.")
                if port["device_id"]:
                    raise Refused(409, f"Port {port['id']} is still in use.")
                if not port["fixed_ips"] and port["ip_allocation"] != "none":
                    raise Refused(400, f"Port {port['id']} requires a FixedIP in order to be used.")
                found.append({"port_id": port["id"], "tag": one.get("tag"), "made": False})
                continue
            network = self._neutron.networks.get(one["uuid"])
            if network is None:
                raise Refused(400, f"Network {one['uuid']} could not be found.")
            fixed = [{"ip_address": one["fixed_ip"]}] if one.get("fixed_ip") else None
            made = self._neutron.make_port(
                network, call.caller.project_id, {"fixed_ips": fixed} if fixed else {}
            )
            found.append({"port_id": made["id"], "tag": one.get("tag"), "made": True})
        return found

    def _refusal(self, server: Json, interfaces: Sequence[Json]) -> str | None:
        """Why a host cannot plug the ports of a server; found when it is built."""
        hostname = server["OS-EXT-SRV-ATTR:hostname"]
        for port in (self._neutron.ports[i["port_id"]] for i in interfaces):
            if port["dns_name"] not in ("", hostname):
                return (
                    "Exceeded maximum number of retries. Exhausted all hosts available for "
                    "retrying build failures: PortNotUsableDNS"
                )
            if self._has_no_subnet_but_filters(port["network_id"]):
                return "SecurityGroupCannotBeApplied: network requires a subnet"
        return None

    def _has_no_subnet_but_filters(self, network_id: str) -> bool:
        subnets = self._neutron.subnets.where(lambda s: s["network_id"] == network_id)
        return not subnets and self._neutron.networks[network_id]["port_security_enabled"]

    def _bind(self, port_id: str, server: Json) -> None:
        port = self._neutron.ports[port_id]
        owner = {
            "device_id": server["id"],
            "device_owner": f"compute:{ZONE}",
            "status": "ACTIVE" if port["admin_state_up"] else "DOWN",
            "dns_name": server["OS-EXT-SRV-ATTR:hostname"],
        }
        self._neutron.ports.keep(
            port, **owner, **{"binding:host_id": self._servers.site, "binding:vif_type": "ovs"}
        )

    async def _build(
        self, server: Json, disks: list[Json], caller: Caller, refusal: str | None
    ) -> None:
        try:
            await self._servers.conditions.take("server.create")
            if refusal is not None:
                raise OperationFailed(refusal)
            if self._groups.are_full(server["id"]):
                raise OperationFailed("No valid host was found. There are not enough hosts.")
            if server["image"]:
                source = self._glance.path(self._glance.images[server["image"]["id"]])
                disk_path = self._storage.disk_path(server["id"])
                await asyncio.to_thread(blocks.copy, source, disk_path)
            for disk in disks:
                volume = await self._volume_of(disk, caller, server["id"])
                self._servers.attach(server, volume, disk)
        except (OperationFailed, Refused, OSError) as error:
            self._servers.fault(server, f"Build of instance {server['id']} aborted: {error}")
            return
        if server["id"] not in self._servers.table:
            return
        self._servers.table.keep(
            server,
            _image_properties=self._image_properties(server),
            **{"OS-SRV-USG:launched_at": self._servers.conditions.timestamp()},
        )
        self._servers.power_on(server)

    def _image_properties(self, server: Json) -> dict[str, str]:
        """What Nova keeps of the image of a server, or of its root volume, when it boots."""
        if server["image"]:
            about = self._glance.images[server["image"]["id"]]
        else:
            root = self._storage.volumes[server["_attachments"][0]["volume_id"]]
            about = root["volume_image_metadata"]
        return {
            k: v
            for k, v in about.items()
            if k.startswith(("hw_", "os_", "img_")) and isinstance(v, str)
        }

    async def _volume_of(self, disk: Json, caller: Caller, server_id: str) -> Json:
        """The volume of a block device, made from an image if that is what it is to come from."""
        if disk["source_type"] == "volume":
            self._check_disk(caller, disk, server_id)
            return self._storage.volumes[disk["uuid"]]
        source = {"imageRef": disk["uuid"]} if disk["source_type"] == "image" else {}
        volume, work = self._volumes.make(
            caller, {"name": "", "size": int(disk["volume_size"]), **source}, NEWEST
        )
        await work
        if volume["status"] != "available":
            raise OperationFailed(f"Volume {volume['id']} did not finish being created")
        return volume
