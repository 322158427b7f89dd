# SPDX-License-Identifier: Apache-2.0
"""Nothing stays quiesced: whatever dies, is down or refuses."""

from __future__ import annotations

import math
import os
import threading
import time
from typing import Any
from unittest import mock

import webob
from nova import exception
from nova_quiesce.quiescing import PerhapsFrozen, Quiescing
from nova_quiesce.record import QUIESCED, QUIESCING, UNQUIESCING

from nova_quiesce import filter as quiesce_filter
from nova_quiesce import record, watch
from tests.cloud import CloudTestCase


class TestTimeout(CloudTestCase):
    def test_a_server_that_nobody_unquiesces_is_thawed_after_its_timeout(self) -> None:
        began = time.monotonic()
        self.assertEqual(202, self.act({"quiesce": {"timeout": 2}}).status_code)
        self.await_that("thawed by itself", lambda: not self.frozen)
        self.assertGreaterEqual(time.monotonic() - began, 2)
        self.assertEqual(["freeze", "thaw"], self.guests.calls)
        self.await_that("shown as thawed", lambda: not self.shown()["quiesced"])

    def test_a_thaw_of_a_guest_that_is_known_to_be_frozen_is_tried_until_it_succeeds(self) -> None:
        self.patch("nova_quiesce.record.GIVE_UP_SECONDS", 0)
        self.guests.thaws_to_fail = 3
        self.act({"quiesce": {"timeout": 1}})
        self.await_that("thawed by itself", lambda: not self.frozen)
        self.assertEqual(["freeze", "thaw", "thaw", "thaw", "thaw"], self.guests.calls)

    def test_an_unquiesce_that_fails_is_tried_again_at_once(
        self,
    ) -> None:
        self.act({"quiesce": {"timeout": 60}})
        self.guests.thaws_to_fail = 2
        self.fault(self.act({"unquiesce": None}), 409, "conflictingRequest")
        self.assertEqual("unquiescing", self.shown()["state"])
        self.await_that("thawed by itself", lambda: not self.frozen)
        self.await_that("shown as thawed", lambda: not self.shown()["quiesced"])

    def test_what_was_quiesced_again_is_not_thawed_when_the_first_timeout_is_over(self) -> None:
        self.act({"quiesce": {"timeout": 3}})
        over = self.shown()["expires_at"]
        self.assertEqual(202, self.act({"unquiesce": None}).status_code)
        self.assertEqual(202, self.act({"quiesce": {"timeout": 600}}).status_code)
        self.await_that("the first is over", lambda: record.seconds_until(over) < 0)
        for process in (quiesce_filter._of_this_process(), self.another_process()):
            process.watch.look()
            self.await_that(
                "nothing is thawed any more", lambda process=process: not process.watch._thawing
            )
        self.assertTrue(self.frozen)

    def test_a_freeze_without_answer_is_thawed_and_told(self) -> None:
        self.guests.freeze_answers.clear()
        try:
            message = self.fault(self.act({"quiesce": {"timeout": 1}}), 504, "computeFault")
        finally:
            self.guests.freeze_answers.set()
        self.assertIn("It is being unquiesced.", message)
        self.await_that("thawed", lambda: not self.frozen and not self.shown()["quiesced"])


class TestSilentAgents(CloudTestCase):
    """The agent has taken the freeze, or may have, and is silent since."""

    def setUp(self) -> None:
        super().setUp()
        self.guests.falls_silent_in_the_freeze()

    def test_it_is_told_to_thaw_until_it_answers(self) -> None:
        message = self.fault(self.act({"quiesce": None}), 409, "conflictingRequest")
        self.assertIn("Guest agent disappeared", message)
        self.await_that("the guest to be thawed", lambda: self.guests.calls.count("thaw") > 2)
        self.assertTrue(self.frozen)
        self.assertEqual((True, "unquiescing"), (self.shown()["quiesced"], self.shown()["state"]))
        self.assertIn(
            "task_state unquiescing",
            self.fault(self.act({"quiesce": None}), 409, "conflictingRequest"),
        )
        self.guests.thaws_to_fail = 0
        self.await_that("thawed by itself", lambda: not self.frozen)
        self.await_that("shown as thawed", lambda: not self.shown()["quiesced"])
        self.assert_nothing_is_left()

    def test_one_that_never_answers_is_given_up_with_a_warning_and_nothing_is_left(self) -> None:
        self.patch("nova_quiesce.record.GIVE_UP_SECONDS", 4)
        with self.assertLogs("nova_quiesce.quiescing", "WARNING") as logs:
            self.fault(self.act({"quiesce": {"timeout": 1}}), 409, "conflictingRequest")
            self.await_that("given up", lambda: not self.shown()["quiesced"])
            self.await_that("logged", lambda: len(logs.output) > 1)  # after the failed quiesce
        self.assert_nothing_is_left()
        self.assertIn(self.server_id, logs.output[-1])
        tried = self.guests.calls.count("thaw")
        self.assertGreater(tried, 1)
        self.assertTrue(self.frozen)
        self.guests.thaws_to_fail = 0
        self.assertEqual(202, self.act({"unquiesce": None}).status_code)
        self.assertEqual(tried + 1, self.guests.calls.count("thaw"))
        self.assertFalse(self.frozen)

    def test_it_is_not_given_up_before_the_time_that_the_quiesce_would_have_lasted(self) -> None:
        self.patch("nova_quiesce.record.GIVE_UP_SECONDS", 0)
        began = time.monotonic()
        self.fault(self.act({"quiesce": {"timeout": 4}}), 409, "conflictingRequest")
        self.await_that("given up", lambda: not self.shown()["quiesced"])
        self.assertGreater(time.monotonic() - began, 3)

    def test_a_guest_that_is_given_up_can_be_rebooted_by_its_owner(self) -> None:
        self.patch("nova_quiesce.record.GIVE_UP_SECONDS", 0)
        refused = threading.Event()
        self.addCleanup(refused.set)
        self.guests.while_thawing = lambda: refused.wait(120)
        self.act({"quiesce": {"timeout": 1}})
        self.fault(self.act({"reboot": {"type": "HARD"}}), 409, "conflictingRequest")
        refused.set()
        self.await_that("given up", lambda: not self.shown()["quiesced"])
        self.assertEqual(202, self.act({"reboot": {"type": "HARD"}}).status_code)
        self.cloud._wait_for_server_parameter(
            {"id": self.server_id}, {"status": "ACTIVE", "OS-EXT-STS:task_state": None}
        )

    def test_another_process_thaws_when_the_one_that_asked_it_has_died(self) -> None:
        self.quiesce_in_doubt(timeout=60)
        survivor = self.another_process().watch
        survivor.look_if_time()
        self.assertEqual(["freeze", "thaw"], self.guests.calls)
        self.guests.thaws_to_fail = 0
        self.await_that("thawed by another", lambda: survivor.look_if_time() or not self.frozen)
        self.assert_nothing_is_left()

    def test_a_libvirt_that_vanishes_during_the_freeze_leaves_nobody_frozen(self) -> None:
        def vanish() -> None:
            raise exception.InternalError(
                "Error from libvirt while quiescing x: [Error Code 38] Cannot recv data: "
                "Connection reset by peer"
            )

        self.guests.while_freezing = vanish
        self.guests.thaws_to_fail = 0
        self.fault(self.act({"quiesce": None}), 409, "conflictingRequest")
        self.await_that("thawed", lambda: not self.frozen)

    def test_while_it_may_still_take_the_freeze_it_is_not_given_up(self) -> None:
        self.patch("nova_quiesce.record.GIVE_UP_SECONDS", 1)
        self.guests.thaws_fail_with = exception.InternalError(
            "Timed out during operation: cannot acquire state change lock"
        )
        self.act({"quiesce": {"timeout": 1}})
        self.await_that("the guest to be thawed", lambda: self.guests.calls.count("thaw") > 4)
        self.assertTrue(self.shown()["quiesced"])
        self.guests.thaws_to_fail = 0
        self.await_that("thawed", lambda: not self.frozen)

    def test_while_its_host_is_down_it_is_not_given_up(self) -> None:
        self.patch("nova_quiesce.record.GIVE_UP_SECONDS", 1)
        self.quiesce_in_doubt(timeout=1)
        watching = self.another_process().watch
        with mock.patch("nova.servicegroup.API.service_is_up", return_value=False):
            self.await_that(
                "tried",
                lambda: (
                    watching.look_if_time() or record.seconds_until(self.shown()["expires_at"]) < -2
                ),
            )
        self.assertEqual("unquiescing", self.shown()["state"])
        self.guests.thaws_to_fail = 0
        self.await_that(
            "thawed when it is up again", lambda: watching.look_if_time() or not self.frozen
        )

    def test_a_guest_without_agent_is_let_go_when_the_answer_to_its_freeze_was_lost(self) -> None:
        self.quiesce_in_doubt(timeout=60)
        self.guests.thaws_fail_with = exception.QemuGuestAgentNotEnabled()
        self.another_process().watch.look_if_time()
        self.assert_nothing_is_left()

    def quiesce_in_doubt(self, timeout: int) -> None:
        """Quiesce through a process that dies then."""
        instance = self.instance()
        self.assertRaises(
            PerhapsFrozen, self.another_process().quiesce, instance._context, instance, timeout
        )


class TestDeadProcesses(CloudTestCase):
    def test_a_server_quiesced_by_a_process_that_died_is_thawed_by_another(self) -> None:
        self.quiesced_by_a_process_that_died(timeout=4)
        survivor = self.another_process()
        survivor.watch.look_if_time()
        self.assertTrue(self.frozen)
        self.await_that(
            "thawed by another", lambda: survivor.watch.look_if_time() or not self.frozen
        )
        self.assertFalse(self.shown()["quiesced"])

    def test_the_api_finds_it_too_by_its_regular_look(self) -> None:
        self.option("look_interval", 1, "quiesce")
        self.quiesced_by_a_process_that_died(timeout=1)
        # so that it looks now, and not after the interval it began with
        self.act({"quiesce": None}, self.create_server("compute"))
        quiesce_filter._of_this_process().watch._sooner.set()
        self.await_that("thawed", lambda: not self.frozen)

    def test_many_processes_thaw_it_once(self) -> None:
        self.quiesced_by_a_process_that_died(timeout=1)
        survivors = [self.another_process() for _ in range(4)]
        self.await_that("its time is over", lambda: self.found().is_due)
        self.at_once(*(survivor.watch.look_if_time for survivor in survivors))
        self.assertFalse(self.frozen)
        self.assertEqual(["freeze", "thaw"], self.guests.calls)

    def test_a_process_that_died_while_it_froze_leaves_it_to_the_others(self) -> None:
        self.died_as(QUIESCING, done_in=5)
        self.assertIn(
            "task_state quiescing",
            self.fault(self.act({"unquiesce": None}), 409, "conflictingRequest"),
        )
        self.await_that(
            "thawed", lambda: self.another_process().watch.look_if_time() or not self.frozen
        )
        self.assertFalse(self.shown()["quiesced"])

    def test_what_a_process_left_that_died_while_it_froze_is_given_up_when_the_agent_never_answers(
        self,
    ) -> None:
        self.patch("nova_quiesce.record.GIVE_UP_SECONDS", 0)
        self.guests.thaws_to_fail = math.inf
        self.died_as(QUIESCING, timeout=3)
        survivor = self.another_process().watch
        self.await_that("given up", lambda: survivor.look_if_time() or not self.shown()["quiesced"])
        self.assert_nothing_is_left()

    def test_a_process_that_died_while_it_thawed_leaves_it_to_the_others(self) -> None:
        self.died_as(UNQUIESCING)
        self.await_that(
            "thawed", lambda: self.another_process().watch.look_if_time() or not self.frozen
        )
        self.assertFalse(self.shown()["quiesced"])

    def test_what_a_dead_process_has_left_can_be_unquiesced_by_hand_too(self) -> None:
        # the watch is not to be first
        self.patch("nova_quiesce.watch.Watch._thaw_one", lambda *_: None)
        for state in (QUIESCING, UNQUIESCING):
            self.died_as(state)
            self.await_that("no process works on it", lambda: not self.found().is_busy)
            self.assertEqual(202, self.act({"unquiesce": None}).status_code)
            self.assertFalse(self.frozen)

    def died_as(self, state: str, timeout: int = 60, done_in: int = 2) -> None:
        """Leave the guest frozen and the record as a process does that is killed in the middle; it
        would have been done in some seconds.
        """
        self.guests.frozen.add(self.server_id)
        with self.cell() as context:
            self.assertTrue(
                record.replace(
                    context, self.server_id, None, record.Record.new(state, timeout, done_in)
                )
            )

    def found(self) -> record.Record:
        with self.cell() as context:
            found = record.of(context, self.server_id)
        assert found is not None
        return found


class TestWhatCannotBeThawed(CloudTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.quiesced_by_a_process_that_died(timeout=1)
        self.watching = self.another_process().watch

    def thawed(self) -> bool:
        self.watching.look_if_time()
        return not self.shown()["quiesced"]

    def test_a_compute_host_that_is_down_is_waited_for(self) -> None:
        with mock.patch("nova.servicegroup.API.service_is_up", return_value=False):
            self.await_that(
                "tried",
                lambda: (
                    self.watching.look_if_time()
                    or record.seconds_until(self.shown()["expires_at"]) < -1
                ),
            )
            self.assertTrue(self.shown()["quiesced"])
            self.assertEqual(["freeze"], self.guests.calls)
        self.await_that("thawed when it is up again", self.thawed)
        self.assertFalse(self.frozen)

    def test_a_guest_that_does_not_run_any_more_is_let_go(self) -> None:
        self.guests.running = False
        self.await_that("let go", self.thawed)
        self.assertIsNone(self.instance().task_state)

    def test_a_server_that_is_deleted_meanwhile_is_forgotten(self) -> None:
        with mock.patch(
            "nova_quiesce.quiescing._load",
            side_effect=exception.InstanceNotFound(instance_id=self.server_id),
        ) as looked_for:
            self.await_that("looked for", lambda: self.watching.look_if_time() or looked_for.called)

    def test_a_server_that_cannot_be_thawed_does_not_keep_others_waiting(self) -> None:
        other = self.create_server("compute")
        instance = self.instance(other)
        self.another_process().quiesce(instance._context, instance, 1)
        hangs = threading.Event()
        self.addCleanup(hangs.set)
        unquiesce = self.guests.unquiesce

        def hang_for_one(driver: Any, context: Any, instance: Any, *more: Any) -> None:
            if instance.uuid == self.server_id:
                hangs.wait(120)
            unquiesce(driver, context, instance, *more)

        self.patch("nova.virt.fake.FakeDriver.unquiesce", hang_for_one)
        self.await_that(
            "the other is thawed", lambda: self.watching.look() or other not in self.guests.frozen
        )
        self.assertTrue(self.frozen)
        hangs.set()
        self.await_that("and this one when its agent answers", lambda: not self.frozen)

    def test_a_database_that_takes_no_writes_is_not_asked_all_the_time(self) -> None:
        self.await_that(
            "its time is over", lambda: record.seconds_until(self.shown()["expires_at"]) < 0
        )
        with (
            mock.patch(
                "nova_quiesce.record.replace", side_effect=ConnectionError("read only")
            ) as asked,
            mock.patch("nova_quiesce.record.RETRY_SECONDS", 600),
        ):
            for _ in range(20):
                self.watching.look_if_time()
            self.assertEqual(1, asked.call_count)
            self.assertGreater(self.watching._pause(), 300)
        self.look_now()
        self.await_that("thawed", self.thawed)

    def test_a_database_that_is_down_is_asked_again(self) -> None:
        with mock.patch("nova_quiesce.watch.cells", side_effect=ConnectionError("database down")):
            self.watching.look()
        self.look_now()
        self.await_that("thawed", self.thawed)

    def look_now(self) -> None:
        self.watching._look_at = {watch._REGULARLY: 0.0}


class TestProcesses(CloudTestCase):
    def test_a_thread_is_started_once_in_a_process_and_again_after_it_has_forked(self) -> None:
        watching = watch.Watch(mock.Mock())
        with mock.patch("threading.Thread") as thread:
            watching.run_in_thread()
            watching.run_in_thread()
            self.assertEqual(1, thread.call_count)
            with mock.patch.object(os, "getpid", return_value=-1):
                watching.run_in_thread()
            self.assertEqual(2, thread.call_count)

    def test_an_error_does_not_end_the_watch(self) -> None:
        self.option("look_interval", 1, "quiesce")
        watching = watch.Watch(mock.Mock())
        with mock.patch.object(watching, "look", side_effect=[ValueError, SystemExit]) as look:
            self.assertRaises(SystemExit, watching.run)
        self.assertEqual(2, look.call_count)

    def test_both_pipelines_of_a_process_share_one_watch(self) -> None:
        first, second = quiesce_filter.QuiesceFilter(None), quiesce_filter.QuiesceFilter(None)
        self.assertIs(first._watch, second._watch)

    def test_under_uwsgi_each_worker_starts_its_own_when_it_is_forked(self) -> None:
        uwsgi = mock.Mock(worker_id=lambda: 0)
        before = uwsgi.post_fork_hook
        start = mock.Mock()
        with (
            mock.patch.dict("sys.modules", uwsgi=uwsgi),
            mock.patch("nova_quiesce.watch._is_green", return_value=False),
        ):
            watch.in_each_worker(start)
            start.assert_not_called()
            uwsgi.post_fork_hook()
        start.assert_called_once_with()
        before.assert_called_once_with()

    def test_under_uwsgi_with_lazy_apps_a_worker_starts_its_own_as_it_loads_the_application(
        self,
    ) -> None:
        start = mock.Mock()
        with (
            mock.patch.dict("sys.modules", uwsgi=mock.Mock(worker_id=lambda: 1)),
            mock.patch("nova_quiesce.watch._is_green", return_value=False),
        ):
            watch.in_each_worker(start)
        start.assert_called_once_with()

    def test_where_no_thread_runs_it_looks_after_requests(self) -> None:
        self.quiesced_by_a_process_that_died(timeout=1)
        self.await_that(
            "its time is over", lambda: record.seconds_until(self.shown()["expires_at"]) < 0
        )
        application = webob.Response("answer of Nova")
        with (
            mock.patch("nova_quiesce.watch.threads_run", return_value=False),
            mock.patch.object(quiesce_filter, "_of_this_process", return_value=Quiescing()),
            self.assertLogs("nova_quiesce.filter", "WARNING") as logs,
        ):
            filtered = quiesce_filter.QuiesceFilter(application)
        self.assertIn("nova-quiesce watch", logs.output[0])
        body = filtered(webob.Request.blank("/servers").environ, lambda *_: None)
        self.assertEqual(b"answer of Nova", b"".join(body))
        self.assertTrue(self.frozen)
        body.close()  # what a WSGI server does when it has sent the answer
        self.assertFalse(self.frozen)

    def test_the_state_of_a_quiesce_is_one_that_nova_does_not_have(self) -> None:
        from nova.objects.fields import InstanceTaskState

        self.assertFalse({QUIESCED, QUIESCING, UNQUIESCING} & set(InstanceTaskState.ALL))


class TestCells(CloudTestCase):
    def test_a_server_in_another_cell_is_quiesced_shown_and_thawed(self) -> None:
        server_id = self.create_server("compute2")
        cells = {self.instance(each)._context.db_connection for each in (self.server_id, server_id)}
        self.assertEqual(2, len(cells))
        self.assertEqual(202, self.act({"quiesce": None}, server_id).status_code)
        self.assertIn(server_id, self.guests.frozen)
        self.assertTrue(self.shown(server_id)["quiesced"])
        self.assertEqual(202, self.act({"unquiesce": None}, server_id).status_code)
        self.assertNotIn(server_id, self.guests.frozen)

    def test_the_watch_finds_servers_in_all_cells(self) -> None:
        other = self.create_server("compute2")
        for server_id in (self.server_id, other):
            instance = self.instance(server_id)
            self.another_process().quiesce(instance._context, instance, 1)
        survivor = self.another_process().watch
        self.await_that("both thawed", lambda: survivor.look_if_time() or not self.guests.frozen)

    def test_a_cell_that_is_down_does_not_keep_the_others_waiting(self) -> None:
        self.quiesced_by_a_process_that_died(timeout=1)
        healthy = self.instance()._context.db_connection
        found = record.all_of_cell

        def one_is_down(context: Any) -> Any:
            if context.db_connection != healthy:
                raise ConnectionError("database down")
            return found(context)

        survivor = self.another_process().watch
        with mock.patch("nova_quiesce.record.all_of_cell", one_is_down):
            self.await_that("thawed", lambda: survivor.look_if_time() or not self.frozen)
