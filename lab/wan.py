# SPDX-License-Identifier: Apache-2.0
"""The network of the lab: a bridge as the WAN, a network namespace per site, isolation, and a count
of the calls to a site.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab import extras
from lab.errors import LabError
from lab.extras import REPLICATION
from lab.site import LINK_DEVICE, SITES, WAN_BRIDGE, WAN_HOST_ADDRESS, WAN_PREFIX, Site

COUNTERS = "antipode-wan"
"""Our iptables chain: rules without a target, so that they only count."""

CALLS = (("-p", "tcp", "--syn"), ("!", "-p", "tcp"))
"""The packets that open an exchange with a site: one rule each."""

BLACK_HOLE = (
    ("INPUT", "-i", "wan0", "-j", "DROP"),
    ("OUTPUT", "-o", "wan0", "-j", "DROP"),
    ("FORWARD", "-i", "wan0", "-j", "DROP"),
    ("FORWARD", "-o", "wan0", "-j", "DROP"),
)
"""What a site sends and receives, and what it forwards for its guests."""

LINK_CUT = (
    ("FORWARD", "-i", LINK_DEVICE, "-j", "DROP"),
    ("FORWARD", "-o", LINK_DEVICE, "-j", "DROP"),
)
"""What the guests of the linked tenant networks send each other."""


def namespace(site: Site) -> Path:
    return Path("/run/netns") / site.name


def exists(site: Site) -> bool:
    return namespace(site).exists()


def up(sites: Sequence[Site]) -> None:
    """Make the bridge, the namespaces and the counters, as far as they are missing."""
    if not _succeeds("ip", "link", "show", WAN_BRIDGE):
        _run("ip", "link", "add", WAN_BRIDGE, "type", "bridge")
    _run("ip", "address", "replace", f"{WAN_HOST_ADDRESS}/{WAN_PREFIX}", "dev", WAN_BRIDGE)
    _run("ip", "link", "set", WAN_BRIDGE, "up")
    for site in sites:
        _connect(site)
    _count(())
    for site in sites:
        _count(_enter(site))


def down() -> None:
    """Remove all of it.

    Processes in the namespaces must be gone: they would keep a namespace alive without its name.
    """
    for site in SITES.values():
        if exists(site):
            _run("ip", "netns", "delete", site.name)
        _delete_link(_host_end(site))
    _delete_link(WAN_BRIDGE)
    while _succeeds("iptables", "-w", "-D", "OUTPUT", "-j", COUNTERS):
        pass
    if _succeeds("iptables", "-w", "-F", COUNTERS):
        _run("iptables", "-w", "-X", COUNTERS)
    folder = Path("/run/netns")
    if _succeeds("mountpoint", "-q", str(folder)) and not any(
        folder.iterdir()
    ):  # `ip netns` made it a mount, to share namespaces
        _run("umount", str(folder))


def _delete_link(name: str) -> None:
    """Delete a link if it is there. The kernel may be about to do it: that of a namespace goes some
    time after the namespace.
    """
    if not _succeeds("ip", "link", "delete", name) and _succeeds("ip", "link", "show", name):
        _run("ip", "link", "delete", name)


def remove_stale_links(site: Site) -> None:
    """Delete what a killed site left in its namespace: taps and ports that outlive the process that
    made them.
    """
    for name in re.findall(
        r"^\d+: ([^:@]+)", _run(*_enter(site), "ip", "-o", "link"), re.MULTILINE
    ):
        if name not in ("lo", "wan0"):
            # fallback devices of the kernel refuse
            subprocess.run([*_enter(site), "ip", "link", "delete", name], capture_output=True)


def isolate(site: Site) -> None:
    """Drop all packets of the site at its WAN interface: calls to it hang instead of being
    refused.
    """
    _add(site, BLACK_HOLE)


def rejoin(site: Site) -> None:
    """Undo `isolate`."""
    _remove(site, BLACK_HOLE)


def is_isolated(site: Site) -> bool:
    return exists(site) and _has(site, BLACK_HOLE)


def cut_link(site: Site) -> None:
    """Drop what the site forwards for its linked tenant network; the sites themselves reach each
    other as before.
    """
    _add(site, LINK_CUT)


def mend_link(site: Site) -> None:
    """Undo `cut_link`."""
    _remove(site, LINK_CUT)


def link_is_cut(site: Site) -> bool:
    return exists(site) and _has(site, LINK_CUT)


def part(site: Site, other: Site) -> None:
    """Drop what the site sends to another one, so that what it copies there hangs; the host reaches
    both as before.
    """
    _add(site, _to(other))


def reunite(site: Site, other: Site) -> None:
    """Undo `part`."""
    _remove(site, _to(other))


def _to(other: Site) -> Rules:
    return (("OUTPUT", "-o", "wan0", "-d", other.address, "-j", "DROP"),)


Rules = Sequence[Sequence[str]]
"""Of iptables: chain and match of each."""


def _has(site: Site, rules: Rules) -> bool:
    """Whether the site has any of the rules: an interrupted command may have made one alone."""
    return any(_succeeds(*_enter(site), "iptables", "-w", "-C", *rule) for rule in rules)


def _add(site: Site, rules: Rules) -> None:
    for rule in rules:
        if not _has(site, [rule]):
            _run(*_enter(site), "iptables", "-w", "-A", *rule)


def _remove(site: Site, rules: Rules) -> None:
    for rule in rules:
        while _succeeds(*_enter(site), "iptables", "-w", "-D", *rule):
            pass


def calls_to(site: Site) -> int:
    """How often the host and the other sites have called the site's WAN address since the lab's
    network was made.

    Counted are the packets that begin something: a TCP connection, or anything that is not TCP.
    Packets on established connections are no calls (a peer that retransmits to an isolated site).
    Of sites that replicate, only the host is counted: they call each other by themselves, all the
    time.
    """
    others = [other for other in SITES.values() if other != site and exists(other)]
    return counted((), site) + sum(
        counted(_enter(other), site) for other in others if not extras.has(other, REPLICATION)
    )


def counted(enter: Sequence[str], site: Site) -> int:
    """The calls that one caller has made: the host, or the site that the command line `enter`
    enters.
    """
    lines = (
        line.split() for line in _run(*enter, "iptables", "-w", "-nvxL", COUNTERS).splitlines()
    )
    counts = [int(fields[0]) for fields in lines if site.address in fields]
    if len(counts) != len(CALLS):
        raise LabError(
            f"no counters of calls to {site.name} in iptables chain {COUNTERS}; run: python -m "
            "lab up"
        )
    return sum(counts)


def _host_end(site: Site) -> str:
    return f"wan-{site.short}"


def _connect(site: Site) -> None:
    if not exists(site):
        _run("ip", "netns", "add", site.name)
    if not _succeeds(*_enter(site), "ip", "link", "show", "wan0"):
        _run(
            "ip",
            "link",
            "add",
            _host_end(site),
            "type",
            "veth",
            "peer",
            "name",
            "wan0",
            "netns",
            site.name,
        )
    _run("ip", "link", "set", _host_end(site), "master", WAN_BRIDGE, "up")
    _run(*_enter(site), "ip", "address", "replace", f"{site.address}/{WAN_PREFIX}", "dev", "wan0")
    _run(*_enter(site), "ip", "link", "set", "wan0", "up")
    _run(*_enter(site), "ip", "link", "set", "lo", "up")


def _count(enter: Sequence[str]) -> None:
    if not _succeeds(*enter, "iptables", "-w", "-nL", COUNTERS):
        _run(*enter, "iptables", "-w", "-N", COUNTERS)
    for site in SITES.values():
        for call in CALLS:
            if not _succeeds(*enter, "iptables", "-w", "-C", COUNTERS, "-d", site.address, *call):
                _run(*enter, "iptables", "-w", "-A", COUNTERS, "-d", site.address, *call)
    if not _succeeds(*enter, "iptables", "-w", "-C", "OUTPUT", "-j", COUNTERS):
        _run(*enter, "iptables", "-w", "-I", "OUTPUT", "-j", COUNTERS)


def _enter(site: Site) -> tuple[str, ...]:
    # not `ip netns exec`: that makes a private mount namespace, in which what is mounted for others
    # is not seen
    return ("nsenter", f"--net={namespace(site)}")


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise LabError(
            f"{' '.join(argv)} failed with exit code {done.returncode}: {done.stderr.strip()}"
        )
    return done.stdout


def _succeeds(*argv: str) -> bool:
    """Whether a command succeeds; one that is not installed does not."""
    if shutil.which(argv[0]) is None:
        return False
    return subprocess.run(argv, capture_output=True).returncode == 0
