# SPDX-License-Identifier: Apache-2.0
"""Tempest's own compute API tests against the Nova of a site: once as it is, with the quiesce
add-on in its pipeline, and those that fail there once more without the add-on.

A test that fails with the add-on and passes without it is a fault of the add-on.
"""

from __future__ import annotations

import argparse
import configparser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from antipode.sandbox.creation import FLAVOR
from lab import inside
from lab.errors import LabError
from lab.services import identity, wsgi
from lab.services.openstack_conf import KEYSTONE_PORT, PASSWORD
from lab.site import CACHE, SITES, Site
from lab.waiting import wait_until

ENVIRONMENT = CACHE / "tempest"
"""A virtual environment that outlives the run that has made it."""
REQUIREMENT = "tempest==47.0.0"
BUILD = Path("build") / "tempest"
TESTS = (
    r"tempest\.api\.compute\.(servers|images|volumes)\..*(ServersTestJSON|ServerActions|"
    r"CreateServers|DeleteServers|ListServer|ServerMetadata|ServersNegative|Images|AttachVolume|"
    r"VolumesTest|VolumesGet|VolumesList)"
)
"""Servers, server actions, images and volume attachments."""
FLAVORS = ("tempest-1", "tempest-2")
_NAME = re.compile(r"^(?:setUpClass \(|tearDownClass \()?(tempest\.[\w.]+)", re.MULTILINE)
"""Of a test that failed, or of a class whose tests could not begin."""
PLAIN_PORT, PLAIN_TYPE = 18774, "compute-without-add-on"


def run(site: Site, tests: str) -> dict[str, Any]:
    """Run Tempest's tests; what passed, and what failed in which way.

    Args:
        tests: a regular expression.

    Raises:
        LabError: Tempest cannot be installed or started.
    """
    tempest = _installed()
    folder = (BUILD / site.name).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # with a list of workspaces of its own: Tempest keeps one in the user's home
    register = str(folder.with_suffix(".yaml"))
    Path(register).unlink(missing_ok=True)
    _call([tempest, "init", "--workspace-path", register, str(folder)])
    with _flavors(site) as flavors:
        _write(site, folder, flavors, "compute")
        passed, failed = _results(tempest, folder, tests)
        only_with: list[str] = []
        if failed:
            with _without_add_on(site):
                _write(site, folder, flavors, PLAIN_TYPE)
                again = "|".join(f"^{re.escape(test)}" for test in failed)
                _, without = _results(tempest, folder, again)
                only_with = sorted(set(failed) - set(without))
    return {"passed": passed, "failed": sorted(failed), "failed_only_with_add_on": only_with}


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


def _call(command: Sequence[str], folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise LabError(f"{' '.join(command)}: exit code {done.returncode}\n{said}")
    return done.stdout


def _results(tempest: str, folder: Path, tests: str) -> tuple[int, list[str]]:
    """How many tests passed, and those that failed.

    Raises:
        LabError: none was run: Tempest's own words say why.
    """
    done = subprocess.run(
        [tempest, "run", "--regex", tests, "--concurrency", "1"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    (folder / "output.txt").write_text(done.stdout + done.stderr)
    found = re.search(r" - Passed: (\d+)", done.stdout)
    if not found:
        raise LabError(f"Tempest has run nothing:\n{(done.stdout + done.stderr)[-3000:]}")
    stestr = str(Path(tempest).with_name("stestr"))
    listed = subprocess.run(
        [stestr, "failing", "--list"], cwd=folder, capture_output=True, text=True
    )
    failed = _NAME.findall(listed.stdout)
    if not failed and found[1] == "0":
        raise LabError(f"no test of Tempest is named so: {tests}")
    return int(found[1]), failed


@contextmanager
def _flavors(site: Site) -> Iterator[list[str]]:
    """Two flavors with a disk, as Tempest boots from an image and resizes; they go in the end."""
    compute = identity.connect(site).compute
    tiny = compute.find_flavor(FLAVOR, ignore_missing=False)
    made = [compute.create_flavor(name=name, ram=tiny.ram, vcpus=1, disk=1) for name in FLAVORS]
    try:
        yield [flavor.id for flavor in made]
    finally:
        for flavor in made:
            compute.delete_flavor(flavor)


def _write(site: Site, folder: Path, flavors: Sequence[str], compute: str) -> None:
    """Tempest's configuration: two projects of its own for each class of tests, no SSH."""
    cloud = identity.connect(site)
    from lab.guest import image

    picture = cloud.image.find_image(image.NAME, ignore_missing=False).id
    sections: dict[str, dict[str, object]] = {
        "DEFAULT": {"log_file": str(folder / "tempest.log")},
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
            "catalog_type": compute,
            "image_ref": picture,
            "image_ref_alt": picture,
            "flavor_ref": flavors[0],
            "flavor_ref_alt": flavors[1],
            "build_timeout": 600,
            "max_microversion": "2.96",
        },
        "compute-feature-enabled": {
            "vnc_console": False,
            "live_migration": False,
            "rescue": False,
            "resize": False,
        },
        "network": {"project_network_cidr": "10.100.0.0/16", "project_network_mask_bits": 28},
        "service_available": {
            "cinder": True,
            "neutron": True,
            "glance": True,
            "nova": True,
            "swift": False,
            "horizon": False,
        },
        "validation": {"run_validation": False},
        "volume": {"catalog_type": "block-storage", "build_timeout": 600},
    }
    parser = configparser.ConfigParser(interpolation=None)
    for section, options in sections.items():
        parser[section] = {name: str(value) for name, value in options.items()}
    with (folder / "etc" / "tempest.conf").open("w") as file:
        parser.write(file)


@contextmanager
def _without_add_on(site: Site) -> Iterator[None]:
    """A second nova-api of the site beside its own, without the add-on, under a type of its own in
    the catalog.
    """
    etc = site.etc / "nova-without-add-on"
    shutil.copytree(site.etc / "nova", etc, dirs_exist_ok=True)
    paste = etc / "api-paste.ini"
    paste.write_text(re.sub(r"\bkeystonecontext quiesce\b", "keystonecontext", paste.read_text()))
    for file in etc.rglob("*.conf"):
        own = str(site.etc / "nova" / "api-paste.ini")
        file.write_text(file.read_text().replace(own, str(paste)))
    program = wsgi.program(
        site,
        "nova-api-without-add-on",
        PLAIN_PORT,
        "nova.wsgi.osapi_compute",
        4,
        {"OS_NOVA_CONFIG_DIR": str(etc)},
    )
    identity.add_service(site, "nova", site.url(PLAIN_PORT, "/v2.1"), PLAIN_TYPE)
    log = (site.log / "nova-api-without-add-on.log").open("w")
    pid = site.run / "nova-api-without-add-on.pid"
    command = [*program.command, "--pidfile", str(pid)]
    process = inside.popen(site, command, program.environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: _answers(site), "the nova-api without add-on answers", 300, interval=1)
        yield
    finally:
        # the process of its namespace: a signal to ours would not reach it
        inside.run(site, ["kill", pid.read_text().strip()])
        process.wait(60)
        log.close()
        cloud = identity.connect(site)
        for service in cloud.identity.services(type=PLAIN_TYPE):
            for endpoint in cloud.identity.endpoints(service_id=service.id):
                cloud.identity.delete_endpoint(endpoint)
            cloud.identity.delete_service(service)
        shutil.rmtree(etc)


def _answers(site: Site) -> bool:
    from lab.service import NotReady

    try:
        wsgi.check_answers(site.url(PLAIN_PORT, "/"))
    except NotReady:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 when a test fails with the add-on and passes without it."""
    parser = argparse.ArgumentParser(prog="python -m lab.tempest", description=__doc__)
    parser.add_argument("--site", choices=SITES, default="site-a")
    parser.add_argument("--tests", default=TESTS, help="a regular expression of Tempest's tests")
    chosen = parser.parse_args(arguments)
    try:
        found = run(SITES[chosen.site], chosen.tests)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "result.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))
    return 1 if found["failed_only_with_add_on"] else 0


if __name__ == "__main__":
    sys.exit(main())
