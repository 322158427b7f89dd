# SPDX-License-Identifier: Apache-2.0
"""The image of a helper server for the mover: the guest of the canary, with an SSH server in the
place of the canary (dropbear, and the SFTP server of OpenSSH).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab.guest import image
from lab.site import CACHE

NAME = "helper"
"""Name of the image in Glance."""
PROPERTIES = image.PROPERTIES
SSH_PORT = 22
DOWNLOADED = ("dropbear-bin", "libtomcrypt1", "libtommath1", "openssh-sftp-server")
"""Debian packages that are only unpacked, never installed."""
PROGRAMS = ("usr/sbin/dropbear", "usr/lib/openssh/sftp-server")
SFTP = "/usr/lib/sftp-server"
"""Where dropbear looks for it."""
INITTAB = """\
::sysinit:/etc/init.d/boot
::respawn:/etc/init.d/network
::respawn:/etc/init.d/guest-agent
::respawn:/etc/init.d/ssh
::shutdown:/bin/umount -a -r
"""
SSH = """\
#!/bin/sh
# Serves SSH to the account root, for the key that the config drive's user_data is.
home=~root
if ! [ -s "$home/.ssh/authorized_keys" ]; then
  modprobe -a ata_piix sr_mod isofs
  mkdir -p /run/config-drive "$home/.ssh" /etc/dropbear
  chmod 700 "$home" "$home/.ssh"
  drive=$(findfs LABEL=config-2) || { sleep 1; exit 1; }
  mount -t iso9660 -o ro "$drive" /run/config-drive || { sleep 1; exit 1; }
  cp /run/config-drive/openstack/latest/user_data "$home/.ssh/authorized_keys"
  chmod 600 "$home/.ssh/authorized_keys"
  umount /run/config-drive
fi
exec /usr/sbin/dropbear -F -E -R -s -p 22
"""


def build() -> Path:
    """Return the raw disk image, built on the first call and kept in the lab's cache until one of
    its inputs changes.
    """
    guest = image.build()
    folder = CACHE / NAME
    debs = _downloaded(folder / "debs")
    inputs = [guest.name, *(deb.name for deb in debs), INITTAB, SSH]
    made = folder / f"{NAME}-{hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]}.raw"
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as work:
            _dressed(guest, debs, Path(work)).rename(made)
        for older in set(folder.glob(f"{NAME}-*.raw")) - {made}:
            older.unlink()
    return made


def _downloaded(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob("*.deb"))) != len(DOWNLOADED):
        _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *DOWNLOADED, cwd=folder)
    return sorted(folder.glob("*.deb"))


def _dressed(guest: Path, debs: list[Path], work: Path) -> Path:
    """A copy of a guest's disk with other programs in it."""
    unpacked, disk = work / "unpacked", work / "disk.raw"
    for deb in debs:
        _run("dpkg-deb", "-x", str(deb), str(unpacked))
    shutil.copyfile(guest, disk)
    files = {name: unpacked / name for name in PROGRAMS}
    for program in PROGRAMS:
        files |= dict(_libraries(unpacked, program))
    for name, text in (("etc/inittab", INITTAB), ("etc/init.d/ssh", SSH)):
        files[name] = work / Path(name).name
        files[name].write_text(text)
    folders = sorted({str(p) for name in files for p in Path(name).parents if p.name})
    commands = [f"mkdir /{folder}" for folder in folders]  # those that are there stay
    for number, (name, source) in enumerate(files.items()):
        copy = work / f"file-{number}"
        shutil.copyfile(source, copy)
        copy.chmod(0o755)
        commands += [f"rm /{name}", f"write {copy} /{name}"]
    commands.append(f"symlink {SFTP} /usr/lib/openssh/sftp-server")
    script = work / "commands"
    script.write_text("\n".join(commands) + "\n")
    partition = f"{disk}?offset={image.PARTITION_SECTOR * image.SECTOR}"
    _run("debugfs", "-w", "-f", str(script), partition)
    for name, source in files.items():  # debugfs ends well, whatever it could not do
        copied = work / "copied"
        _run("debugfs", "-R", f"dump /{name} {copied}", partition)
        if copied.read_bytes() != source.read_bytes():
            raise image.BuildFailed(f"helper image: /{name} could not be written")
    return disk


def _libraries(unpacked: Path, program: str) -> Iterator[tuple[str, Path]]:
    """The libraries of a program: where it looks for each, and the file."""
    own = unpacked / "usr/lib/x86_64-linux-gnu"
    listed = _run("ldd", str(unpacked / program), environment={"LD_LIBRARY_PATH": str(own)})
    for word in listed.split():
        if word.startswith("/"):
            source = Path(word)
            name = source.relative_to(unpacked) if source.is_relative_to(unpacked) else source
            yield str(name).lstrip("/"), source


def _run(*command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise image.BuildFailed(f"helper image: {' '.join(command)}: {done.returncode}: {said}")
    return done.stdout
