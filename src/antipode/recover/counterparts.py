# SPDX-License-Identifier: Apache-2.0
"""The counterpart of a volume: what the storage of the backup site holds under its real name.

Cinder's drivers manage whatever exists, and rename it. So nothing may be managed that is not for
certain the replica: this looks first, and refuses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.errors import CounterpartRefused, NoCounterpart
from antipode.model.reference import BackendReference
from antipode.topology.references import NAME_ID


@dataclass(frozen=True)
class Counterpart:
    """What a back end of the backup site holds under the name of a volume."""

    host: str
    """where it was looked for"""
    reference: Mapping[str, object]
    """as the back end lists it, and as `manage` takes it: `{"source-name": …}`"""
    size_gib: int
    cinder_id: str | None
    """the volume that it is already in the Cinder of this site; None where Cinder does not know it
    """
    safe_to_manage: bool
    """whether the driver says so; a replica that is not promoted is in use"""
    reason: str | None
    """why not, in the driver's words"""

    @property
    def source_name(self) -> str:
        return str(next(iter(self.reference.values())))


def counterpart(site: Site, host: str, reference: BackendReference, size_gib: int) -> Counterpart:
    """As `BackEnd.counterpart`, for one volume. For several, make a `BackEnd` and ask that: it
    lists what the storage holds once.
    """
    return BackEnd(site, host).counterpart(reference, size_gib)


class BackEnd:
    """What a back end of a site holds, listed once when it is first asked for. The calls are of
    administrators. It may be asked from one thread at a time.
    """

    def __init__(self, site: Site, host: str) -> None:
        """`host` is `HOST@BACKEND` or `HOST@BACKEND#POOL`, as pools and volumes have it."""
        self._site = site
        self._host = host

    @property
    def place(self) -> str:
        """For people."""
        return f"back end {self._host} of {self._site.name}"

    def counterpart(self, reference: BackendReference, size_gib: int) -> Counterpart:
        """The counterpart of a volume, found by its name.

        One that Cinder knows already, or that is in use, is no error: see `cinder_id` and
        `safe_to_manage`.

        Args:
            reference: of the volume, as it was captured at the other site.
            size_gib: its size then.

        Raises:
            NoCounterpart: the back end lists nothing of this name; or it is not known what the
                other site called the volume.
            CounterpartRefused: what has the name is of another size, belongs to another volume, or
                is not alone; or it is the volume itself, as both sites use one storage.
            ApiError: 403, the user is no administrator; 404, there is no such host; 400, it is down
                or disabled.
            SiteUnreachable: the site does not answer.
        """
        if reference.name is None:
            raise NoCounterpart(
                f"What the storage calls the volume at {reference.host or 'its site'} is not known"
                f" ({'; '.join(reference.missing) or 'it was not recorded'})"
            )
        name = reference.name
        rows = [r for r in self._rows if name in r["reference"].values()]
        if not rows:
            raise NoCounterpart(
                f"{self.place} lists no {name} among {len(self._rows)} volumes. Check that it is"
                " replicated there, and that the driver lists what Cinder does not know"
            )
        if len(rows) > 1:
            raise CounterpartRefused(f"{self.place} lists {name} {len(rows)} times")
        (row,) = rows
        self._refuse_same_storage(reference)
        if math.ceil(row["size"]) != size_gib:
            raise CounterpartRefused(
                f"{name} at {self.place} has {row['size']:g} GiB, and the volume has {size_gib}."
                " Wait until its extension is replicated, or use another recovery point"
            )
        if row["cinder_id"] is None:
            self._refuse_owned(name)
        return Counterpart(
            host=self._host,
            reference=row["reference"],
            size_gib=size_gib,
            cinder_id=row["cinder_id"],
            safe_to_manage=row["safe_to_manage"],
            reason=row["reason_not_safe"],
        )

    @cached_property
    def _rows(self) -> list[Json]:
        return self._site.backends.manageable_volumes(self._host)

    @cached_property
    def _owners(self) -> list[Json]:
        """All volumes of the site, of all projects."""
        return self._site.volumes.volumes_of_all_projects()

    @cached_property
    def _locations(self) -> set[str]:
        """What identifies the storage of this back end."""
        back_end, _, pool = self._host.partition("#")
        return {
            location
            for name, location in self._site.backends.locations().items()
            if name == self._host or (not pool and name.partition("#")[0] == back_end)
        }

    def _refuse_same_storage(self, reference: BackendReference) -> None:
        if reference.location is not None and reference.location in self._locations:
            raise CounterpartRefused(
                f"{reference.name} at {self.place} is the volume itself: the storage there is that"
                f" of {reference.host} ({reference.location})"
            )

    def _refuse_owned(self, name: str) -> None:
        """Refuse what Cinder seems not to know, and which is a volume of another name."""
        for volume in self._owners:
            if NAME_ID not in volume:
                raise CounterpartRefused(
                    f"{name} at {self.place} may be another volume's, as Cinder hides {NAME_ID}."
                    " Use a user that may see it"
                )
            if (real := volume[NAME_ID] or volume["id"]) in name:
                raise CounterpartRefused(
                    f"{name} at {self.place} holds the data of volume {volume['id']}"
                    f" (its {'name_id' if volume[NAME_ID] else 'id'} is {real}), though it is"
                    " listed as unmanaged. Do not manage it"
                )
