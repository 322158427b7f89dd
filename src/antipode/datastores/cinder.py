# SPDX-License-Identifier: Apache-2.0
"""Replication as Cinder's own API offers it: types with `replication_enabled`, groups that are
failed over by themselves, and `failover-host` for a whole back end.

All of it is asked of the Cinder that has the volumes. When that is gone with its site, none of it
helps; and it gives the Cinder of another site nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from antipode.datastores.switched import Switch, SwitchedStorage
from antipode.errors import AntipodeError, ResourceFailed
from antipode.model.base import Model, Seconds
from antipode.model.datastore import Health, Replica

if TYPE_CHECKING:
    from antipode.cloud.site import Site

LOOK_S = 0.5
BACK = "default"
"""As which target Cinder is asked for the back end itself."""
SWITCHED, ENABLED, UNDER_WAY = "failed-over", "enabled", "failing-over"
_HEALTH = {
    ENABLED: Health.REPLICATING,
    SWITCHED: Health.STOPPED,
    UNDER_WAY: Health.STOPPED,
    "enabling": Health.FIRST_SYNC,
    "error": Health.BROKEN,
    "failover-error": Health.BROKEN,
}
"""A volume by its `replication_status`; it is not replicated with any other."""
Json = dict[str, Any]


class Settings(Model):
    """A back end of Cinder at one site."""

    cloud: Annotated[str, Field(min_length=1)]
    """the entry of clouds.yaml by which Cinder is reached, of an administrator"""
    host: Annotated[str, Field(pattern=r"^[^@\s]+@[^#\s]+(#\S+)?$")]
    """the back end, as `HOST@BACKEND` or `HOST@BACKEND#POOL`"""
    target: Annotated[str, Field(pattern=r"^\S+$", max_length=255)]
    """the `backend_id` of its `replication_device`"""
    group: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """the volume group that is switched by itself; without one the whole back end is"""
    timeout: Annotated[Seconds, Field(gt=0, le=86400)] = 900.0
    """how long a switch may take"""


class ByCinder(SwitchedStorage):
    settings = Settings

    def __init__(self, name: str, site: str, settings: Model) -> None:
        super().__init__(name, site, settings)
        assert isinstance(settings, Settings)
        self._settings = settings

    @cached_property
    def _cloud(self) -> Site:
        from antipode.cloud.site import connect

        return connect(self.site, self._settings.cloud)

    @property
    def _back_end(self) -> str:
        return self._settings.host.partition("#")[0]

    def problems(self) -> Iterator[str]:
        try:
            service = self._service()
            if service["state"] != "up":
                yield f"{self.label}: cinder-volume of {self._back_end} is {service['state']}"
            yield from self._incapable()
            if self._settings.group is not None:
                self._group()
        except AntipodeError as error:
            yield str(error)

    def replicas(self, volumes: Collection[str]) -> dict[str, Replica]:
        known = {v["id"]: v for v in self._cloud.volumes.volumes_of_all_projects()}
        service = self._service()
        return {v: self._replica(v, known.get(v), service) for v in volumes}

    def replicate(self, volumes: Collection[str]) -> list[str]:
        new = [v for v, r in self.replicas(volumes).items() if r.health is Health.ABSENT]
        if self._settings.group is None:
            if new:
                raise ResourceFailed(
                    f"{self.label}: volume {', '.join(new)} is of no type with replication_enabled."
                    " Retype it: openstack volume set --type TYPE VOLUME"
                )
            return []
        group = self._group()
        if strange := set(volumes) - self._members(group):
            raise ResourceFailed(
                f"{self.label}: volume {', '.join(sorted(strange))} is not in volume group"
                f" {self._settings.group}; put it there"
            )
        if new:
            self._cloud.groups.enable_replication(group["id"])
            self._await(lambda: self._group()["replication_status"], ENABLED, lambda: None)
        return new

    def look(self, volumes: Collection[str], *, back: bool) -> Switch:
        if problem := next(self._incapable(), None):
            raise ResourceFailed(problem)
        wanted = ENABLED if back else SWITCHED
        moved = self._moved()
        elsewhere = [v for v in volumes if v not in {m["id"] for m in moved}]
        if elsewhere:
            raise ResourceFailed(
                f"{self.label}: volume {', '.join(elsewhere)} is not on {self._place}"
            )
        others = [v for v in moved if v["id"] not in volumes]
        return Switch(
            goes_to=f"{self._back_end} itself" if back else f"target {self._settings.target}",
            is_done=self._status() == wanted,
            others=[_words(v) for v in others if _is_copied(v)],
            lost=[_words(v) for v in moved if not _is_copied(v)] if not back else [],
        )

    def switch(self, *, back: bool, go_on: Callable[[], None]) -> None:
        wanted = ENABLED if back else SWITCHED
        target = BACK if back else self._settings.target
        now = self._status()
        if now == wanted:
            return
        if now not in (ENABLED, SWITCHED, UNDER_WAY):
            raise ResourceFailed(
                f"{self.label}: {self._place} has replication status {now}, and Cinder switches"
                " nothing then. Mend it there"
            )
        if now != UNDER_WAY:
            go_on()
            if self._settings.group is None:
                self._cloud.backends.fail_over(self._back_end, target)
            else:
                self._cloud.groups.fail_over(self._group()["id"], target)
        self._await(self._status, wanted, go_on)

    @property
    def _place(self) -> str:
        return f"volume group {self._settings.group}" if self._settings.group else self._back_end

    def _status(self) -> str:
        """The replication status of that which is switched."""
        holder = self._service() if self._settings.group is None else self._group()
        return str(holder.get("replication_status"))

    def _await(self, status: Callable[[], str], wanted: str, go_on: Callable[[], None]) -> None:
        """Wait until that which is switched has a status.

        Raises:
            ResourceFailed: it gets another one, or not in time.
        """
        deadline = time.monotonic() + self._settings.timeout
        while (now := status()) != wanted:
            if now not in (UNDER_WAY, "enabling"):
                raise ResourceFailed(
                    f"{self.label}: {self._place} is {now}, and not {wanted}. See the log of"
                    " cinder-volume"
                )
            if time.monotonic() > deadline:
                raise ResourceFailed(
                    f"{self.label}: {self._place} is {now} for {self._settings.timeout:g} s, and"
                    f" not {wanted}. Repeat the command to wait again"
                )
            go_on()
            time.sleep(LOOK_S)

    def _service(self) -> Json:
        """The volume service of the back end.

        Raises:
            ResourceFailed: there is none.
        """
        for service in self._cloud.volumes.services("cinder-volume"):
            if service["host"] == self._back_end:
                return service
        raise ResourceFailed(f"{self.label}: Cinder has no back end {self._back_end}")

    def _incapable(self) -> Iterator[str]:
        """Why the back end has no copy at its target; nothing where it has."""
        for pool in self._cloud.backends.pools():
            if pool["name"].partition("#")[0] != self._back_end:
                continue
            able = pool.get("capabilities", {})
            targets = able.get("replication_targets") or []
            if able.get("replication_enabled") is not True:
                yield (
                    f"{self.label}: {self._back_end} does not replicate; give it a"
                    " replication_device in cinder.conf"
                )
            elif self._settings.target not in targets:
                yield (
                    f"{self.label}: {self._back_end} has no target {self._settings.target};"
                    f" it has {', '.join(map(str, targets)) or 'none'}"
                )
            return
        yield f"{self.label}: the scheduler knows no pool of {self._back_end}"

    def _group(self) -> Json:
        """The volume group.

        Raises:
            ResourceFailed: there is none of its name, or there are several.
        """
        found = [g for g in self._cloud.groups.groups() if g["name"] == self._settings.group]
        if len(found) != 1:
            raise ResourceFailed(
                f"{self.label}: there are {len(found)} volume groups {self._settings.group} in the"
                f" project of cloud {self._settings.cloud}, and one is needed"
            )
        return found[0]

    def _members(self, group: Json) -> set[str]:
        volumes = self._cloud.volumes.volumes_of_all_projects()
        return {v["id"] for v in volumes if v.get("group_id") == group["id"]}

    def _moved(self) -> list[Json]:
        """The volumes that are switched together."""
        volumes = self._cloud.volumes.volumes_of_all_projects()
        if self._settings.group is not None:
            group = self._group()
            return [v for v in volumes if v.get("group_id") == group["id"]]
        return [
            v
            for v in volumes
            if str(v.get("os-vol-host-attr:host")).partition("#")[0] == self._back_end
        ]

    def _replica(self, volume: str, known: Json | None, service: Json) -> Replica:
        if known is None:
            return Replica(image=volume, health=Health.ABSENT, detail="Cinder has no such volume")
        status = str(known.get("replication_status"))
        detail = f"replication status {status}"
        if status == SWITCHED and (active := service.get("active_backend_id")):
            detail += f", served by target {active}"
        health = _HEALTH.get(status, Health.ABSENT)
        return Replica(image=volume, health=health, detail=detail)


def _is_copied(volume: Json) -> bool:
    """Whether a target has a volume, as far as Cinder knows."""
    return volume.get("replication_status") in (ENABLED, SWITCHED)


def _words(volume: Json) -> str:
    project = volume.get("os-vol-tenant-attr:tenant_id", "?")
    return f"{volume['name'] or volume['id']} ({volume['id']}, project {project})"
