# SPDX-License-Identifier: Apache-2.0
"""Transfer of the root disks of servers that boot from an image: the bytes of their images go from
Glance to Glance of each site at which the VNF can be recovered; the volumes go by Cinder's backups
(steps 2.6, 2.7).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from antipode.cloud.api import ApiError, Json
from antipode.cloud.image_bytes import PIECE, Content
from antipode.cloud.images import ALGORITHM, LOOK_S, properties_of, room_for, why_not_whole
from antipode.cloud.site import Site
from antipode.errors import AntipodeError, ResourceFailed, SiteUnreachable
from antipode.model.capture import Capture, Transferred
from antipode.model.marks import KEY, RUN, marks
from antipode.model.quota import QuotaNeed
from antipode.model.source import Image
from antipode.model.steps import Step, StepName, Timeline
from antipode.model.topology import Server, Topology
from antipode.protect.option import Protecting
from antipode.transfer import Earlier, Transfer
from antipode.transfer.cinder_backup import TRANSFER as BACKUPS

LOG = logging.getLogger(__name__)
VNF = "antipode:vnf"
"""of a copy: the VNF of whose root disk it is"""
NAMED = "antipode root disk of "
"""The beginning of the names of our copies. A server that boots from one passes its properties on
to its own images, but not its name."""
MOST_UPLOADS = 3
"""How often an image is sent to a site whose answer does not come."""
MOST_BREAKS = 5
"""How often in a row a stream may break off without a byte more."""
_FIELDS = ("disk_format", "container_format", "min_disk", "min_ram")


class ImageSteps(StepName):
    CARRY = "2.7", "carry image of root disk"
    REMOVE = "2.8", "remove images of root disks"


class ImagesAndBackups(Transfer):
    """Images for root disks on hypervisors, backups for volumes. A VNF without such disks is
    transferred by backups alone, and the other sites are not asked.
    """

    name = "images-and-backups"

    def check(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        yield from BACKUPS.check(protecting, topology)
        disks = [s.root_disk for s in topology.servers if s.root_disk]
        if not disks:
            return
        yield from _sites_problems(protecting, room_for(disks))

    def needs(self, protecting: Protecting, topology: Topology) -> list[QuotaNeed]:
        return BACKUPS.needs(protecting, topology)

    def transfer(
        self,
        protecting: Protecting,
        topology: Topology,
        capture: Capture,
        earlier: Earlier,
    ) -> Transferred:
        images = _carried(protecting, topology, capture, earlier) if capture.images else {}
        servers = [s.model_copy(update={"root_disk": None}) for s in topology.servers]
        of_volumes = topology.model_copy(update={"servers": servers})
        made = BACKUPS.transfer(protecting, of_volumes, capture, earlier)
        if images:
            _must_be_there_still(protecting, images.values())
        return made.model_copy(update={"sources": {**images, **made.sources}})

    def roll_back(self, protecting: Protecting) -> Collection[str]:
        return BACKUPS.roll_back(protecting)

    def remove_orphans(
        self,
        site: Site,
        runs: Collection[str],
        needed: Callable[[], Collection[str]],
        timeline: Timeline,
    ) -> Collection[str]:
        return BACKUPS.remove_orphans(site, runs, needed, timeline)

    def remove_elsewhere(
        self,
        sites: Iterable[Site],
        runs: Collection[str],
        needed: Callable[[], Collection[str]],
        timeline: Timeline,
    ) -> int:
        removed = 0
        problems: list[str] = []
        for site in sites:
            try:
                gone, left = _remove_of_runs(site, runs, needed, timeline)
            except (ApiError, SiteUnreachable) as error:
                problems.append(str(error))
            else:
                removed += gone
                problems += [f"image {i} at {site.name}: {why}" for i, why in left.items()]
        if problems:
            raise ResourceFailed(
                f"not all images of root disks could be removed: {'; '.join(problems)}"
            )
        return removed


TRANSFER = ImagesAndBackups()


def maker_of(image: Json) -> str | None:
    """The run that has made a copy of a root disk; None for any other image."""
    is_ours = str(image.get("name") or "").startswith(NAMED)
    maker = image.get(RUN) if is_ours else None
    return str(maker) if maker else None


def _remove_of_runs(
    site: Site, runs: Collection[str], needed: Callable[[], Collection[str]], timeline: Timeline
) -> tuple[int, dict[str, str]]:
    """Remove the copies that these runs brought to a site and no recovery point needs: how many are
    gone, and as for `remove`.
    """
    made = [i for i in site.images.images() if maker_of(i) in runs]
    doomed = [i for i in made if i["id"] not in needed()] if made else []
    if not doomed:
        return 0, {}
    with timeline.step(ImageSteps.REMOVE, site.name) as step:
        left = remove(site, doomed)
        step.result(images=len(doomed) - len(left))
    return len(doomed) - len(left), left


def remove(site: Site, images: Sequence[Json]) -> dict[str, str]:
    """Delete copies of root disks, except those that a server boots from: it may need its image
    again to be moved or rebuilt.

    Returns:
        the images that stay, and why.
    """
    in_use = {
        str(server["image"]["id"]): str(server["name"])
        for server in site.compute.servers()
        if server.get("image")
    }
    left: dict[str, str] = {}
    for image in images:
        if image["id"] in in_use:
            left[image["id"]] = f"server {in_use[image['id']]} boots from it"
            continue
        try:
            site.images.delete_image(image["id"])
        except ApiError as error:
            if error.status >= 500:
                raise
            left[image["id"]] = error.reason
    return left


def _sites_problems(p: Protecting, needed: Mapping[str, int]) -> Iterator[str]:
    """Problems that keep the images of root disks from being copied to the other sites."""
    try:
        sites = p.elsewhere()
    except AntipodeError as error:
        yield f"images of root disks cannot be brought to every backup site: {error}"
        return
    for site in sites:
        try:
            shortages = site.images.shortages(needed)
        except AntipodeError as error:
            yield f"images of root disks cannot be brought to {site.name}: {error}"
            continue
        for shortage in shortages:
            yield f"images of root disks cannot be brought to {site.name}: {shortage}"


def _carried(
    p: Protecting, topology: Topology, capture: Capture, earlier: Earlier
) -> dict[str, Image]:
    """The image of each root disk at every other site of the VNF, as a source."""
    servers = {s.root_disk.id: s for s in topology.servers if s.root_disk}
    sites, points = p.elsewhere(), earlier(servers)

    def carry_one(disk: str) -> Image:
        with p.slots:
            return _Carriage(p, servers[disk], capture.images[disk], sites).carry(
                points[disk].sources[disk] if disk in points and not p.full else None
            )

    with ThreadPoolExecutor(p.at_once, "image") as pool:
        work = {disk: pool.submit(carry_one, disk) for disk in capture.images}
    return {disk: done.result() for disk, done in work.items()}


def _must_be_there_still(p: Protecting, images: Iterable[Image]) -> None:
    """See that no copy has gone while volumes were backed up, which may take hours: one that an
    earlier point has brought may have been deleted with that point.

    Raises:
        ResourceFailed: one has.
    """
    for site in p.elsewhere():
        for image in images:
            copy = image.copies.get(site.name)
            if copy and (why := why_not_whole(site.images.image(copy), image)):
                raise ResourceFailed(
                    f"{site.name}: image {copy} of a root disk went while the VNF was protected:"
                    f" {why}. Protect the VNF again"
                )


class _SourceSilent(SiteUnreachable):
    """The site that has the image gives no more bytes of it."""


class _Carriage:
    """One image on its way to the other sites."""

    def __init__(self, p: Protecting, server: Server, image_id: str, sites: Sequence[Site]) -> None:
        self._p = p
        self._server = server
        self._sites = sites
        self._key = f"{p.run} {image_id}"
        image = p.site.images.image(image_id)
        if image is None or image["status"] != "active" or not image.get("size"):
            state = "gone" if image is None else image["status"]
            raise ResourceFailed(
                f"{p.site.name}: image {image_id} of server {server.name} is {state}, and cannot be"
                " brought to the backup site; protect the VNF again"
            )
        self._image = image

    def carry(self, previous: object) -> Image:
        """Bring the image to each site that lacks its bytes.

        Args:
            previous: the disk's newest source, whose copies are used where they have the same
                bytes.
        """
        known = self._image["os_hash_value"] if self._has_digest else None
        copies = self._copies_of(previous, known)
        lacking = [site for site in self._sites if site.name not in copies]
        digests = {known} - {None}
        for site in lacking:
            copies[site.name], digest = self._carry_to(site)
            digests.add(digest)
        if len(digests) != 1:
            raise ResourceFailed(
                f"{self._label} was read with different bytes each time; protect the VNF again"
            )
        return Image(
            sha512=str(digests.pop()),
            image_bytes=self._image["size"],
            disk_format=str(self._image.get("disk_format") or ""),
            copies=copies,
            carried_bytes=self._image["size"] if lacking else 0,
        )

    def _copies_of(self, previous: object, known: str | None) -> dict[str, str]:
        """The copies of a source that are used again, by site: of the same bytes, and whole where
        that can be seen. A site that does not answer now may have its copy still.
        """
        if not isinstance(previous, Image) or known is None or previous.sha512 != known:
            return {}
        answering = {site.name: site for site in self._sites}
        elsewhere = [name for name in self._p.vnf.sites if name != self._p.site.name]
        return {
            name: copy
            for name, copy in previous.copies.items()
            if name in elsewhere
            and (
                name not in answering
                or why_not_whole(answering[name].images.image(copy), previous) is None
            )
        }

    @property
    def _has_digest(self) -> bool:
        """Glance has no digest of an image that the hypervisor's storage has made in place."""
        return self._image.get("os_hash_algo") == ALGORITHM and bool(
            self._image.get("os_hash_value")
        )

    @property
    def _label(self) -> str:
        return f"image {self._image['id']} of server {self._server.name}"

    def _carry_to(self, site: Site) -> tuple[str, str]:
        """The image at another site, and its digest; one that an earlier try has brought whole is
        used.
        """
        with self._p.timeline.step(ImageSteps.CARRY, f"{self._server.name} to {site.name}") as step:
            found = self._left_by_earlier_tries(site)
            copy, digest = found or self._brought(site, step)
            carried = 0 if found else self._image["size"]
            step.result(image_id=copy, bytes=carried, sha512=digest, found=found is not None)
        return copy, digest

    def _left_by_earlier_tries(self, site: Site) -> tuple[str, str] | None:
        """A copy of this very image that this run has brought before, if it is whole; others of
        the server are removed: disks of two moments must not meet in one recovery point.
        """
        ours = [
            i
            for i in site.images.images()
            if maker_of(i) == self._p.run and i["name"] == self._name
        ]
        known = self._image.get("os_hash_value") if self._has_digest else None
        whole = [
            i
            for i in ours
            if known
            and i.get(KEY) == self._key
            and (i["status"], i.get("size")) == ("active", self._image["size"])
            and (i.get("os_hash_algo"), i.get("os_hash_value")) == (ALGORITHM, known)
        ]
        for image in ours:
            if image not in whole[:1]:
                site.images.delete_image(image["id"])
        return (whole[0]["id"], str(known)) if whole else None

    @property
    def _name(self) -> str:
        return f"{NAMED}{self._server.name}"[:255]

    def _brought(self, site: Site, step: Step) -> tuple[str, str]:
        """A new copy at another site, and its digest. Glance does not continue an upload that has
        broken off, so it begins again.
        """
        for left in reversed(range(MOST_UPLOADS)):
            try:
                return self._brought_at_once(site, step)
            except _SourceSilent:
                raise
            except SiteUnreachable as error:
                if not left:
                    raise
                LOG.warning("%s is brought to %s once more: %s", self._label, site.name, error)
        raise AssertionError("there is a last try")

    def _brought_at_once(self, site: Site, step: Step) -> tuple[str, str]:
        copy = site.images.create_image(self._name, self._properties())
        site.stay_authorized(60)
        try:
            digest = self._stream(site, copy, step)
            self._must_have_arrived(site, copy, digest)
        except AntipodeError:
            self._discard(site, copy)
            raise
        return copy, digest

    def _discard(self, site: Site, copy: str) -> None:
        try:
            site.images.delete_image(copy)
        except AntipodeError as error:
            # it carries the mark of the run, by which the rollback finds it
            LOG.warning("image %s at %s is left for now: %s", copy, site.name, error)

    def _properties(self) -> dict[str, object]:
        fields = {n: self._image[n] for n in _FIELDS if self._image.get(n) is not None}
        return {
            **properties_of(self._image),
            **fields,
            **marks(self._p.run, self._key),
            VNF: self._p.vnf.vnf,
        }

    def _stream(self, site: Site, copy: str, step: Step) -> str:
        """Bring the bytes; their digest. A stream of the source that breaks off continues."""
        digest = hashlib.new(ALGORITHM)
        content = Content(self._pieces(digest.update, step), self._image["size"])
        try:
            site.images.streams.write(copy, content)
        except ApiError as error:
            raise ResourceFailed(
                f"{site.name}: Glance does not take the bytes of {self._label}: {error.reason}"
            ) from error
        if content.taken != self._image["size"]:
            raise ResourceFailed(
                f"{self._p.site.name}: {self._label} has {content.taken} bytes, and not"
                f" {self._image['size']} as Glance says"
            )
        return digest.hexdigest()

    def _pieces(self, digested: Callable[[bytes], None], step: Step) -> Iterator[bytes]:
        """The bytes of the image at the active site; from where it broke off, after a break."""
        total, done, breaks, looked_at = self._image["size"], 0, 0, 0.0
        while done < total:
            try:
                with self._p.site.images.streams.read(self._image["id"], done) as pieces:
                    for piece in pieces:
                        digested(piece)
                        done, breaks = done + len(piece), 0
                        yield piece
                        if time.monotonic() > looked_at + LOOK_S:
                            looked_at = time.monotonic()
                            self._p.go_on()
                            step.waits_for(f"{done // PIECE} of {total // PIECE} MiB to be carried")
                if done < total:
                    raise SiteUnreachable(f"the bytes of {self._label} end after {done}")
            except SiteUnreachable as error:
                breaks += 1
                if breaks > MOST_BREAKS:
                    raise _SourceSilent(str(error)) from error
                LOG.warning("%s: read on from byte %d: %s", self._label, done, error)

    def _must_have_arrived(self, site: Site, copy: str, digest: str) -> None:
        """See that both Glances have the same bytes, by their own accounts and by ours.

        Raises:
            ResourceFailed: they do not.
        """
        there = site.images.image(copy)
        state = "gone" if there is None else there["status"]
        if there is None or state != "active" or there.get("size") != self._image["size"]:
            raise ResourceFailed(
                f"{site.name}: {self._label} was brought there, and image {copy} is {state}"
            )
        accounts = {self._p.site.name: self._image, site.name: there}
        for name, image in accounts.items():
            if image.get("os_hash_algo") == ALGORITHM and image.get("os_hash_value") != digest:
                raise ResourceFailed(
                    f"{name}: Glance has another {ALGORITHM} of {self._label} than the bytes that"
                    " were carried; protect the VNF again"
                )
        if there.get("os_hash_algo") != ALGORITHM:
            self._must_be_read_the_same(site, copy, digest)

    def _must_be_read_the_same(self, site: Site, copy: str, digest: str) -> None:
        """Where Glance keeps no digest that can be compared, all bytes are read again."""
        if site.images.sha512_of(copy, self._p.go_on)[0] != digest:
            raise ResourceFailed(f"{site.name}: image {copy} has other bytes than {self._label}")


def copies_at(
    site: Site, vnf: str, ids: Collection[str], of_points: Collection[str] = ()
) -> Mapping[str, Json]:
    """The copies of root disks of this VNF at a site that are among these images, or that were
    made for one of these recovery points.
    """
    return {
        image["id"]: image
        for image in site.images.images()
        if (maker := maker_of(image)) is not None
        and image.get(VNF) == vnf
        and (image["id"] in ids or maker.partition("-")[2] in of_points)
    }
