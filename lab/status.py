# SPDX-License-Identifier: Apache-2.0
"""The state of the lab: every program of every site, and the resources that it uses."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab import extras, inside, supervision, wan
from lab.service import NotReady, Service
from lab.services import services_of
from lab.site import SITES, Site


def status() -> dict[str, Any]:
    """The state of the lab, for `lab status -f json`: sites, and per program service, state, pid,
    since, ready, memory.
    """
    return {"sites": [_site(site) for site in SITES.values()]}


def render(lab: dict[str, Any]) -> str:
    """The same for reading."""
    lines = []
    for site in lab["sites"]:
        lines.append(
            f"{site['site']}  {site['address']}  {site['state']}  {site['memory_mib']} MiB  WAN: "
            f"{site['wan']}" + (f"  link: {site['link']}" if site["link"] != "absent" else "")
        )
        for row in site["programs"]:
            ready = "ready" if row["ready"] else f"not ready: {row['reason']}"
            lines.append(
                f"  {row['service']:<18} {row['program'] or '-':<22} {row['state']:<9} "
                f"{row['pid'] or '-':>8} "
                f"{row['since'] or '-':<25} {row['memory_mib']:>5} MiB  {ready}"
            )
    return "\n".join(lines)


def as_json(lab: dict[str, Any]) -> str:
    return json.dumps(lab, indent=2)


def _site(site: Site) -> dict[str, Any]:
    outer = inside.pids(site)
    alive = bool(outer) and supervision.answers(site)
    memory = _memory(outer)
    known = supervision.processes(site) if alive else {}
    isolated = wan.is_isolated(site)
    services = services_of(site)
    with ThreadPoolExecutor(len(services)) as at_once:
        reasons = at_once.map(
            lambda service: _why_not_ready(site, service, alive, isolated), services
        )
    asked = zip(services, reasons, strict=True)
    programs = [
        row
        for service, reason in asked
        for row in _rows(site, service, reason, known, outer, memory)
    ]
    state = (
        "down" if not alive else "ready" if all(row["ready"] for row in programs) else "degraded"
    )
    return {
        "site": site.name,
        "address": site.address,
        "state": state,
        "wan": "absent" if not wan.exists(site) else "isolated" if isolated else "joined",
        "link": _link(site),
        "processes": len(outer),
        "memory_mib": round(sum(memory.values()) / 2**20),
        "programs": programs,
    }


def _link(site: Site) -> str:
    """Between the site's linked tenant network and the other site's."""
    if not (wan.exists(site) and extras.has(site, extras.REPLICATION)):
        return "absent"
    return "cut" if wan.link_is_cut(site) else "joined"


def _why_not_ready(site: Site, service: Service, alive: bool, isolated: bool) -> str | None:
    if not alive:
        return "the site is down"
    if isolated:
        return "the site is isolated, it cannot be asked"
    try:
        service.check_ready(site)
    except NotReady as e:
        return str(e).splitlines()[0]
    return None


def _rows(
    site: Site,
    service: Service,
    reason: str | None,
    known: dict[str, Any],
    outer: dict[int, int],
    memory: dict[int, int],
) -> list[dict[str, Any]]:
    rows = []
    for program in service.programs(site):
        info = known.get(program.name)
        pid = outer.get(info["pid"]) if info and info["pid"] else None
        running = bool(info and info["statename"] == "RUNNING")
        rows.append(
            {
                "site": site.name,
                "service": service.name,
                "program": program.name,
                "state": info["statename"] if info else "STOPPED",
                "pid": pid,
                "since": datetime.fromtimestamp(info["start"], UTC).isoformat()
                if info and running
                else None,
                "ready": running and not reason,
                "reason": reason or (None if running else "not running"),
                "memory_mib": math.ceil(_of_tree(pid, outer, memory) / 2**20) if pid else 0,
            }
        )
    return rows


def _memory(outer: dict[int, int]) -> dict[int, int]:
    """Proportional resident bytes per process (shared pages are counted once over all), by the pid
    outside.
    """
    sizes = {}
    for pid in outer.values():
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        sizes[pid] = next(
            (int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")),
            0,
        )
    return sizes


def _of_tree(pid: int, outer: dict[int, int], memory: dict[int, int]) -> int:
    """The memory of a process and all its descendants."""
    children: dict[int, list[int]] = defaultdict(list)
    for process in outer.values():
        try:
            parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        children[parent].append(process)
    pending, total = [pid], 0
    while pending:
        process = pending.pop()
        total += memory.get(process, 0)
        pending += children[process]
    return total
