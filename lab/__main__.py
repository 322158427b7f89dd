# SPDX-License-Identifier: Apache-2.0
"""The command line of the lab: python -m lab up | down | status | …"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from lab import (
    add_on_tests,
    bring_up,
    clouds,
    extras,
    guest_access,
    inside,
    packages,
    power,
    status,
    supervision,
    wan,
)
from lab.errors import LabError
from lab.progress import Progress
from lab.services import services_of
from lab.site import CACHE, ROOT, SITES, VENV, Site


def main() -> int:
    arguments = _parser().parse_args()
    if os.geteuid() != 0:
        print("the lab needs root: it makes network namespaces and mounts", file=sys.stderr)
        return 2
    try:
        return int(arguments.run(arguments) or 0)
    except LabError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab", description="Two real OpenStack sites on this machine."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: object, text: str, *, site: bool = False
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        if site:
            sub.add_argument("site", type=_site, metavar="SITE", help=" or ".join(SITES))
        return sub

    sub = command(
        "up",
        _up,
        "bring up both sites, or what is down of them; install what is missing on the machine",
    )
    sub.add_argument(
        "--with",
        dest="extras",
        action="append",
        choices=extras.EXTRAS,
        default=[],
        help="an extra that both sites have from now on, until they are wiped",
    )
    command(
        "down", _down, "stop both sites and remove their namespaces and networks; keeps their data"
    )
    sub = command("wipe", _wipe, "as down, and remove the sites' data")
    sub.add_argument(
        "--all",
        action="store_true",
        help="remove the caches and the OpenStack virtual environment, too",
    )
    sub = command("status", _status, "show what runs where; exit code 0 when both sites are ready")
    sub.add_argument("-f", "--format", choices=("table", "json"), default="table")
    sub = command("logs", _logs, "show the end of the logs of a site's programs", site=True)
    sub.add_argument("program", nargs="*", help="default: all")
    sub.add_argument("-n", "--lines", type=int, default=30)
    sub.add_argument("-F", "--follow", action="store_true")
    command(
        "kill", _kill, "SIGKILL every process of the site at once, its guests included", site=True
    )
    command("revive", _revive, "bring a killed site up again", site=True)
    command(
        "isolate", _isolate, "drop all packets of the site on the WAN: calls to it hang", site=True
    )
    command("rejoin", _rejoin, "undo isolate", site=True)
    command("cut", _cut, "drop what guests of the sites' linked networks send each other")
    command("mend", _mend, "undo cut")
    sub = command("restart", _restart, "stop programs of a site and bring the site up", site=True)
    sub.add_argument("program", nargs="+")
    sub = command(
        "exec",
        _exec,
        "execute a command inside the site, e.g.: exec site-a -- virsh list",
        site=True,
    )
    sub.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND …")
    sub = command(
        "answer",
        _answer,
        "print what a guest answers to GET / from within its tenant network",
        site=True,
    )
    sub.add_argument("address")
    sub.add_argument("port", type=int)
    sub.add_argument("--timeout", type=float, default=5, help="seconds (default: 5)")
    sub = command(
        "test-nova-quiesce",
        _test_nova_quiesce,
        "run the quiesce add-on's own tests with an old, a middle and the newest Nova",
    )
    novas = ", ".join(add_on_tests.RELEASES)
    sub.add_argument("nova", nargs="*", type=_nova, help=f"some of {novas}; default: all")
    command(
        "calls",
        _calls,
        "print how often the host and the other site have called the site's WAN address",
        site=True,
    )
    return parser


def _site(name: str) -> Site:
    if name not in SITES:
        raise argparse.ArgumentTypeError(f"no such site: {name}; there are {', '.join(SITES)}")
    return SITES[name]


def _nova(name: str) -> add_on_tests.Release:
    if name not in add_on_tests.RELEASES:
        known = ", ".join(add_on_tests.RELEASES)
        raise argparse.ArgumentTypeError(f"no such Nova: {name}; there are {known}")
    return add_on_tests.RELEASES[name]


@contextmanager
def _alone() -> Iterator[None]:
    """One command at a time changes the lab."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with (ROOT / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            lock.seek(0)
            raise LabError(
                f"another command changes the lab: {lock.read().strip()}; wait for its end"
            ) from e
        lock.truncate(0)
        lock.write(f"pid {os.getpid()}, {' '.join(sys.argv[1:])}\n")
        lock.flush()
        yield


def _bring_up(sites: Sequence[Site]) -> None:
    progress = Progress()
    if not packages.openstack_is_current():
        _stop()
    wanted = {extra for extra in extras.EXTRAS for site in sites if extras.has(site, extra)}
    if packages.install(progress, wanted):
        for site in SITES.values():
            if inside.init_pid(site) is not None:
                supervision.stop(site, ["nova-api"])
    wan.up(list(SITES.values()))
    for site in sites:
        if wan.is_isolated(site):
            progress.say(f"{site.name}  rejoins the WAN")
            wan.rejoin(site)
        if wan.link_is_cut(site):
            progress.say(f"{site.name}  its linked network reaches the other site's again")
            wan.mend_link(site)
    file = clouds.write()
    changed = bring_up.bring_up(sites, progress)
    names = " and ".join(site.name for site in sites)
    print(
        f"{names}: {'ready' if changed else 'already ready'} after {progress.seconds:.1f} s; "
        f"credentials: OS_CLIENT_CONFIG_FILE={file}"
    )


def _up(arguments: argparse.Namespace) -> None:
    with _alone():
        for extra in arguments.extras:
            for site in SITES.values():
                extras.add(site, extra)
        _bring_up(list(SITES.values()))


def _stop() -> None:
    with ThreadPoolExecutor() as at_once:
        list(at_once.map(power.stop, SITES.values()))


def _down(_: argparse.Namespace) -> None:
    with _alone():
        _stop()
        wan.down()


def _wipe(arguments: argparse.Namespace) -> None:
    with _alone():
        for site in SITES.values():
            power.off(site)
        wan.down()
        for folder in [site.home for site in SITES.values()] + (
            [CACHE, VENV] if arguments.all else []
        ):
            if folder.exists():
                shutil.rmtree(folder)
        for file in (clouds.PATH, packages.LOG):
            file.unlink(missing_ok=True)


def _status(arguments: argparse.Namespace) -> int:
    lab = status.status()
    print(status.as_json(lab) if arguments.format == "json" else status.render(lab))
    return 0 if all(site["state"] == "ready" for site in lab["sites"]) else 1


def _logs(arguments: argparse.Namespace) -> int:
    site: Site = arguments.site
    logs = [site.log / f"{name}.log" for name in arguments.program] or sorted(
        site.log.glob("*.log")
    )
    if absent := [str(log) for log in logs if not log.exists()]:
        raise LabError(
            f"no such log: {', '.join(absent)}; there are: "
            f"{', '.join(log.stem for log in sorted(site.log.glob('*.log')))}"
        )
    options = [f"--lines={arguments.lines}", *(["--follow=name"] if arguments.follow else [])]
    return subprocess.run(["tail", *options, *map(str, logs)]).returncode


def _kill(arguments: argparse.Namespace) -> None:
    with _alone():
        was_running = power.off(arguments.site)
        print(f"{arguments.site.name}: {'killed' if was_running else 'was not running'}")


def _revive(arguments: argparse.Namespace) -> None:
    with _alone():
        _bring_up([arguments.site])


def _isolate(arguments: argparse.Namespace) -> None:
    with _alone():
        wan.isolate(arguments.site)


def _rejoin(arguments: argparse.Namespace) -> None:
    with _alone():
        wan.rejoin(arguments.site)


def _cut(_: argparse.Namespace) -> None:
    with _alone():
        for site in _linked_sites():
            wan.cut_link(site)


def _mend(_: argparse.Namespace) -> None:
    with _alone():
        for site in _linked_sites():
            wan.mend_link(site)


def _linked_sites() -> list[Site]:
    linked = [site for site in SITES.values() if extras.has(site, extras.REPLICATION)]
    if not linked or not all(map(wan.exists, linked)):
        raise LabError(
            "the sites have no linked networks; make them with: python -m lab up --with "
            f"{extras.REPLICATION}"
        )
    return linked


def _restart(arguments: argparse.Namespace) -> None:
    known = {
        program.name
        for service in services_of(arguments.site)
        for program in service.programs(arguments.site)
    }
    if unknown := set(arguments.program) - known:
        raise LabError(
            f"{arguments.site.name} has no program {', '.join(sorted(unknown))}; it has: "
            f"{', '.join(sorted(known))}"
        )
    with _alone():
        inside.require_init_pid(arguments.site)
        supervision.stop(arguments.site, arguments.program)
        _bring_up([arguments.site])


def _exec(arguments: argparse.Namespace) -> int:
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not argv:
        raise LabError("no command given; e.g.: python -m lab exec site-a -- virsh list")
    return inside.popen(arguments.site, argv).wait()


def _answer(arguments: argparse.Namespace) -> None:
    print(guest_access.answer(arguments.site, arguments.address, arguments.port, arguments.timeout))


def _test_nova_quiesce(arguments: argparse.Namespace) -> int:
    return add_on_tests.run(arguments.nova)


def _calls(arguments: argparse.Namespace) -> None:
    print(wan.calls_to(arguments.site))


if __name__ == "__main__":
    sys.exit(main())
