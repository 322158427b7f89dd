# SPDX-License-Identifier: Apache-2.0
"""Builds the canary's guest image from Debian packages: GRUB, the Debian cloud kernel, busybox, the
QEMU guest agent, the canary.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lab.errors import LabError
from lab.site import CACHE

NAME = "canary"
"""Name of the image in Glance."""

PROPERTIES: Mapping[str, str] = {
    "hw_qemu_guest_agent": "yes",
    "os_require_quiesce": "yes",
    "hw_disk_bus": "virtio",
}
"""Image properties without which Nova gives the guest no agent channel, and so cannot quiesce it.
"""

PACKAGES: Sequence[str] = (
    *("busybox-static", "cpio", "e2fsprogs", "gcc", "grub-pc-bin", "kmod", "libc6-dev", "zstd"),
    *("libglib2.0-0", "libnuma1", "libudev1", "liburing2"),
)
"""Debian packages that must be installed on the machine that builds: tools, and the libraries of
the guest's programs.
"""

DOWNLOADED: Sequence[str] = ("linux-image-cloud-amd64", "qemu-guest-agent")
"""Debian packages that are only unpacked, never installed."""

SOURCES = Path(__file__).parent
ROOT_MODULES = ("virtio_console", "virtio_net", "virtio_rng", "ata_piix", "sr_mod", "isofs")
INITRAMFS_MODULES = ("virtio_pci", "virtio_blk")
SECTOR = 512
PARTITION_SECTOR = 2048
SIZE = 64 << 20
GRUB = Path("/usr/lib/grub/i386-pc")
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux")
GRUB_CONFIG = """\
set root=(hd0,msdos1)
linux /boot/vmlinuz console=ttyS0,115200 quiet loglevel=4 panic=5 net.ifnames=0 \
mitigations=off nokaslr noresume audit=0 apparmor=0 selinux=0 cryptomgr.notests \
no_timer_check random.trust_cpu=on
initrd /boot/initrd
boot
"""


class BuildFailed(LabError):
    """A step of the build failed; the message has the command and the end of what it said."""


def build() -> Path:
    """Return the raw disk image, built on the first call and kept in the lab's cache until one of
    its inputs changes.
    """
    folder = CACHE / "guest"
    debs = _download(folder / "debs")
    image = folder / f"canary-{_hash_of_inputs(debs)}.raw"
    if not image.exists():
        with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as work:
            _build_image(Path(work), debs).rename(image)
        for older in set(folder.glob("canary-*.raw")) - {image}:
            older.unlink()
    return image


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise BuildFailed(
            f"guest image: {' '.join(map(str, command))}: exit {done.returncode}: {said}"
        )
    return done.stdout


def _download(folder: Path) -> list[Path]:
    """Fetch what is only unpacked; the names of the files carry their versions."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob("*.deb"))) != len(DOWNLOADED):
        meta, agent = DOWNLOADED
        kernel = next(
            line.split()[-1]
            for line in _run("apt-cache", "depends", meta).splitlines()
            if "Depends:" in line
        )
        _run(
            "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", kernel, agent, cwd=folder
        )
    return sorted(folder.glob("*.deb"))


def _hash_of_inputs(debs: Iterable[Path]) -> str:
    digest = hashlib.sha256(_run("dpkg-query", "-W", *PACKAGES).encode())
    for deb in debs:
        digest.update(deb.name.encode())
    for path in sorted(p for p in SOURCES.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        digest.update(str(path.relative_to(SOURCES)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _build_image(work: Path, debs: Iterable[Path]) -> Path:
    unpacked = work / "unpacked"
    for deb in debs:
        _run("dpkg-deb", "-x", deb, unpacked)
    (modules,) = (unpacked / "lib/modules").iterdir()
    _run("depmod", "-b", unpacked, modules.name)
    root = work / "root"
    _make_root(root, unpacked, modules)
    _make_initramfs(work / "initramfs", modules, root / "boot/initrd")
    return _make_disk(work, root)


def _make_root(root: Path, unpacked: Path, modules: Path) -> None:
    shutil.copytree(SOURCES / "root", root)
    for folder in ("bin", "boot", "data", "dev", "proc", "root", "run", "sys", "tmp", "var"):
        (root / folder).mkdir(exist_ok=True)
    (root / "etc/mtab").symlink_to("/proc/self/mounts")
    (root / "var/run").symlink_to("/run")
    _install_busybox(root)
    _install_program(root, unpacked / "usr/sbin/qemu-ga", "usr/sbin/qemu-ga")
    _install_program(root, Path("/sbin/mke2fs"), "sbin/mke2fs")
    compile_canary(root / "bin/canary")
    _install_modules(root, modules, ROOT_MODULES)
    shutil.copyfile(unpacked / "boot" / f"vmlinuz-{modules.name}", root / "boot/vmlinuz")


def _make_initramfs(tree: Path, modules: Path, archive: Path) -> None:
    """The kernel has ext4 built in but the driver of the disk as a module."""
    for folder in ("bin", "dev", "proc", "sys", "mnt"):
        (tree / folder).mkdir(parents=True)
    _install_busybox(tree)
    _install_modules(tree, modules, INITRAMFS_MODULES)
    shutil.copy(SOURCES / "initramfs/init", tree / "init")
    _run(
        "sh", "-c", f"find . | cpio -o -H newc -R 0:0 --quiet | zstd -q -12 -o {archive}", cwd=tree
    )


def _install_busybox(tree: Path) -> None:
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    for applet in _run("/bin/busybox", "--list-full").split():
        link = tree / applet
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to("/bin/busybox")


def _install_program(root: Path, program: Path, name: str) -> None:
    """Copy a dynamically linked program with the libraries that it has on this machine."""
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # busybox may have left a link of this name
    shutil.copy(program, target)
    for word in _run("ldd", program).split():
        if word.startswith("/"):
            library = root / word.lstrip("/")
            library.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(word, library)
            library.chmod(0o755)


def compile_canary(target: Path) -> None:
    """Compile the canary as a static program (needs gcc and libc6-dev)."""
    _run(
        "gcc",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-static",
        "-s",
        "-o",
        target,
        SOURCES / "canary.c",
    )


def _install_modules(tree: Path, modules: Path, wanted: Iterable[str]) -> None:
    """Copy kernel modules with all they depend on, so that the guest's modprobe finds them."""
    dependencies = dict(
        line.split(":", 1) for line in (modules / "modules.dep").read_text().splitlines()
    )
    path_of = {Path(path).name.partition(".")[0].replace("-", "_"): path for path in dependencies}
    target = tree / "lib/modules" / modules.name
    for name in wanted:
        for path in (path_of[name], *dependencies[path_of[name]].split()):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(modules / path, target / path)
    _run("depmod", "-b", tree, modules.name)


def _make_disk(work: Path, root: Path) -> Path:
    """One ext4 partition, filled without being mounted; GRUB sits between the partition table and
    it, so it needs no file in it.
    """
    disk, core, config = work / "disk.raw", work / "core.img", work / "grub.cfg"
    config.write_text(GRUB_CONFIG)
    _run(
        "grub-mkimage", "-O", "i386-pc", "-p", "/boot/grub", "-c", config, "-o", core, *GRUB_MODULES
    )
    if core.stat().st_size > (PARTITION_SECTOR - 1) * SECTOR:
        raise BuildFailed(
            f"guest image: GRUB's core image ({core.stat().st_size} bytes) does not fit before "
            "the partition"
        )
    with disk.open("wb") as out:
        out.truncate(SIZE)
        out.write(_master_boot_record())
        out.write(core.read_bytes())
    offset = PARTITION_SECTOR * SECTOR
    # GRUB 2.06 refuses a filesystem with either of these two features
    features = "^metadata_csum_seed,^orphan_file"
    options = f"offset={offset},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-N", "2048", "-J", "size=4",
         "-O", features, "-E", options, "-L", "CANARY-ROOT", "-d", root, disk,
         f"{(SIZE - offset) // 1024}k")  # fmt: skip
    return disk


def _master_boot_record() -> bytes:
    """GRUB's first stage, which loads what begins in the next sector, and a table with one bootable
    Linux partition.
    """
    bootable, linux, no_chs = 0x80, 0x83, b"\xfe\xff\xff"
    length = SIZE // SECTOR - PARTITION_SECTOR
    entry = struct.pack("<B3sB3sII", bootable, no_chs, linux, no_chs, PARTITION_SECTOR, length)
    code = (GRUB / "boot.img").read_bytes()[:440]
    return code + struct.pack("<IH", 0x43414E41, 0) + entry + bytes(3 * len(entry)) + b"\x55\xaa"


if __name__ == "__main__":
    sys.stdout.write(f"{build()}\n")
