# SPDX-License-Identifier: Apache-2.0
"""Switching a site on and off: its namespaces, and the supervisor as its first process."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from lab import inside, supervision, wan
from lab.site import Site
from lab.waiting import wait_until

SUPERVISORD = Path(__file__).with_name("supervisord.py")


def private_folders(site: Site) -> dict[Path, Path]:
    """What the site has for its own of the machine's file system: where its processes see it ->
    where it is.
    """
    return {
        Path("/etc/ceph"): site.etc / "ceph",
        Path("/etc/libvirt"): site.etc / "libvirt",
        Path("/etc/hosts"): site.etc / "hosts",
        Path("/var/lib/libvirt"): site.data / "libvirt",
        Path("/var/cache/libvirt"): site.data / "libvirt-cache",
        Path("/var/log/libvirt"): site.log / "libvirt",
    }


def make_folders(site: Site) -> None:
    """Make the site's folders, as far as they are missing."""
    for folder in (site.etc, site.data, site.run, site.log, site.home / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    (site.etc / "hosts").write_text(
        f"127.0.0.1 localhost\n{site.address} {site.name} {site.compute_host}\n"
    )
    for seen, own in private_folders(site).items():
        if own.name != "hosts":
            own.mkdir(parents=True, exist_ok=True)
            seen.mkdir(parents=True, exist_ok=True)


def on(site: Site) -> bool:
    """Start the site's first process: the supervisor, which starts no program by itself.

    False when the site has one.
    """
    if inside.init_pid(site) is not None:
        return False
    wan.remove_stale_links(site)
    for lost in (site.run, site.home / "tmp"):
        shutil.rmtree(lost, ignore_errors=True)
    make_folders(site)
    log = (site.log / "supervisord.out").open("ab")
    # -P: as a script, without the lab's own modules in the search path
    supervisor = [
        sys.executable,
        "-P",
        str(SUPERVISORD),
        "--nodaemon",
        "--configuration",
        str(inside.supervisor_conf(site)),
    ]
    namespaces = ["--mount", "--propagation", "private", "--pid", "--uts", "--fork", "--mount-proc"]
    script = _inner_script(site) + f"exec {shlex.join(supervisor)}"
    subprocess.Popen(
        [
            *("nsenter", f"--net={wan.namespace(site)}", *inside.AS_ROOT),
            *("unshare", *namespaces, "sh", "-ec", script),
        ],
        env=inside.environment(site),
        cwd=site.home,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    wait_until(
        lambda: supervision.answers(site),
        f"the supervisor of {site.name} answers (see {log.name})",
        timeout=180,
    )
    return True


def off(site: Site) -> bool:
    """SIGKILL every process of the site at one instant, guests included: a disaster. False when it
    was not running.

    Killing the first process of a pid namespace makes the kernel kill all others and undo the
    mounts.
    """
    init = inside.init_pid(site)
    if init is None:
        return False
    everything = set(inside.pids(site).values())
    os.kill(init, signal.SIGKILL)
    wait_until(
        lambda: not any(_alive(pid) for pid in everything),
        f"every process of {site.name} is gone",
        timeout=180,
    )
    return True


def stop(site: Site, seconds: float = 20) -> None:
    """Let the programs of the site end by themselves for some seconds, then switch it off."""
    if inside.init_pid(site) is not None and supervision.answers(site):
        supervision.stop_all(site)
        deadline = time.monotonic() + seconds
        while supervision.anything_alive(site) and time.monotonic() < deadline:
            time.sleep(0.2)
    off(site)


def _inner_script(site: Site) -> str:
    mounts = "".join(
        f"mount --bind {shlex.quote(str(own))} {seen}\n"
        for seen, own in private_folders(site).items()
    )
    # /run is shared within the site, so that network namespaces which an agent mounts in /run/netns
    # are seen by all its processes.
    return (
        f"hostname {site.name}\n{mounts}"
        # shows the interfaces of this network namespace instead of the machine's
        "mount -t sysfs sysfs /sys\n"
        "mount -t tmpfs -o mode=755 tmpfs /run\nmount --make-shared /run\n"
        "mkdir -p /run/netns /run/lock /run/libvirt /run/openvswitch /run/ceph\n"
    )


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
