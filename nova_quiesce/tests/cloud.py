# SPDX-License-Identifier: Apache-2.0
"""Nova's real API, conductor, scheduler and compute code in one process, the add-on in its pipeline, and guests that can be frozen."""

from __future__ import annotations

import json
import re
import threading
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import fixtures
from nova import context as nova_context
from nova import exception, objects
from nova.tests.functional import integrated_helpers
from nova_quiesce.timers import Timers
from sqlalchemy.exc import SADeprecationWarning


class FakeGuests:
    """Guests that answer as QEMU's with an agent do through libvirt: what is frozen refuses another freeze, a thaw always works."""

    def __init__(self) -> None:
        self.frozen: set[str] = set()
        self.calls: list[str] = []
        self.refuse_with: Exception | None = None
        self.freeze_answers = threading.Event()
        self.freeze_answers.set()
        self.while_freezing: Callable[[], None] = lambda: None
        self.thaws_to_fail = 0

    def quiesce(self, _driver: Any, _context: Any, instance: Any, _image_meta: Any) -> None:
        self.calls.append("freeze")
        if self.refuse_with:
            raise self.refuse_with
        if instance.uuid in self.frozen:
            raise exception.InternalError("The command guest-fsfreeze-freeze has been disabled")
        self.frozen.add(instance.uuid)
        self.while_freezing()
        self.freeze_answers.wait(20)

    def unquiesce(self, _driver: Any, _context: Any, instance: Any, _image_meta: Any) -> None:
        self.calls.append("thaw")
        if self.refuse_with:
            raise self.refuse_with
        if self.thaws_to_fail:
            self.thaws_to_fail -= 1
            raise exception.InstanceQuiesceFailed(reason="agent silent")
        self.frozen.discard(instance.uuid)


class EndingTimers(Timers):
    """Timers that end with their test, as they end with the process in life."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = False

    def start(self, key: str, seconds: float, function: Callable[[], None]) -> None:
        if not self._ended:
            super().start(key, seconds, function)

    def end(self) -> None:
        self._ended = True
        for key in list(self._pending):
            self.cancel(key)


def api_paste_with_quiesce(folder: Path) -> Path:
    """Write Nova's own api-paste.ini with the lines that the README gives."""
    shipped = next(file for file in metadata.files("nova") or [] if file.name == "api-paste.ini")
    text = re.sub(r"^(keystone = .*) (osapi_compute_app_v21)$", r"\1 quiesce \2", shipped.read_text(), flags=re.MULTILINE)
    target = folder / "api-paste.ini"
    target.write_text(text + "\n[filter:quiesce]\npaste.filter_factory = nova_quiesce:filter_factory\n")
    return target


class CloudTestCase(integrated_helpers._IntegratedTestBase):
    """A cloud with one compute host; `self.admin_api` and `self.api` (a member) talk to it."""

    CAST_AS_CALL = False
    microversion = "latest"

    def setUp(self) -> None:
        self.guests = FakeGuests()
        self.useFixture(fixtures.MonkeyPatch("nova.virt.fake.FakeDriver.quiesce", _bound(self.guests.quiesce)))
        self.useFixture(fixtures.MonkeyPatch("nova.virt.fake.FakeDriver.unquiesce", _bound(self.guests.unquiesce)))
        self.useFixture(fixtures.MonkeyPatch("nova_quiesce.quiescing.RETRY_SECONDS", 0.2))
        self.useFixture(fixtures.MonkeyPatch("nova_quiesce.quiescing.Timers", self._ending_timers))
        super().setUp()

    def _setup_services(self) -> None:
        # Nova's fixtures make errors of them; an SQLAlchemy newer than this Nova was tested with has more.
        warnings.filterwarnings("ignore", category=SADeprecationWarning)
        paste = api_paste_with_quiesce(Path(self.useFixture(fixtures.TempDir()).path))
        self.flags(api_paste_config=str(paste), group="wsgi")
        super()._setup_services()
        self.server_id = self._create_server(networks="none", api=self.admin_api)["id"]

    def _ending_timers(self) -> EndingTimers:
        timers = EndingTimers()
        self.addCleanup(timers.end)
        return timers

    def request(self, path: str, method: str = "GET", body: Any = None, api: Any = None, **more: Any) -> Any:
        """Send a request as the admin, or as `api`, and return the response whatever its status."""
        if body is not None:
            more["body"] = body if isinstance(body, (str, bytes)) else json.dumps(body)
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        return (api or self.admin_api).api_request(path, method=method, headers=headers, **more)

    def act(self, body: Any, server_id: str | None = None, **more: Any) -> Any:
        """POST an action on the server."""
        return self.request(f"/servers/{server_id or self.server_id}/action", "POST", body, **more)

    def shown(self) -> dict[str, Any]:
        """GET the quiesce state of the server."""
        state: dict[str, Any] = self.request(f"/servers/{self.server_id}/os-quiesce").json()["quiesce"]
        return state

    def instance(self) -> objects.Instance:
        """Load the server from its cell's database."""
        context = nova_context.get_admin_context()
        mapping = objects.InstanceMapping.get_by_instance_uuid(context, self.server_id)
        with nova_context.target_cell(context, mapping.cell_mapping) as cell:
            return objects.Instance.get_by_uuid(cell, self.server_id, expected_attrs=["system_metadata"])

    def fault(self, response: Any, status: int, name: str) -> str:
        """Check that the response is a fault in Nova's format and return its message."""
        self.assertEqual(status, response.status_code, response.text)
        self.assertEqual(status, response.json()[name]["code"])
        self.assertIn("x-openstack-request-id", response.headers)
        message: str = response.json()[name]["message"]
        return message

    def await_that(self, what: str, holds: Callable[[], bool], seconds: float = 10) -> None:
        """Wait until `holds()`, at most so many seconds."""
        deadline = time.monotonic() + seconds
        while not holds():
            self.assertLess(time.monotonic(), deadline, f"not within {seconds} s: {what}")
            time.sleep(0.05)

    @property
    def frozen(self) -> bool:
        return self.server_id in self.guests.frozen


def _bound(method: Callable[..., None]) -> Callable[..., None]:
    def call(driver: Any, *arguments: Any) -> None:
        method(driver, *arguments)

    return call
