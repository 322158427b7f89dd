# SPDX-License-Identifier: Apache-2.0
"""One server, many processes: what is recorded stays true, whatever others write at the same
moment.
"""

from __future__ import annotations

import json
import unittest
from typing import Any

from nova import exception, objects
from nova_quiesce.quiescing import AlreadyQuiesced, Overtaken
from nova_quiesce.record import KEY, QUIESCED, QUIESCING, UNQUIESCING, Record

from nova_quiesce import record
from tests.cloud import CloudTestCase


class TestManyProcesses(CloudTestCase):
    def test_of_many_quiesces_through_different_processes_one_wins_and_its_record_is_the_one_kept(
        self,
    ) -> None:
        def quiesce(timeout: int) -> Any:
            instance = self.instance()
            return self.another_process().quiesce(instance._context, instance, timeout)

        results = self.at_once(
            *(lambda timeout=timeout: quiesce(timeout) for timeout in (100, 200, 300, 400))
        )
        self.assertEqual(["freeze"], self.guests.calls)
        self.assertEqual(1, results.count(None), results)
        lost = [result for result in results if result is not None]
        self.assertTrue(
            all(isinstance(error, (AlreadyQuiesced, Overtaken)) for error in lost), lost
        )
        won = self.record()
        timeout = record.seconds_until(won.expires_at) - record.seconds_until(won.since)
        self.assertAlmostEqual((results.index(None) + 1) * 100, timeout, delta=2)

    def test_of_many_requests_one_wins_and_the_others_are_conflicts(self) -> None:
        answers = self.at_once(*([lambda: self.act({"quiesce": None})] * 4))
        self.assertEqual([202, 409, 409, 409], sorted(answer.status_code for answer in answers))
        self.assertEqual(["freeze"], self.guests.calls)

    def test_of_two_unquiesces_at_once_none_thaws_what_was_quiesced_after_the_other(self) -> None:
        self.act({"quiesce": None})
        seen = self.record()
        self.act({"unquiesce": None})
        self.act({"quiesce": None})
        with self.cell() as context:
            self.assertFalse(self.another_process()._thaw(context, self.instance(), seen))
        self.assertTrue(self.frozen)

    def test_an_unquiesce_while_another_is_under_way_is_a_conflict_that_says_so(self) -> None:
        self.act({"quiesce": None})
        answers = []
        self.guests.while_thawing = lambda: answers.append(self.act({"unquiesce": None}))
        self.assertEqual(202, self.act({"unquiesce": None}).status_code)
        self.assertIn(
            "while it is in task_state unquiescing",
            self.fault(answers[0], 409, "conflictingRequest"),
        )

    def test_an_unquiesce_while_the_guest_is_being_frozen_is_a_conflict_that_says_so(self) -> None:
        answers = []
        self.guests.while_freezing = lambda: answers.append(self.act({"unquiesce": None}))
        self.assertEqual(202, self.act({"quiesce": None}).status_code)
        self.assertIn(
            "while it is in task_state quiescing", self.fault(answers[0], 409, "conflictingRequest")
        )
        self.assertTrue(self.frozen)

    def test_a_record_is_changed_only_by_who_knows_it_as_it_is(self) -> None:
        first, other = (Record.new(QUIESCED, 60, 0) for _ in range(2))
        changes = (
            (None, first, True),
            (None, other, False),
            (other, None, False),
            (first.become(UNQUIESCING), None, False),
            (first, first.become(UNQUIESCING), True),
            (first, None, False),
            (
                first.become(UNQUIESCING),
                first.become(UNQUIESCING, free_at="2100-01-01T00:00:00Z"),
                True,
            ),
            (
                first.become(UNQUIESCING),
                first.become(UNQUIESCING, free_at="2200-01-01T00:00:00Z"),
                False,
            ),
            (first.become(UNQUIESCING, free_at="2100-01-01T00:00:00Z"), None, True),
        )
        with self.cell() as context:
            for old, new, done in changes:
                before = record.of(context, self.server_id)
                self.assertEqual(
                    done, record.replace(context, self.server_id, old, new), (old, new)
                )
                self.assertEqual(new if done else before, record.of(context, self.server_id))

    def test_a_server_that_has_been_stopped_meanwhile_is_not_quiesced(self) -> None:
        instance = self.instance()
        instance.vm_state = "stopped"
        instance.save()
        with self.cell() as context:
            self.assertFalse(
                record.replace(context, self.server_id, None, Record.new(QUIESCING, 60, 60))
            )

    def record(self) -> Record:
        with self.cell() as context:
            found = record.of(context, self.server_id)
        assert found is not None
        return found


class TestRows(unittest.TestCase):
    def test_what_another_release_appends_to_a_row_is_left_to_it(self) -> None:
        known = Record.new(QUIESCED, 60, 0)
        row = json.dumps([*json.loads(known.row), "of a newer release"])
        self.assertEqual(known, Record.read(QUIESCED, row))


class TestNovaWritesToo(CloudTestCase):
    def test_an_action_that_had_loaded_the_server_before_it_was_quiesced_fails_by_novas_own_lock(
        self,
    ) -> None:
        stale = self.instance()
        self.act({"quiesce": None})
        stale.task_state = "rebooting"
        self.assertRaises(
            exception.UnexpectedTaskStateError, stale.save, expected_task_state=[None]
        )
        self.assertEqual(QUIESCED, self.shown()["state"])

    def test_a_quiesce_that_had_loaded_the_server_before_an_action_began_is_refused(self) -> None:
        stale, acting = self.instance(), self.instance()
        acting.task_state = "rebooting"
        acting.save(expected_task_state=[None])
        self.assertRaises(
            exception.InstanceInvalidState,
            self.another_process().quiesce,
            stale._context,
            stale,
            60,
        )
        self.assertEqual([], self.guests.calls)

    def test_a_save_of_other_fields_leaves_the_record_alone(self) -> None:
        stale = self.instance()
        self.act({"quiesce": None})
        before = self.shown()
        stale.display_name = "renamed"
        stale.save()
        self.assertEqual(before, self.shown())

    def test_a_server_whose_row_nova_has_overwritten_is_thawed_at_once(self) -> None:
        stale = self.instance()
        self.quiesced_by_a_process_that_died(timeout=600)
        stale.system_metadata["locked_reason"] = (
            "saved by a process that had loaded the server before"
        )
        stale.save()
        self.assertNotIn(KEY, self.instance().system_metadata)
        self.another_process().watch.look_if_time()
        self.assertFalse(self.frozen)
        self.assertFalse(self.shown()["quiesced"])

    def test_a_row_that_nova_has_brought_back_means_nothing_and_goes_with_the_next_quiesce(
        self,
    ) -> None:
        self.act({"quiesce": None})
        stale = self.instance()
        self.act({"unquiesce": None})
        stale.system_metadata["locked_reason"] = (
            "saved by a process that had loaded the server before"
        )
        stale.save()
        self.assertIn(KEY, self.instance().system_metadata)
        self.assertFalse(self.shown()["quiesced"])
        self.act({"quiesce": None})
        self.act({"unquiesce": None})
        self.assertNotIn(KEY, self.instance().system_metadata)

    def test_novas_database_keeps_the_whole_row(self) -> None:
        row = Record.new(UNQUIESCING, 10**6, 10**6).row
        self.assertLess(len(row), 255)
        self.assertIn("task_state", objects.Instance.fields)
