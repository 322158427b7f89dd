# SPDX-License-Identifier: Apache-2.0
"""Everything that the lab installs on the machine: Debian packages, and the virtual environment of
the OpenStack services.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from lab import debian, extras
from lab.errors import LabError
from lab.progress import Progress
from lab.site import ROOT, VENV

DEBIAN = """
rabbitmq-server mariadb-server mariadb-client memcached
ceph-mon ceph-mgr ceph-osd ceph-common python3-ceph-common python3-rbd python3-rados
libvirt-daemon-system libvirt-daemon libvirt-clients libvirt-daemon-driver-qemu
libvirt-daemon-driver-storage-rbd python3-libvirt
qemu-system-x86 qemu-utils qemu-block-extra seabios ipxe-qemu genisoimage
openvswitch-switch dnsmasq-base dnsmasq-utils iproute2 iptables ebtables bridge-utils iputils-ping
iputils-arping util-linux procps
python3-venv python3-dev gcc libc6-dev pkg-config liberasurecode-dev
busybox-static grub-pc-bin kmod e2fsprogs cpio zstd libglib2.0-0 libnuma1 libudev1 liburing2
"""
"""Line by line: infrastructure, storage, virtualization, network, for building what has no wheel,
for building the guest image.
"""

FOR_EXTRAS = {extras.REPLICATION: "rbd-mirror open-iscsi", extras.NETWORK: "conntrack"}
"""Nova attaches a volume that Cinder has taken over only where iscsiadm is, whatever its driver."""

PROJECT = Path(__file__).parents[1]
LOCK = PROJECT / "lab" / "requirements.lock"
LOCKS_FOR_EXTRAS = {
    extra: PROJECT / "lab" / f"requirements-{extra}.lock"
    for extra in (extras.KEY_MANAGER, extras.HEAT)
}
"""What they need beside all that is in LOCK, and which fits to that."""
QUIESCE_ADD_ON = PROJECT / "nova_quiesce"
LOG = ROOT / "install.log"


def install(progress: Progress, wanted: Collection[str] = ()) -> bool:
    """Install what is missing of the lab, and of the extras wanted.

    Returns whether the quiesce add-on has changed, so that nova-api must be restarted.
    """
    ROOT.mkdir(parents=True, exist_ok=True)
    if missing := _missing(wanted):
        progress.say(f"installing {len(missing)} Debian packages (log: {LOG})")
        debian.install(missing, logged)
    if not openstack_is_current():
        progress.say(f"installing OpenStack into {VENV} (log: {LOG})")
        _build_venv()
        _mark("lock", _digest([LOCK]))
    for extra in set(wanted) & set(LOCKS_FOR_EXTRAS):
        _add_to_venv(extra, progress)
    sources = _sources(QUIESCE_ADD_ON)
    if _is_marked("nova-quiesce", _digest(sources)):
        return False
    progress.say(f"installing the quiesce add-on of nova-api into {VENV}")
    _install_add_on()
    _mark("nova-quiesce", _digest(sources))
    return True


def openstack_is_current() -> bool:
    """Whether the virtual environment is what the lock file says.

    If not, `install` replaces it, so nothing may run from it.
    """
    return _is_marked("lock", _digest([LOCK]))


def _missing(wanted: Collection[str]) -> list[str]:
    packages = " ".join([DEBIAN, *(FOR_EXTRAS.get(extra, "") for extra in wanted)]).split()
    known = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages],
        capture_output=True,
        text=True,
    )
    installed = {
        line.split()[0] for line in known.stdout.splitlines() if line.endswith(" installed")
    }
    return [package for package in packages if package not in installed]


def _build_venv() -> None:
    # Debian's own Python, and with its packages: the bindings of libvirt and Ceph come from Debian
    logged(["/usr/bin/python3", "-m", "venv", "--clear", "--system-site-packages", str(VENV)])
    _pip("install", "--ignore-installed", "-r", str(LOCK))


def _add_to_venv(extra: str, progress: Progress) -> None:
    lock = LOCKS_FOR_EXTRAS[extra]
    if not _is_marked(lock.stem, _digest([lock])):  # a new LOCK begins without marks
        progress.say(f"installing what {extra} needs into {VENV} (log: {LOG})")
        _pip("install", "--no-deps", "-r", str(lock))
        _mark(lock.stem, _digest([lock]))


def _install_add_on() -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy_add_on(Path(folder))
        _pip("install", "--no-deps", "--force-reinstall", folder)


def copy_add_on(folder: Path) -> None:
    """Copy the quiesce add-on's sources: building leaves files beside them."""
    for source in _sources(QUIESCE_ADD_ON):
        copy = folder / source.relative_to(QUIESCE_ADD_ON)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)


def _pip(*arguments: str) -> None:
    logged(
        [
            str(VENV / "bin" / "python"),
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            *arguments,
        ]
    )


def logged(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Execute a command with its output in LOG; raises LabError with the end of it."""
    with LOG.open("ab") as log:
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        done = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
    if done.returncode:
        end = "\n".join(LOG.read_text(errors="replace").splitlines()[-25:])
        raise LabError(
            f"installation failed: {' '.join(command[:6])} … ended with {done.returncode}; end "
            f"of {LOG}:\n{end}"
        )


def _sources(project: Path) -> list[Path]:
    built = ("build", "dist", "__pycache__")
    return sorted(
        path
        for path in project.rglob("*")
        if path.is_file()
        and not any(
            part in built or part.startswith(".") or part.endswith(".egg-info")
            for part in path.relative_to(project).parts
        )
    )


def _digest(files: Sequence[Path]) -> str:
    content = hashlib.sha256()
    for file in files:
        content.update(str(file.relative_to(PROJECT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return content.hexdigest()


def _marker(what: str) -> Path:
    return VENV / f".antipode-{what}"


def _is_marked(what: str, digest: str) -> bool:
    marker = _marker(what)
    return marker.exists() and marker.read_text() == digest


def _mark(what: str, digest: str) -> None:
    _marker(what).write_text(digest)
