# SPDX-License-Identifier: Apache-2.0
"""A double of the command `rbd` over the bytes of embedded sites:
`python -m antipode.sandbox.rbd SITE_DIRECTORY ARGUMENTS`.

It knows what antipode asks of a pool, mirrored or not, and answers as `rbd` of Ceph 16.2 does. The
other site is the directory beside this one. There is no daemon: whatever asks a site has it first
receive all that the other has, as long as that is up and neither of them is isolated. Of a snapshot
that arrives all bytes are there. What a real rbd-mirror does in between, such as a first
synchronisation that lists snapshots before their bytes, is played by `CONDITIONS`.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import itertools
import json
import os
import struct
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from antipode.sandbox import blocks

POOL = "volumes"
SETTINGS = "site.json"
"""As `antipode.sandbox.settings` writes it: to import pydantic takes longer than all that a command
does.
"""
CLONES = "clones"
"""In the directory of a site: a second name of each image that rests on a state."""
MIRRORS = "mirrors.json"
"""In the directory of a site: its images that are mirrored, and the parents of its clones."""
CONDITIONS = "mirroring.json"
"""In the directory of a site: what goes wrong with what arrives there, `{"link": "cut"}`,
`{"daemon": "down"}`, `{"first-sync": true}` or `{"stuck": IMAGE}`: that one cannot be promoted;
`{"export": "cut"}`: what is exported breaks off.
"""
GRAIN, CHANGED_AT_ONCE = 4 << 10, 1 << 20
"""Bytes by which changes are found, and that are compared at once."""
NO_SUCH, IN_USE, EXISTS, INVALID, READ_ONLY, BUSY = 2, 16, 17, 22, 30, 39
Json = dict[str, Any]


class Refused(Exception):
    """The command fails with this exit code."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


class Pool:
    """The images of one site."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.conditions = _read(directory / CONDITIONS)
        empty: Json = {"mirrored": {}, "parents": {}, "unprotected": []}
        self.known = {**empty, **_read(directory / MIRRORS)}

    def keep(self) -> None:
        """Write what is known of the images."""
        text = json.dumps(self.known)
        new = self.directory / f"{MIRRORS}.new"
        new.write_text(text)
        new.replace(self.directory / MIRRORS)

    def path(self, image: str) -> Path:
        return self.directory / "volumes" / image

    def snapshot_path(self, image: str, snapshot: str) -> Path:
        return self.directory / "snapshots" / f"{image}@{snapshot}"

    def images(self) -> list[str]:
        found = (self.directory / "volumes").iterdir()
        return sorted(path.name for path in found if path.suffix != ".partial")

    def must_have(self, image: str) -> Path:
        if not (path := self.path(image)).exists():
            raise Refused(NO_SUCH, f"error opening image {image}: (2) No such file or directory")
        return path

    def snapshots(self, image: str) -> list[str]:
        found = (p.name for p in (self.directory / "snapshots").iterdir())
        of_image = (n.removeprefix(f"{image}@") for n in found if n.startswith(f"{image}@"))
        return sorted(n for n in of_image if not n.endswith(".partial"))

    def mirrored(self, image: str) -> Json | None:
        found: Json | None = self.known["mirrored"].get(image)
        return found

    def parent(self, image: str) -> Json | None:
        """The state that an image rests on, whatever name the image has got since."""
        path = self.must_have(image)
        return next((p for link, p in self._parents() if link.samefile(path)), None)

    def rests_on(self, image: str, parent: Json | None) -> None:
        """Have an image rest on a state, or on none any more."""
        path = self.path(image)
        for link, _ in self._parents():
            if link.samefile(path):
                self._forget(link)
        if parent is not None:
            name = str(uuid.uuid4())
            (self.directory / CLONES / name).hardlink_to(path)
            self.known["parents"][name] = parent

    def _parents(self) -> list[tuple[Path, Json]]:
        """A second name of each clone, which stays when Cinder gives the clone another; and what it
        rests on.
        """
        folder = self.directory / CLONES
        folder.mkdir(exist_ok=True)
        for link in list(folder.iterdir()):
            if link.stat().st_nlink == 1:  # Cinder has deleted the volume
                self._forget(link)
        return [(folder / name, parent) for name, parent in self.known["parents"].items()]

    def _forget(self, link: Path) -> None:
        self.known["parents"].pop(link.name, None)
        link.unlink()


def main(arguments: list[str]) -> int:
    """Do one command; its exit code."""
    directory, *words = arguments
    options = [w for w in words if w.startswith("--")]
    words = [w for w in words if not w.startswith("--") and w != "json"]
    here = Path(directory)
    with _locked(here.parent):
        pool = Pool(here)
        other = Pool(_other(here))
        if _is_reached(pool, other):
            _receive(pool, other)
        try:
            for length in (3, 2, 1):
                if (do := COMMANDS.get(" ".join(words[:length]))) is not None:
                    answer = do(pool, [*words[length:], *options])
                    break
            else:
                raise Refused(INVALID, f"unknown command: {' '.join(words)}")
        except Refused as refused:
            print(f"rbd: {refused}", file=sys.stderr)
            return refused.code
        pool.keep()
    if callable(answer):
        answer()  # without the lock, as its reader may be slow
    elif answer is not None:
        print(json.dumps(answer))
    return 0


def _receive(here: Pool, other: Pool) -> None:
    """Have all that the other site mirrors, and nothing that it has deleted."""
    first = here.conditions.get("first-sync", False)
    for image, mirror in other.known["mirrored"].items():
        if not mirror["primary"] or not other.path(image).exists():
            continue
        if image not in here.known["mirrored"]:
            here.known["mirrored"][image] = {"primary": False, "global_id": mirror["global_id"]}
        own = here.known["mirrored"][image]
        if own["primary"]:
            own["split"] = True
            continue  # there are two originals, and neither receives anything
        if own.get("split") and not own.get("resync"):
            continue
        if own.pop("resync_unseen", False):
            continue  # the daemon finds the wish at its next look
        own["split"] = own["resync"] = False
        own["syncing"] = first
        blocks.copy(other.path(image), here.path(image))
        for snapshot in set(other.snapshots(image)) - set(here.snapshots(image)):
            path = here.snapshot_path(image, snapshot)
            if first:
                blocks.create(path, other.snapshot_path(image, snapshot).stat().st_size)
            else:
                blocks.copy(other.snapshot_path(image, snapshot), path)
        for snapshot in set(here.snapshots(image)) - set(other.snapshots(image)):
            here.snapshot_path(image, snapshot).unlink()
    gone = [
        image
        for image, mirror in here.known["mirrored"].items()
        if not mirror["primary"] and not other.path(image).exists()
    ]
    for image in gone:
        _remove(here, image)
    here.keep()


def _remove(pool: Pool, image: str) -> None:
    pool.known["mirrored"].pop(image, None)
    for snapshot in pool.snapshots(image):
        pool.snapshot_path(image, snapshot).unlink()
    if pool.path(image).exists():
        pool.rests_on(image, None)
        pool.path(image).unlink()


def _pool_info(pool: Pool, _: list[str]) -> Json:
    return {"mode": "image", "site_name": pool.directory.name, "peers": [{"direction": "rx-tx"}]}


def _pool_status(pool: Pool, words: list[str]) -> Json:
    is_up = pool.conditions.get("daemon") != "down"
    health = "OK" if is_up else "ERROR"
    found: Json = {"summary": {"health": health, "daemon_health": health}}
    if "--verbose" in words:
        mirrored = pool.known["mirrored"]
        found["images"] = [_image_status(pool, image, is_up) for image in sorted(mirrored)]
    return found


def _image_status(pool: Pool, image: str, is_up: bool) -> Json:
    mirror = pool.known["mirrored"][image]
    state, description = "replaying", 'replaying, {"entries_behind_primary":0}'
    if mirror["primary"]:
        state, description = "stopped", "local image is primary"
    elif mirror.get("split"):
        state, description = "error", "split-brain"
    elif mirror.get("syncing"):
        state, description = "syncing", "bootstrapping, IMAGE_COPY/COPY_OBJECT 40%"
    elif not _is_reached(pool, Pool(_other(pool.directory))):
        state, description = "replaying", 'replaying, {"entries_behind_primary":5}'
    return {
        "name": image,
        "global_id": mirror["global_id"],
        "state": f"{'up' if is_up else 'down'}+{state}",
        "description": description,
    }


def _enable(pool: Pool, words: list[str]) -> None:
    image = _image(words[0])
    pool.must_have(image)
    if pool.parent(image) is not None:
        raise Refused(INVALID, "mirroring is not enabled for the parent")
    pool.known["mirrored"].setdefault(image, {"primary": True, "global_id": str(uuid.uuid4())})


def _is_original_elsewhere(pool: Pool, image: str) -> bool:
    """Whether the other site has not demoted an image, or cannot be asked."""
    other = Pool(_other(pool.directory))
    mirror = other.mirrored(image)
    return not _is_reached(pool, other) or mirror is None or bool(mirror["primary"])


def _promote(pool: Pool, words: list[str]) -> None:
    image = _image(words[0])
    pool.must_have(image)
    mirror = _must_be_mirrored(pool, image)
    if pool.conditions.get("stuck") == image:
        raise Refused(IN_USE, "failed to promote image")
    if mirror["primary"]:
        raise Refused(INVALID, "image is already primary")
    if "--force" not in words and _is_original_elsewhere(pool, image):
        raise Refused(
            IN_USE,
            "image is primary within a remote cluster or demotion is not propagated yet",
        )
    mirror["primary"], mirror["split"] = True, "--force" in words
    mirror["held_by_daemon"] = "--force" in words and pool.conditions.get("daemon") != "down"


def _demote(pool: Pool, words: list[str]) -> None:
    mirror = _must_be_mirrored(pool, _image(words[0]))
    if not mirror["primary"]:
        raise Refused(INVALID, "image is not primary")
    mirror["primary"] = False


def _resync(pool: Pool, words: list[str]) -> None:
    mirror = _must_be_mirrored(pool, _image(words[0]))
    if mirror["primary"]:
        raise Refused(INVALID, "image is primary, cannot resync to itself")
    mirror["resync"] = mirror["resync_unseen"] = True


def _must_be_mirrored(pool: Pool, image: str) -> Json:
    if (mirror := pool.mirrored(image)) is None:
        raise Refused(INVALID, "mirroring is not enabled for this image")
    return mirror


def _is_held(pool: Pool, mirror: Json) -> bool:
    """Whether the daemon holds an image as a replica, though it was promoted. It sees that at its
    next look, and never while it waits for the other site.
    """
    is_held = bool(mirror.get("held_by_daemon"))
    if _is_reached(pool, Pool(_other(pool.directory))):
        mirror["held_by_daemon"] = False
    return is_held


def _lock_ls(pool: Pool, words: list[str]) -> list[Json]:
    mirror = pool.mirrored(_image(words[0]))
    is_held = mirror is not None and mirror.get("held_by_daemon")
    return [{"id": "auto 1", "locker": "client.1", "address": "-"}] if is_held else []


def _lock_rm(pool: Pool, words: list[str]) -> None:
    mirror = pool.mirrored(_image(words[0]))
    if mirror is None or not mirror.get("held_by_daemon"):
        raise Refused(NO_SUCH, "releasing lock failed: (2) No such file or directory")
    mirror["held_by_daemon"] = False


def _snap_create(pool: Pool, words: list[str]) -> None:
    image, _, snapshot = _image(words[0]).partition("@")
    source, mirror = pool.must_have(image), pool.mirrored(image)
    if mirror is not None and (_is_held(pool, mirror) or not mirror["primary"]):
        pool.keep()
        raise Refused(READ_ONLY, "failed to create snapshot: (30) Read-only file system")
    path = pool.snapshot_path(image, snapshot)
    if path.exists():
        raise Refused(EXISTS, "failed to create snapshot: (17) File exists")
    blocks.copy(source, path)
    pool.known["unprotected"].append(path.name)


def _snap_protect(pool: Pool, words: list[str]) -> None:
    path = _snapshot(pool, words[0])
    if path.name not in pool.known["unprotected"]:
        raise Refused(IN_USE, "protecting snap failed: (16) Device or resource busy")
    pool.known["unprotected"].remove(path.name)


def _snap_unprotect(pool: Pool, words: list[str]) -> None:
    path = _snapshot(pool, words[0])
    if _children(pool, words):
        raise Refused(IN_USE, "unprotecting snap failed: (16) Device or resource busy")
    pool.known["unprotected"].append(path.name)


def _snap_rm(pool: Pool, words: list[str]) -> None:
    path = _snapshot(pool, words[0])
    if path.name not in pool.known["unprotected"]:
        raise Refused(IN_USE, "snapshot is protected from removal")
    path.unlink()
    pool.known["unprotected"].remove(path.name)


def _snapshot(pool: Pool, spec: str) -> Path:
    image, _, snapshot = _image(spec).partition("@")
    path = pool.snapshot_path(image, snapshot)
    if not path.exists():
        raise Refused(NO_SUCH, "failed to open snapshot: (2) No such file or directory")
    return path


def _export_diff(pool: Pool, words: list[str]) -> Callable[[], None]:
    """What has changed up to a snapshot, in the form `rbd diff v1`, on standard output."""
    spec, *_ = words
    prefix = "--from-snap="
    since = next((w.removeprefix(prefix) for w in words if w.startswith(prefix)), None)
    image, _, snapshot = _image(spec).partition("@")
    path = _snapshot(pool, spec)
    before = None if since is None else _snapshot(pool, f"{POOL}/{image}@{since}")
    # opened now, so that they stay while they are read
    new, old = blocks.Image(path), None if before is None else blocks.Image(before)
    breaks = pool.conditions.get("export") == "cut"

    def write() -> None:
        out = sys.stdout.buffer
        out.write(b"rbd diff v1\n")
        for tag, name in (b"f", since), (b"t", snapshot):
            if name is not None:
                out.write(tag + struct.pack("<I", len(name)) + name.encode())
        out.write(b"s" + struct.pack("<Q", new.size))
        for offset, length, data in _changes(new, old):
            what = b"z" if data is None else b"w"
            out.write(what + struct.pack("<QQ", offset, length))
            if breaks:
                return
            out.write(data or b"")
        if not breaks:
            out.write(b"e")

    return write


def _changes(
    new: blocks.Image, old: blocks.Image | None
) -> Iterator[tuple[int, int, bytes | None]]:
    """The runs of changed grains: offset, length, and the data; None for zeros."""
    for offset in range(0, new.size, CHANGED_AT_ONCE):
        length = min(CHANGED_AT_ONCE, new.size - offset)
        if new.is_hole(offset, length) and (old is None or old.is_hole(offset, length)):
            continue
        now = new.read(offset, length)
        then = bytes(length) if old is None or offset >= old.size else old.read(offset, length)
        if now == then:
            continue
        for begin, end, is_zeros in _runs(now, then):
            yield offset + begin, end - begin, None if is_zeros else now[begin:end]


def _runs(now: bytes, then: bytes) -> Iterator[tuple[int, int, bool]]:
    """Where two pieces differ, in grains: begin, end, and whether it is all zeros now."""
    differing = [
        (at, not now[at : at + GRAIN].strip(b"\0"))
        for at in range(0, len(now), GRAIN)
        if now[at : at + GRAIN] != then[at : at + GRAIN]
    ]

    def of_a_run(item: tuple[int, tuple[int, bool]]) -> tuple[int, bool]:
        number, (at, is_zeros) = item
        return at - number * GRAIN, is_zeros

    for (_, is_zeros), run in itertools.groupby(enumerate(differing), of_a_run):
        places = [at for _, (at, _) in run]
        yield places[0], min(places[-1] + GRAIN, len(now)), is_zeros


def _info(pool: Pool, words: list[str]) -> Json:
    image = _image(words[0])
    found: Json = {"name": image, "size": pool.must_have(image).stat().st_size}
    if (parent := pool.parent(image)) is not None:
        found["parent"] = {"pool": POOL, **parent}
    if (mirror := pool.mirrored(image)) is not None:
        found["mirroring"] = {"mode": "journal", "state": "enabled", "primary": mirror["primary"]}
    return found


def _snap_ls(pool: Pool, words: list[str]) -> list[Json]:
    image = _image(words[0])
    pool.must_have(image)
    loose = pool.known["unprotected"]
    return [
        {"name": name, "protected": str(f"{image}@{name}" not in loose).lower()}
        for name in pool.snapshots(image)
    ]


def _clone(pool: Pool, words: list[str]) -> None:
    (image, _, snapshot), clone = _image(words[0]).partition("@"), _image(words[1])
    source = pool.snapshot_path(image, snapshot)
    if not source.exists():
        raise Refused(NO_SUCH, "error opening parent image: (2) No such file or directory")
    if pool.path(clone).exists():
        raise Refused(EXISTS, "clone error: (17) File exists")
    blocks.copy(source, pool.path(clone))
    pool.rests_on(clone, {"image": image, "snapshot": snapshot})


def _flatten(pool: Pool, words: list[str]) -> None:
    image = _image(words[0])
    if pool.parent(image) is None:
        raise Refused(INVALID, "image has no parent")
    pool.rests_on(image, None)


def _children(pool: Pool, words: list[str]) -> list[Json]:
    image, _, snapshot = _image(words[0]).partition("@")
    if not pool.snapshot_path(image, snapshot).exists():
        raise Refused(NO_SUCH, "snapshot does not exist.")
    wanted = {"image": image, "snapshot": snapshot}
    return [{"pool": POOL, "image": i} for i in pool.images() if pool.parent(i) == wanted]


def _ls(pool: Pool, _: list[str]) -> list[str]:
    return pool.images()


def _rm(pool: Pool, words: list[str]) -> None:
    image = _image(words[0])
    pool.must_have(image)
    if pool.snapshots(image):
        raise Refused(BUSY, "image has snapshots - these must be deleted first")
    _remove(pool, image)


COMMANDS: dict[str, Callable[[Pool, list[str]], Any]] = {
    "mirror pool info": _pool_info,
    "mirror pool status": _pool_status,
    "mirror image enable": _enable,
    "mirror image promote": _promote,
    "mirror image demote": _demote,
    "mirror image resync": _resync,
    "lock ls": _lock_ls,
    "lock rm": _lock_rm,
    "snap create": _snap_create,
    "snap protect": _snap_protect,
    "snap unprotect": _snap_unprotect,
    "snap rm": _snap_rm,
    "snap ls": _snap_ls,
    "export-diff": _export_diff,
    "info": _info,
    "clone": _clone,
    "flatten": _flatten,
    "children": _children,
    "ls": _ls,
    "rm": _rm,
}


def _image(spec: str) -> str:
    pool, _, image = spec.partition("/")
    if pool != POOL:
        raise Refused(NO_SUCH, f"error opening pool '{pool}': (2) No such file or directory")
    return image


def _other(directory: Path) -> Path:
    sites = [file.parent for file in directory.parent.glob(f"*/{SETTINGS}")]
    (other,) = (site for site in sites if site.name != directory.name)
    return other


def _is_reached(here: Pool, other: Pool) -> bool:
    """Whether anything arrives here from the other site."""
    if here.conditions.get("link") == "cut" or here.conditions.get("daemon") == "down":
        return False
    return _is_joined(other.directory) and _is_joined(here.directory)


def _is_joined(directory: Path) -> bool:
    """Whether a site is up and not isolated."""
    settings = _read(directory / SETTINGS)
    control = http.client.HTTPConnection(settings["host"], settings["control_port"], timeout=5)
    try:
        control.request("GET", "/status")
        return not json.load(control.getresponse())["isolated"]
    except (OSError, http.client.HTTPException):
        return False
    finally:
        control.close()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One command at a time, over both sites."""
    with (folder / "rbd.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> Json:
    try:
        found: Json = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return found


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(sys.argv[1:]))
