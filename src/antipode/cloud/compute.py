# SPDX-License-Identifier: Apache-2.0
"""Nova of one site: servers and what belongs to them, and the quiesce add-on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import quote

from antipode.cloud import answers
from antipode.cloud.api import Api, ApiError, Json, Urgency
from antipode.cloud.watch import Watch

LEAST, MOST = (2, 79), (2, 100)
"""delete_on_termination of an attachment is shown since 2.79, scheduler hints since 2.100, and
nothing is needed beyond that.
"""
_HOSTNAME = (2, 90)
_KEEP_VOLUME = (2, 85)
_OFF = {"stopped", "shelved", "shelved_offloaded", "deleted", "soft-delete"}


class Freeze(NamedTuple):
    """A quiesce of a server that has not ended, from any source."""

    id: str | None
    """distinguishes it from any other of the same server; None from an add-on without ids"""
    is_steady: bool
    """false while the quiesce or the unquiesce is under way: the server may be frozen"""


class Compute:
    def __init__(self, api: Api) -> None:
        api.negotiate(LEAST, MOST)
        self._api = api
        self.watch = Watch(
            api.site, "server", partial(api.pages, "/servers/detail", answers.SERVERS)
        )

    @property
    def version(self) -> str:
        """The microversion used."""
        return "{}.{}".format(*(self._api.microversion or ()))

    @property
    def takes_hostname(self) -> bool:
        """Whether a server can be given a hostname of its own (2.90)."""
        return self._api.microversion is not None and self._api.microversion >= _HOSTNAME

    def servers(self) -> list[Json]:
        """All servers of the project, with all details; see `is_unreadable`."""
        return self._api.all("/servers/detail", answers.SERVERS)

    def server(
        self,
        server_id: str,
        *,
        timeout_s: float | None = None,
        urgency: Urgency = Urgency.USUAL,
    ) -> Json | None:
        """A server as Nova shows it; None if there is none.

        Args:
            timeout_s: for the call; None for the usual.
            urgency: that of a window while a member may be frozen.
        """
        return self._api.find(
            f"/servers/{server_id}", answers.SERVER, timeout_s=timeout_s, urgency=urgency
        )

    def attachments(self, server_id: str) -> list[Json]:
        """The volume attachments of a server: volumeId, device, tag, delete_on_termination."""
        attachments: list[Json] = self._api.get(
            f"/servers/{server_id}/os-volume_attachments", answers.ATTACHMENTS
        )
        return attachments

    def attached_volumes(self, server_id: str, timeout_s: float) -> set[str]:
        """The ids of the volumes of a server; asked while members are frozen."""
        attached = self._api.get(
            f"/servers/{server_id}/os-volume_attachments",
            answers.ATTACHMENTS,
            timeout_s=timeout_s,
            urgency=Urgency.WINDOW,
        )
        return {a["volumeId"] for a in attached}

    def attach_volume(self, server_id: str, volume_id: str) -> None:
        """Begin to attach an available volume to a server (`POST …/os-volume_attachments`); Nova
        reserves it before it answers. It is in use in the end, or available where that has failed.
        """
        wanted: Json = {"volumeAttachment": {"volumeId": volume_id}}
        self._api.post(f"/servers/{server_id}/os-volume_attachments", wanted)

    def detach_volume(self, server_id: str, volume_id: str) -> None:
        """Begin to detach a volume from a server (`DELETE …/os-volume_attachments/ID`): it is
        available when the guest has let the disk go. One that is not attached is fine.
        """
        self._api.delete(f"/servers/{server_id}/os-volume_attachments/{volume_id}")

    def interfaces(self, server_id: str) -> list[Json]:
        """The interfaces of a server: port_id, mac_addr, tag."""
        interfaces: list[Json] = self._api.get(
            f"/servers/{server_id}/os-interface", answers.INTERFACES
        )
        return interfaces

    def plugged(self, server_id: str) -> list[str] | None:
        """The MAC addresses of a server's interfaces in the order in which the hypervisor has them,
        which is that of its next cold boot; None where Nova does not tell: to administrators only,
        of servers that run, and by some hypervisors.

        GET /servers/ID/diagnostics (2.48) asks the server's host.
        """
        try:
            nics = self._api.get(f"/servers/{server_id}/diagnostics", answers.DIAGNOSTICS)
        except ApiError:
            return None
        return [nic["mac_address"].lower() for nic in nics]

    def console(self, server_id: str) -> str:
        """The console log of a server, as far as its host keeps it (os-getConsoleOutput).

        Raises:
            ApiError: 409: the server has no host yet; 404, 501: its hypervisor keeps no log.
        """
        asked: Json = {"os-getConsoleOutput": {}}
        return str(self._api.post(f"/servers/{server_id}/action", asked, answers.CONSOLE))

    def create_server(self, server: Json, hints: Json | None = None) -> str:
        """Boot a server and return its id; it is not ACTIVE yet.

        Arguments as for `POST /servers`.
        """
        body: Json = {"server": server}
        if hints:
            body["os:scheduler_hints"] = hints
        return str(self._api.post("/servers", body, answers.MADE_SERVER)["id"])

    def delete_server(self, server_id: str) -> None:
        self._api.delete(f"/servers/{server_id}")

    def power_of(self, server_id: str, timeout_s: float) -> tuple[bool, str]:
        """Whether a server is off (SHUTOFF), and when Nova changed it last; asked while members are
        frozen.
        """
        server = self._api.get(
            f"/servers/{server_id}", answers.SERVER, timeout_s=timeout_s, urgency=Urgency.WINDOW
        )
        return server["status"] == "SHUTOFF", str(server.get("updated") or "")

    def stop_server(self, server_id: str) -> None:
        """Begin to switch a server off; it is SHUTOFF in the end."""
        self._api.post(f"/servers/{server_id}/action", {"os-stop": None})

    def start_server(self, server_id: str) -> None:
        """Begin to switch a server on; it is ACTIVE in the end."""
        self._api.post(f"/servers/{server_id}/action", {"os-start": None})

    def lock_server(self, server_id: str, reason: str | None) -> None:
        """Lock a server; one that is locked stays so."""
        wanted = {"locked_reason": reason} if reason else None
        self._api.post(f"/servers/{server_id}/action", {"lock": wanted})

    def unlock_server(self, server_id: str) -> None:
        """Unlock a server; one that is not locked stays so."""
        self._api.post(f"/servers/{server_id}/action", {"unlock": None})

    def is_locked_from(self, server_id: str, project_id: str) -> bool:
        """Whether a server is locked from another project than `project_id`, its own: then only an
        administrator can unlock it. False where Nova has forgotten who has locked it, or does not
        tell.

        GET /servers/ID/os-instance-actions, the newest first; Nova's `locked_by` is not shown.
        """
        try:
            done = self._api.get(
                f"/servers/{server_id}/os-instance-actions", answers.SERVER_ACTIONS
            )
        except ApiError:
            return False
        last = next((a for a in done if a["action"] in ("lock", "unlock")), None)
        return (
            last is not None
            and last["action"] == "lock"
            and last.get("project_id") not in (None, project_id)
        )

    def mark_server(self, server_id: str, metadata: Mapping[str, str]) -> None:
        """Add to the metadata of a server; other keys stay."""
        self._api.post(f"/servers/{server_id}/metadata", {"metadata": dict(metadata)})

    def unmark_server(self, server_id: str, key: str) -> None:
        """Remove a key from the metadata of a server; one that is not there is fine."""
        self._api.delete(f"/servers/{server_id}/metadata/{key}")

    def keep_volume(self, server_id: str, volume_id: str) -> None:
        """Have Nova not delete a volume together with its server.

        A Nova before 2.85 does not support it: nothing is done.
        """
        if self._api.microversion is not None and self._api.microversion >= _KEEP_VOLUME:
            wanted = {"volumeAttachment": {"volumeId": volume_id, "delete_on_termination": False}}
            self._api.call("PUT", f"/servers/{server_id}/os-volume_attachments/{volume_id}", wanted)

    def create_image(
        self, server_id: str, name: str, properties: Mapping[str, str], timeout_s: float
    ) -> str:
        """Have Nova make an image of a server (createImage, 2.45), and return its id.

        Of a server that boots from a volume, Nova freezes the guest, has Cinder snapshot the
        volumes one after another, and makes an image that names the snapshots. The answer comes
        before the snapshots are available; the guest is frozen until none is being created.

        Args:
            name: of the image; the snapshots are named `snapshot for NAME`.
            properties: of the image, beside those of the server's own image.

        Raises:
            ApiError: 4xx: refused; snapshots may have been made, and the guest is thawed once they
                are there. 5xx: it may be frozen.
            SiteUnreachable: it may be frozen.
        """
        body = {"createImage": {"name": name, "metadata": dict(properties)}}
        made = self._api.post(
            f"/servers/{server_id}/action",
            body,
            answers.MADE_IMAGE,
            timeout_s=timeout_s,
            urgency=Urgency.WINDOW,
        )
        return str(made)

    def flavors(self) -> list[Json]:
        return self._api.all("/flavors/detail", answers.FLAVORS)

    def services(self, binary: str) -> list[Json]:
        """The services of this name on all hosts: host, state (up, down), status (enabled,
        disabled). Administrators only.
        """
        services: list[Json] = self._api.get("/os-services", answers.SERVICES, binary=binary)
        return services

    def availability_zones(self) -> set[str]:
        """The names of the zones that are available."""
        zones = self._api.get("/os-availability-zone", answers.ZONES)
        return {z["zoneName"] for z in zones if z["zoneState"]["available"]}

    def keypair(self, name: str, user_id: str | None = None) -> Json | None:
        """A keypair of our own user, or (administrators only) of another."""
        path = f"/os-keypairs/{quote(name, safe='')}"
        if user_id:
            return self._api.find(path, answers.KEYPAIR, user_id=user_id)
        return self._api.find(path, answers.KEYPAIR)

    def import_keypair(self, name: str, public_key: str, kind: str) -> None:
        self._api.post(
            "/os-keypairs", {"keypair": {"name": name, "public_key": public_key, "type": kind}}
        )

    def server_groups(self) -> list[Json]:
        groups: list[Json] = self._api.get("/os-server-groups", answers.SERVER_GROUPS)
        hidden = self._api.hidden
        return [g | {"members": [m for m in g["members"] if m not in hidden]} for g in groups]

    def create_server_group(
        self, name: str, policy: str, rules: Mapping[str, int] | None = None
    ) -> str:
        """Create a server group and return its id.

        `rules` are those of the policy: `max_server_per_host` of anti-affinity.
        """
        group: Json = {"name": name, "policy": policy}
        if rules:
            group["rules"] = dict(rules)
        made = self._api.post(
            "/os-server-groups", {"server_group": group}, answers.MADE_SERVER_GROUP
        )
        return str(made["id"])

    def quota(self, project_id: str) -> Json:
        """The quotas of the project, each {limit, in_use, reserved}."""
        quota: Json = self._api.get(f"/os-quota-sets/{project_id}/detail", answers.QUOTA_SET)
        return quota

    def quiesce_support(self) -> Json | None:
        """The facts of the quiesce add-on (version, default_timeout, maximum_timeout in
        seconds); None when it is not installed.
        """
        return self._api.find("/os-quiesce", answers.ADD_ON)

    def quiesce_available(self) -> bool:
        return self.quiesce_support() is not None

    def is_quiesced(self, server_id: str) -> bool:
        """Whether the server was quiesced, by any request, and not unquiesced yet."""
        return self.freeze_of(server_id) is not None

    def freeze_of(self, server_id: str, timeout_s: float | None = None) -> Freeze | None:
        """The freeze that a server is in, None when it is in none; asked while members are frozen.

        `timeout_s`: None for the usual.
        """
        answer = self._api.get(
            f"/servers/{server_id}/os-quiesce",
            answers.FREEZE,
            timeout_s=timeout_s,
            urgency=Urgency.WINDOW,
        )
        return (
            Freeze(answer.get("id"), answer.get("state", "quiesced") == "quiesced")
            if answer["quiesced"]
            else None
        )

    def quiesce(self, server_id: str, timeout_s: float, answer_within_s: float) -> None:
        """Freeze the server's file systems; the add-on unquiesces by itself after `timeout_s`,
        rounded up to whole seconds.

        Raises:
            ApiError: 4xx: refused, nothing was frozen by this request; but it may be the second
                delivery of one that froze. 5xx: it may be frozen.
            SiteUnreachable: it may be frozen.
        """
        body = {"quiesce": {"timeout": math.ceil(timeout_s)}}
        self._api.post(
            f"/servers/{server_id}/action",
            body,
            timeout_s=answer_within_s,
            urgency=Urgency.WINDOW,
        )

    def unquiesce(self, server_id: str, timeout_s: float) -> None:
        """Unquiesce the server: when this returns its file systems are writable.

        A server that is not frozen stays so.
        """
        try:
            self._api.post(
                f"/servers/{server_id}/action",
                {"unquiesce": None},
                timeout_s=timeout_s,
                urgency=Urgency.THAW,
            )
        except ApiError as error:
            if error.status == 404 or (error.status == 409 and self._is_off(server_id, timeout_s)):
                # a freeze ends with the guest's kernel: a server that is gone or off is not frozen
                return
            raise

    def _is_off(self, server_id: str, timeout_s: float) -> bool:
        try:
            server = self._api.get(
                f"/servers/{server_id}", answers.SERVER, timeout_s=timeout_s, urgency=Urgency.THAW
            )
        except ApiError as error:
            if error.status == 404:
                return True
            raise
        return server.get("OS-EXT-STS:vm_state") in _OFF


def is_unreadable(server: Json) -> bool:
    """Whether Nova shows nothing of a server but its id, as its cell does not answer (2.69): its
    name is empty then.
    """
    return server["status"] == "UNKNOWN" and not server["name"]
