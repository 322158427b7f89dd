# SPDX-License-Identifier: Apache-2.0
"""Nova's real API, conductor, scheduler and compute code in one process, the add-on in its
pipeline, and guests that can be frozen.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
import unittest
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import fixtures
import nova.conf
from nova import context as nova_context
from nova import exception, objects
from nova.tests.functional import integrated_helpers
from nova_quiesce.quiescing import Quiescing
from nova_quiesce.record import KEY
from nova_quiesce.watch import THREAD, Watch
from sqlalchemy import exc as sqlalchemy_exc

from nova_quiesce import filter as quiesce_filter
from nova_quiesce import options

TARGET_CELL = nova_context.target_cell


class FakeGuests:
    """Guests that answer as QEMU's with an agent do through libvirt: what is frozen refuses another
    freeze, a thaw always works.
    """

    def __init__(self) -> None:
        self.frozen: set[str] = set()
        self.calls: list[str] = []
        self.refuse_with: Exception | None = None
        self.freeze_answers = threading.Event()
        self.freeze_answers.set()
        self.before_freezing: Callable[[], None] = lambda: None
        self.while_freezing: Callable[[], None] = lambda: None
        self.while_thawing: Callable[[], None] = lambda: None
        self.thaws_to_fail: float = 0
        self.thaws_fail_with: Exception = exception.InstanceQuiesceFailed(reason="agent silent")
        self.running = True
        self.snapshots: list[tuple[str, bool]] = []

    def quiesce(self, _driver: Any, _context: Any, instance: Any, _image_meta: Any) -> None:
        self.calls.append("freeze")
        if self.refuse_with:
            raise self.refuse_with
        if instance.uuid in self.frozen:
            raise exception.InternalError("The command guest-fsfreeze-freeze has been disabled")
        self.before_freezing()
        self.frozen.add(instance.uuid)
        self.while_freezing()
        self.freeze_answers.wait(120)

    def falls_silent_in_the_freeze(self) -> None:
        """The agent takes the command to freeze and dies before it has answered: what libvirt says
        then.
        """

        def die() -> None:
            raise exception.InstanceQuiesceFailed(
                reason="[Error Code 86] Guest agent disappeared while executing command"
            )

        self.while_freezing = die
        self.thaws_to_fail = math.inf

    def unquiesce(self, _driver: Any, _context: Any, instance: Any, _image_meta: Any) -> None:
        self.calls.append("thaw")
        if self.refuse_with:
            raise self.refuse_with
        self.while_thawing()
        if self.thaws_to_fail:
            self.thaws_to_fail -= 1
            raise self.thaws_fail_with
        if not self.running:
            raise exception.InternalError("domain is not running")
        self.frozen.discard(instance.uuid)

    def diagnostics(self, _manager: Any, _context: Any, instance: Any) -> dict[str, Any]:
        if not self.running:
            raise exception.InstanceInvalidState(
                attr="power state", instance_uuid=instance.uuid, state="?", method="get_diagnostics"
            )
        return {}

    def snapshot(
        self, _driver: Any, _context: Any, instance: Any, volume_id: str, *_more: Any
    ) -> None:
        """As libvirt does it: a guest whose agent it knows is frozen, which fails for one that is,
        and thawed.
        """
        if instance.image_meta.properties.get("hw_qemu_guest_agent", False):
            self.frozen.discard(instance.uuid)
        self.snapshots.append((volume_id, instance.uuid in self.frozen))


class EndingWatch(Watch):
    """A watch that ends with its cloud, as it ends with the process in life."""

    running: ClassVar[list[tuple[EndingWatch, threading.Thread]]] = []
    ended = False

    def run(self) -> None:
        self.running.append((self, threading.current_thread()))
        super().run()

    def look(self) -> None:
        if self.ended:
            raise SystemExit
        super().look()

    @classmethod
    def end_all(cls) -> None:
        while cls.running:
            watch, thread = cls.running.pop()
            watch.ended = True
            watch._sooner.set()
            thread.join()


def api_paste_with_quiesce(folder: Path) -> Path:
    """Write Nova's own api-paste.ini with the lines that the README gives."""
    shipped = next(file for file in metadata.files("nova") or [] if file.name == "api-paste.ini")
    text = re.sub(
        r"^(keystone = .*) (osapi_compute_app_v21)$",
        r"\1 quiesce \2",
        shipped.read_text(),
        flags=re.MULTILINE,
    )
    target = folder / "api-paste.ini"
    target.write_text(
        text + "\n[filter:quiesce]\npaste.filter_factory = nova_quiesce:filter_factory\n"
    )
    return target


class Cloud(integrated_helpers._IntegratedTestBase):
    """Two cells with a compute host each. Not a test: it is set up for a class of tests."""

    CAST_AS_CALL = False
    NUMBER_OF_CELLS = 2
    microversion = "latest"

    def runTest(self) -> None:
        raise NotImplementedError

    def setUp(self) -> None:
        self.patch_process("nova_quiesce.quiescing.Watch", EndingWatch)
        self.patch_process("nova_quiesce.record.RETRY_SECONDS", 1)
        self.patch_process("nova_quiesce.watch.LAG_SECONDS", (0, 0))
        self.patch_process("nova_quiesce.watch.threads_run", lambda: True)
        quiesce_filter._of_this_process.cache_clear()
        super().setUp()
        self._let_our_threads_target_cells()
        self.addCleanup(EndingWatch.end_all)

    def _let_our_threads_target_cells(self) -> None:
        """Nova's fixture lets one thread at a time do so, for the sake of code that does not; with
        threads like ours that is a deadlock.
        """
        of_fixture = nova_context.target_cell

        def target_cell(context: Any, cell: Any) -> Any:
            ours = threading.current_thread().name.startswith(THREAD)
            return (TARGET_CELL if ours else of_fixture)(context, cell)

        self.patch_process("nova.context.target_cell", target_cell)

    def _wait_for_server_parameter(
        self, server: Any, expected_params: Any, max_retries: int = 10, **more: Any
    ) -> Any:
        """Nova's waits five seconds, too little for a busy machine."""
        return super()._wait_for_server_parameter(server, expected_params, max_retries=240, **more)

    def patch_process(self, name: str, value: Any) -> None:
        self.useFixture(fixtures.MonkeyPatch(name, value))

    def _setup_services(self) -> None:
        # Nova's fixtures make errors of them; an SQLAlchemy newer than this Nova was tested with
        # has more.
        warnings.filterwarnings("ignore", category=sqlalchemy_exc.SADeprecationWarning)
        # What the tests leave behind like a process that has died is for another process of theirs
        # to find, and not for the API.
        options.register(nova.conf.CONF)
        self.flags(look_interval=3600, group="quiesce")
        paste = api_paste_with_quiesce(Path(self.useFixture(fixtures.TempDir()).path))
        self.flags(api_paste_config=str(paste), group="wsgi")
        super()._setup_services()
        self._start_compute("compute2", cell_name="cell2")


class CloudTestCase(unittest.TestCase):
    """Tests with an ACTIVE server each, in cell1.

    `self.admin_api` and `self.api` (a member) talk to the cloud.
    """

    cloud: Cloud

    @classmethod
    def setUpClass(cls) -> None:
        cls.cloud = Cloud()
        cls.addClassCleanup(cls.cloud.doCleanups)
        cls.cloud.setUp()
        cls.admin_api, cls.api = cls.cloud.admin_api, cls.cloud.api

    def setUp(self) -> None:
        self.guests = FakeGuests()
        for name, method in (
            ("nova.virt.fake.FakeDriver.quiesce", self.guests.quiesce),
            ("nova.virt.fake.FakeDriver.unquiesce", self.guests.unquiesce),
            ("nova.virt.driver.ComputeDriver.volume_snapshot_create", self.guests.snapshot),
            ("nova.compute.manager.ComputeManager.get_diagnostics", self.guests.diagnostics),
        ):
            self.patch(name, _bound(method))
        self.server_id = self.create_server("compute")

    def patch(self, name: str, value: Any) -> None:
        patcher = mock.patch(name, value)
        patcher.start()
        self.addCleanup(patcher.stop)

    def option(self, name: str, value: Any, group: str | None = None) -> None:
        options = nova.conf.CONF[group] if group else nova.conf.CONF
        self.addCleanup(nova.conf.CONF.set_override, name, options[name], group=group)
        nova.conf.CONF.set_override(name, value, group=group)

    def create_server(self, host: str) -> str:
        """Boot a server on a host, and have it deleted at the end."""
        server_id: str = self.cloud._create_server(networks="none", api=self.admin_api, host=host)[
            "id"
        ]
        self.addCleanup(self.request, f"/servers/{server_id}", "DELETE")
        return server_id

    def request(
        self, path: str, method: str = "GET", body: Any = None, api: Any = None, **more: Any
    ) -> Any:
        """Send a request as the admin, or as `api`, and return the response whatever its status."""
        if body is not None:
            more["body"] = body if isinstance(body, (str, bytes)) else json.dumps(body)
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        return (api or self.admin_api).api_request(path, method=method, headers=headers, **more)

    def act(self, body: Any, server_id: str | None = None, **more: Any) -> Any:
        """POST an action on the server."""
        return self.request(f"/servers/{server_id or self.server_id}/action", "POST", body, **more)

    def shown(self, server_id: str | None = None) -> dict[str, Any]:
        """GET the quiesce state of the server."""
        state: dict[str, Any] = self.request(
            f"/servers/{server_id or self.server_id}/os-quiesce"
        ).json()["quiesce"]
        return state

    @contextmanager
    def cell(self, server_id: str | None = None) -> Iterator[Any]:
        """An admin's context targeted at the server's cell."""
        context = nova_context.get_admin_context()
        mapping = objects.InstanceMapping.get_by_instance_uuid(context, server_id or self.server_id)
        with nova_context.target_cell(context, mapping.cell_mapping) as cell:
            yield cell

    def instance(self, server_id: str | None = None) -> Any:
        """Load the server from its cell's database."""
        server_id = server_id or self.server_id
        with self.cell(server_id) as cell:
            return objects.Instance.get_by_uuid(
                cell, server_id, expected_attrs=["system_metadata", "services"]
            )

    def another_process(self) -> Quiescing:
        """What another nova-api process has: the databases and the message bus in common with ours,
        and nothing else. It keeps no watch.
        """
        return Quiescing()

    def quiesced_by_a_process_that_died(self, timeout: int = 1) -> Quiescing:
        process = self.another_process()
        instance = self.instance()
        process.quiesce(instance._context, instance, timeout)
        return process

    def fault(self, response: Any, status: int, name: str) -> str:
        """Check that the response is a fault in Nova's format and return its message."""
        self.assertEqual(status, response.status_code, response.text)
        self.assertEqual(status, response.json()[name]["code"])
        self.assertIn("x-openstack-request-id", response.headers)
        message: str = response.json()[name]["message"]
        return message

    def await_that(self, what: str, holds: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until `holds()`, at most so many seconds."""
        deadline = time.monotonic() + seconds
        while not holds():
            self.assertLess(time.monotonic(), deadline, f"not within {seconds} s: {what}")
            time.sleep(0.05)

    def at_once(self, *calls: Callable[[], Any]) -> list[Any]:
        """Make the calls in a thread each and return what they returned or raised."""
        results: list[Any] = [None] * len(calls)

        def make(number: int) -> None:
            try:
                results[number] = calls[number]()
            except Exception as error:
                results[number] = error

        threads = [
            threading.Thread(target=make, args=(number,), name=f"{THREAD}-test")
            for number in range(len(calls))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def assert_nothing_is_left(self) -> None:
        """Check that the server has no task state and no row of ours."""
        instance = self.instance()
        self.assertIsNone(instance.task_state)
        self.assertNotIn(KEY, instance.system_metadata)

    @property
    def frozen(self) -> bool:
        return self.server_id in self.guests.frozen


def _bound(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(target: Any, *arguments: Any, **more: Any) -> Any:
        return method(target, *arguments, *more.values())

    return call
