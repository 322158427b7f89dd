# SPDX-License-Identifier: Apache-2.0
"""A second nova-api of a site, beside its own and without the quiesce add-on: what fails with both
is no fault of the add-on.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import inside
from lab.service import NotReady
from lab.services import identity, nova, wsgi
from lab.site import Site
from lab.waiting import wait_until

NAME = "nova-api-without-add-on"
PORT = 18774
SERVICE_TYPE = "compute-without-add-on"
"""In the catalog, while it runs."""


@contextmanager
def running(site: Site) -> Iterator[str]:
    """The second nova-api runs and is in the catalog, under the type that this yields."""
    with _configured(site) as folder, _started(site, folder):
        identity.add_service(site, "nova", site.url(PORT, "/v2.1"), SERVICE_TYPE)
        try:
            yield SERVICE_TYPE
        finally:
            _remove_from_catalog(site)


@contextmanager
def _configured(site: Site) -> Iterator[Path]:
    """A copy of the configuration of the site's own nova-api, but for the add-on."""
    own, folder = site.etc / "nova", site.etc / NAME
    shutil.copytree(own, folder, dirs_exist_ok=True)
    try:
        paste = folder / "api-paste.ini"
        pipelines = paste.read_text()
        without = re.sub(r"\bkeystonecontext quiesce\b", "keystonecontext", pipelines)
        assert without != pipelines, f"{paste} has no add-on"
        paste.write_text(without)
        for file in folder.rglob("*.conf"):
            file.write_text(file.read_text().replace(str(own / paste.name), str(paste)))
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _started(site: Site, folder: Path) -> Iterator[None]:
    program = wsgi.program(
        site,
        NAME,
        PORT,
        "nova.wsgi.osapi_compute",
        nova.API_THREADS,
        {"OS_NOVA_CONFIG_DIR": str(folder)},
    )
    pid = site.run / f"{NAME}.pid"
    pid.unlink(missing_ok=True)
    command = [*program.command, "--pidfile", str(pid)]
    with (site.log / f"{NAME}.log").open("w") as log:
        process = inside.popen(
            site, command, program.environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_until(lambda: _answers(site), f"{NAME} answers", 300, interval=1)
            yield
        finally:
            if pid.exists():  # the process of its namespace: a signal to ours would not reach it
                inside.run(site, ["kill", pid.read_text().strip()])
            process.wait(60)


def _answers(site: Site) -> bool:
    try:
        wsgi.check_answers(site.url(PORT, "/"))
    except NotReady:
        return False
    return True


def _remove_from_catalog(site: Site) -> None:
    catalog = identity.connect(site).identity
    for service in catalog.services(type=SERVICE_TYPE):
        for endpoint in catalog.endpoints(service_id=service.id):
            catalog.delete_endpoint(endpoint)
        catalog.delete_service(service)
