# SPDX-License-Identifier: Apache-2.0
"""Tempest's own compute API tests against the Nova of a site, with the quiesce add-on in its
pipeline and without it, and a comparison.

A test that fails with the add-on and not without it is a fault of the add-on.
"""

from __future__ import annotations

import argparse
import configparser
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import nova_without_add_on
from lab.errors import LabError
from lab.services import identity
from lab.services.openstack_conf import KEYSTONE_PORT, PASSWORD
from lab.site import CACHE, SITES, Site

ENVIRONMENT = CACHE / "tempest"
"""A virtual environment that outlives the run that has made it."""
REQUIREMENT = "tempest==47.0.0"
BUILD = Path("build") / "tempest"
TESTS = r"^tempest\.api\.compute\.(servers|images|volumes)\."
"""Servers, server actions, images and volume attachments."""
EXCLUDED: Mapping[str, str] = {}
"""Regular expressions of tests that this lab cannot pass, and why."""
CONCURRENCY = 3
BUILD_TIMEOUT_S = 600
"""For one resource. Guests are emulated, and share the cores with all services."""
HTTP_TIMEOUT_S = 180
SHUTDOWN_S = 20
"""How long Nova lets a guest end by itself: one that boots does not listen yet."""
NAME = "tempest"
"""Of all that is made for Tempest at a site."""
CIDR = "10.100.0.0/20"
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
_OUTCOMES = {"success": PASSED, "skip": SKIPPED, "xfail": PASSED}
"""Of subunit's words; every other one is a failure."""


@dataclass(frozen=True)
class Run:
    """What came of each test, and of each fixture of a class that failed."""

    outcomes: Mapping[str, str]
    seconds: float

    def named(self, outcome: str) -> list[str]:
        return sorted(test for test, known in self.outcomes.items() if known == outcome)


@dataclass(frozen=True)
class Comparison:
    """The same tests with the add-on and without it."""

    with_add_on: Run
    without: Run
    only_failed: bool
    """whether only those were run without it that failed with it"""

    @property
    def failed_only_with_add_on(self) -> list[str]:
        return sorted(set(self.with_add_on.named(FAILED)) - set(self.without.named(FAILED)))

    @property
    def failed_only_without(self) -> list[str]:
        return sorted(set(self.without.named(FAILED)) - set(self.with_add_on.named(FAILED)))

    def as_json(self) -> dict[str, Any]:
        return {
            "with_add_on": _facts(self.with_add_on),
            "without_add_on": _facts(self.without),
            "only_those_that_failed_were_run_without": self.only_failed,
            "failed_only_with_add_on": self.failed_only_with_add_on,
            "failed_only_without_add_on": self.failed_only_without,
            "excluded": dict(EXCLUDED),
        }

    def render(self) -> str:
        rows: list[tuple[str, ...]] = [("", PASSED, FAILED, SKIPPED, "minutes")]
        for name, run in (
            ("with the add-on", self.with_add_on),
            ("without, those that failed" if self.only_failed else "without", self.without),
        ):
            count = Counter(run.outcomes.values())
            figures = [str(count[outcome]) for outcome in (PASSED, FAILED, SKIPPED)]
            rows.append((name, *figures, f"{run.seconds / 60:.1f}"))
        lines = [f"{name:<28}" + "".join(f"{f:>9}" for f in figures) for name, *figures in rows]
        for title, tests in (
            ("failed only with the add-on", self.failed_only_with_add_on),
            ("failed only without the add-on", self.failed_only_without),
            (
                "failed with and without",
                sorted(set(self.with_add_on.named(FAILED)) & set(self.without.named(FAILED))),
            ),
        ):
            lines += ["", f"{title}: {len(tests) or 'none'}", *(f"  {test}" for test in tests)]
        return "\n".join(lines)


def _facts(run: Run) -> dict[str, Any]:
    return {
        **{outcome: len(run.named(outcome)) for outcome in (PASSED, FAILED, SKIPPED)},
        "seconds": round(run.seconds),
        "failed_tests": run.named(FAILED),
    }


def compare(site: Site, tests: str, *, only_failed: bool) -> Comparison:
    """Run Tempest's tests with the add-on, and once more without it.

    Args:
        tests: a regular expression.
        only_failed: whether only those are run without the add-on that failed with it.

    Raises:
        LabError: Tempest cannot be installed or started.
    """
    tempest = Tempest(site)
    with _things(site) as things:
        tempest.configure(things, "compute")
        with_add_on = tempest.run("with-add-on", tests)
        again = _naming(with_add_on.named(FAILED)) if only_failed else tests
        without = Run({}, 0)
        if again:
            with nova_without_add_on.running(site) as service_type:
                tempest.configure(things, service_type)
                without = tempest.run("without-add-on", again)
    return Comparison(with_add_on, without, only_failed)


def _naming(failed: Sequence[str]) -> str:
    """A regular expression of these tests; of a class for a fixture of it that failed."""
    tests = [re.sub(r"^\w+ \((.*)\)$", r"\1", test) for test in failed]
    return "|".join(f"^{re.escape(test)}" for test in tests)


@dataclass(frozen=True)
class _Things:
    """What Tempest needs at a site."""

    images: Sequence[str]
    flavors: Sequence[str]


@contextmanager
def _things(site: Site) -> Iterator[_Things]:
    """Two images, two flavors with a disk, and a network of all projects; removed in the end.

    The image is the canary's without its demand for a quiesce, which Nova does not meet as long as
    a guest boots.
    """
    from lab.guest import image

    cloud = identity.connect(site)
    with ExitStack() as stack:
        flavors = []
        for number in (1, 2):
            flavor = cloud.compute.create_flavor(
                name=f"{NAME}-{number}", ram=192, vcpus=number, disk=1
            )
            stack.callback(cloud.compute.delete_flavor, flavor)
            flavors.append(flavor.id)
        properties = {k: v for k, v in image.PROPERTIES.items() if k != "os_require_quiesce"}
        images = []
        for number in (1, 2):
            picture = cloud.create_image(
                f"{NAME}-{number}",
                filename=str(image.build()),
                disk_format="raw",
                container_format="bare",
                visibility="public",
                wait=True,
                os_shutdown_timeout=str(SHUTDOWN_S),
                **properties,
            )
            stack.callback(cloud.image.delete_image, picture)
            images.append(picture.id)
        network = cloud.network.create_network(name=NAME, is_shared=True)
        stack.callback(cloud.network.delete_network, network)
        cloud.network.create_subnet(
            name=NAME, network_id=network.id, ip_version=4, cidr=CIDR, gateway_ip=None
        )
        yield _Things(images, flavors)


class Tempest:
    """Tempest, installed, with a workspace for one site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._program = _installed()
        self._folder = (BUILD / site.name).absolute()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        # with a list of workspaces of its own: Tempest keeps one in the user's home
        register = self._folder.with_suffix(".yaml")
        register.unlink(missing_ok=True)
        _call([self._program, "init", "--workspace-path", str(register), str(self._folder)])
        exclusions = [f"{tests}  # {reason}\n" for tests, reason in EXCLUDED.items()]
        self._exclusions.write_text("".join(exclusions))

    @property
    def _exclusions(self) -> Path:
        return self._folder / "etc" / "excluded.txt"

    def configure(self, things: _Things, service_type: str) -> None:
        """Write Tempest's configuration: projects of their own for each class of tests, no SSH.

        Args:
            service_type: that of Nova in the catalog.
        """
        parser = configparser.ConfigParser(interpolation=None)
        for section, options in _options(self._site, self._folder, things, service_type).items():
            parser[section] = {name: str(value) for name, value in options.items()}
        with (self._folder / "etc" / "tempest.conf").open("w") as file:
            parser.write(file)

    def run(self, name: str, tests: str) -> Run:
        """Run tests, and show Tempest's lines as they come.

        Args:
            name: of the run, in the names of its logs.

        Raises:
            LabError: none was run: Tempest's own words say why.
        """
        command = [self._program, "run", "--regex", tests, "--concurrency", str(CONCURRENCY)]
        command += ["--exclude-list", str(self._exclusions)]
        print(f"=== {name}", flush=True)
        began = time.monotonic()
        with (self._folder / f"{name}.txt").open("w") as log:
            process = subprocess.Popen(
                command,
                cwd=self._folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    log.write(line)
                    print(line, end="", flush=True)
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)  # its workers, too
                raise
            finally:
                process.wait()
        outcomes = self._outcomes(name)
        if not outcomes:
            raise LabError(f"Tempest has run nothing: see {self._folder / name}.txt")
        return Run(outcomes, time.monotonic() - began)

    def _outcomes(self, name: str) -> dict[str, str]:
        programs = Path(self._program).parent
        stream, table = self._folder / f"{name}.subunit", self._folder / f"{name}.csv"
        with stream.open("wb") as file:
            subprocess.run(
                [programs / "stestr", "last", "--subunit"], cwd=self._folder, stdout=file
            )
        with table.open("w") as file:  # its exit code is 1 when a test has failed
            subprocess.run([programs / "subunit2csv", "--no-passthrough", stream], stdout=file)
        return {
            re.sub(r"\[.*\]", "", row["test"]): _OUTCOMES.get(row["status"], FAILED)
            for row in csv.DictReader(table.read_text().splitlines())
        }


def _installed() -> str:
    """The program, installed where it is not yet."""
    program = ENVIRONMENT / "bin" / "tempest"
    note = ENVIRONMENT / "requirement"
    if not note.exists() or note.read_text() != REQUIREMENT:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        _call([sys.executable, "-m", "venv", str(ENVIRONMENT)])
        pip = [str(ENVIRONMENT / "bin" / "pip"), "install", "--quiet", "--prefer-binary"]
        _call([*pip, REQUIREMENT])
        note.write_text(REQUIREMENT)
    return str(program)


def _call(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise LabError(f"{' '.join(command)}: exit code {done.returncode}\n{said}")
    return done.stdout


def _options(
    site: Site, folder: Path, things: _Things, service_type: str
) -> dict[str, dict[str, object]]:
    return {
        "DEFAULT": {"log_file": str(folder / "tempest.log")},
        "oslo_concurrency": {"lock_path": str(folder / "locks")},
        "auth": {
            "use_dynamic_credentials": True,
            "create_isolated_networks": False,  # the lab's Neutron has no routers
            "admin_username": "admin",
            "admin_project_name": "admin",
            "admin_password": PASSWORD,
            "admin_domain_name": "Default",
        },
        "identity": {
            "uri_v3": site.url(KEYSTONE_PORT, "/v3"),
            "auth_version": "v3",
            "region": site.region,
        },
        "compute": {
            "catalog_type": service_type,
            "image_ref": things.images[0],
            "image_ref_alt": things.images[1],
            "flavor_ref": things.flavors[0],
            "flavor_ref_alt": things.flavors[1],
            "fixed_network_name": NAME,
            "build_timeout": BUILD_TIMEOUT_S,
            "max_microversion": "latest",
        },
        "compute-feature-enabled": {
            "vnc_console": False,
            "resize": True,
            "live_migration": False,  # each site has one compute host
            "cold_migration": False,
            "metadata_service": False,
        },
        "network": {"project_network_cidr": "10.116.0.0/16", "project_network_mask_bits": 28},
        "service-clients": {"http_timeout": HTTP_TIMEOUT_S},
        "service_available": {
            "cinder": True,
            "neutron": True,
            "glance": True,
            "nova": True,
            "swift": False,
            "horizon": False,
        },
        "validation": {"run_validation": False},  # the guests have no SSH server
        "volume": {"catalog_type": "block-storage", "build_timeout": BUILD_TIMEOUT_S},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 when a test fails with the add-on and not without it."""
    parser = argparse.ArgumentParser(prog="python -m lab.tempest", description=__doc__)
    parser.add_argument("--site", choices=SITES, default="site-a")
    parser.add_argument("--tests", default=TESTS, help="a regular expression of Tempest's tests")
    parser.add_argument(
        "--only-failed",
        action="store_true",
        help="run only those tests without the add-on that have failed with it",
    )
    chosen = parser.parse_args(arguments)
    try:
        found = compare(SITES[chosen.site], chosen.tests, only_failed=chosen.only_failed)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (BUILD / "result.json").write_text(json.dumps(found.as_json(), indent=1))
    print(f"\n{found.render()}")
    return 1 if found.failed_only_with_add_on else 0


if __name__ == "__main__":
    sys.exit(main())
