# SPDX-License-Identifier: Apache-2.0
"""What else may be done to a server while it is quiesced, and what it does to the quiesce."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

from nova.tests.fixtures.cinder import CinderFixture

from nova_quiesce import filter as quiesce_filter
from nova_quiesce import watch
from tests.cloud import CloudTestCase

VOLUME = CinderFixture.IMAGE_BACKED_VOL
REFUSED: tuple[dict[str, Any], ...] = (
    {"createImage": {"name": "image"}},
    {"createBackup": {"name": "backup", "backup_type": "daily", "rotation": 1}},
    {"reboot": {"type": "SOFT"}},
    {"reboot": {"type": "HARD"}},
    {"resize": {"flavorRef": "2"}},
    {"migrate": None},
    {"os-migrateLive": {"host": None, "block_migration": "auto"}},
    {"shelve": None},
    {"rebuild": {"imageRef": "155d900f-4e14-4e4c-a73d-069cbf4541e6"}},
    {"suspend": None},
    {"pause": None},
    {"os-stop": None},
    {"rescue": None},
    {"changePassword": {"adminPass": "secret"}},
    {"trigger_crash_dump": None},
    {"lock": None},
    {"unlock": None},
    {"quiesce": None},
)


class TestProtection(CloudTestCase):
    def test_what_would_hurt_is_a_conflict_that_names_the_reason(self) -> None:
        self.act({"quiesce": None})
        for body in REFUSED:
            with self.subTest(body=body):
                message = self.fault(self.act(body), 409, "conflictingRequest")
                self.assertIn("quiesced", message)
        for method, path, more in (
            ("POST", "os-volume_attachments", {"volumeAttachment": {"volumeId": VOLUME}}),
            ("POST", "os-interface", {"interfaceAttachment": {}}),
            ("DELETE", f"os-interface/{VOLUME}", None),
            ("PUT", "tags/new", None),
            ("DELETE", "tags/new", None),
            ("PUT", "tags", {"tags": ["new"]}),
            ("DELETE", "tags", None),
        ):
            with self.subTest(method=method, path=path):
                message = self.fault(
                    self.request(f"/servers/{self.server_id}/{path}", method, more),
                    409,
                    "conflictingRequest",
                )
                self.assertIn("while it is in task_state quiesced", message)
        self.assertTrue(self.frozen)
        self.assertEqual(["freeze"], self.guests.calls)
        self.act({"unquiesce": None})
        self.assertEqual(202, self.act({"reboot": {"type": "HARD"}}).status_code)
        self.cloud._wait_for_server_parameter(
            {"id": self.server_id}, {"status": "ACTIVE", "OS-EXT-STS:task_state": None}
        )

    def test_a_volume_that_is_attached_stays_so(self) -> None:
        attached = self.request(
            f"/servers/{self.server_id}/os-volume_attachments",
            "POST",
            {"volumeAttachment": {"volumeId": VOLUME}},
        )
        self.assertIn(attached.status_code, (200, 202), attached.text)
        self.act({"quiesce": None})
        answer = self.request(f"/servers/{self.server_id}/os-volume_attachments/{VOLUME}", "DELETE")
        self.assertIn(
            "while it is in task_state quiesced", self.fault(answer, 409, "conflictingRequest")
        )

    def test_what_does_not_hurt_is_done(self) -> None:
        self.act({"quiesce": None})
        path = f"/servers/{self.server_id}"
        self.assertEqual(
            200, self.request(path, "PUT", {"server": {"name": "renamed"}}).status_code
        )
        self.assertEqual(
            200,
            self.request(f"{path}/metadata", "POST", {"metadata": {"key": "value"}}).status_code,
        )
        self.assertEqual(200, self.act({"os-getConsoleOutput": {}}, api=self.api).status_code)
        self.assertTrue(self.frozen)
        self.assertTrue(self.shown()["quiesced"])

    def test_a_quiesced_server_can_be_deleted_and_nothing_is_left_of_it(self) -> None:
        for how in (
            {"method": "DELETE"},
            {"method": "POST", "suffix": "/action", "body": {"forceDelete": None}},
        ):
            with self.subTest(**how):
                server_id = self.create_server("compute")
                self.act({"quiesce": {"timeout": 1}}, server_id)
                answer = self.request(
                    f"/servers/{server_id}{how.get('suffix', '')}", how["method"], how.get("body")
                )
                self.assertIn(answer.status_code, (202, 204))
                self.cloud._wait_until_deleted({"id": server_id})
                self.assertNotIn(server_id, {found for _, found, _ in watch.all_quiesced()})

    def test_whom_nova_refuses_learns_nothing_from_us(self) -> None:
        reader = self.cloud.api_fixture.reader_api
        tags = f"/servers/{self.server_id}/tags"
        asked = [
            lambda body=body: self.act(body, api=reader)
            for body in ({"lock": None}, {"unlock": None}, {"reboot": {"type": "HARD"}})
        ]
        asked += [
            lambda: self.request(f"{tags}/new", "PUT", api=reader),
            lambda: self.request(tags, "DELETE", api=reader),
        ]
        # what a reader may do differs between releases
        refused = [ask for ask in asked if ask().status_code == 403]
        self.cloud._wait_for_server_parameter(
            {"id": self.server_id}, {"status": "ACTIVE", "OS-EXT-STS:task_state": None}
        )
        self.act({"unlock": None})
        self.assertEqual(202, self.act({"quiesce": None}).status_code)
        for ask in refused:
            self.fault(ask(), 403, "forbidden")
        with mock.patch.object(self.api, "project_id", "another"):
            for body in (
                {"lock": None},
                {"reboot": {"type": "HARD"}},
                {"os-resetState": {"state": "active"}},
            ):
                answer = self.act(body, api=self.api)
                self.assertIn(answer.status_code, (403, 404), answer.text)  # releases differ
                self.assertNotIn("quiesced", answer.text)
        self.assertTrue(self.frozen)

    def test_a_server_that_nobody_knows_is_novas_to_refuse(self) -> None:
        unknown = "00000000-0000-4000-8000-000000000000"
        for body in ({"lock": None}, {"os-resetState": {"state": "active"}}):
            self.fault(self.act(body, unknown), 404, "itemNotFound")
        self.fault(self.request(f"/servers/{unknown}/tags", "DELETE"), 404, "itemNotFound")


class TestReset(CloudTestCase):
    def test_an_admin_can_reset_the_state_and_the_server_is_thawed(self) -> None:
        self.act({"quiesce": None})
        self.assertEqual(202, self.act({"os-resetState": {"state": "active"}}).status_code)
        self.await_that("thawed", lambda: not self.frozen)
        self.assert_nothing_is_left()

    def test_a_guest_that_cannot_be_thawed_is_tried_again_and_its_server_stays_usable(
        self,
    ) -> None:
        self.act({"quiesce": None})
        self.guests.thaws_to_fail = math.inf
        for state in ("error", "active"):
            self.assertEqual(202, self.act({"os-resetState": {"state": state}}).status_code)
            self.assertEqual(state, self.instance().vm_state)
        self.await_that(
            "the guest to be thawed",
            lambda: self.assert_nothing_is_left() or self.guests.calls.count("thaw") > 2,
        )
        self.guests.thaws_to_fail = 0
        self.await_that("thawed", lambda: not self.frozen)
        self.assert_nothing_is_left()

    def test_a_guest_that_cannot_be_thawed_after_a_reset_is_given_up_with_a_warning(self) -> None:
        self.patch("nova_quiesce.record.GIVE_UP_SECONDS", 2)
        self.guests.thaws_to_fail = math.inf
        self.act({"quiesce": {"timeout": 1}})
        with self.assertLogs("nova_quiesce.quiescing", "WARNING") as logs:
            self.act({"os-resetState": {"state": "active"}})
            self.await_that("logged", lambda: any(self.server_id in line for line in logs.output))
        self.await_that("given up", lambda: not self.watch._lost)
        self.assertGreater(self.guests.calls.count("thaw"), 1)
        self.assertEqual({}, self.watch._lost)
        self.assert_nothing_is_left()

    def test_what_is_quiesced_again_after_a_reset_is_not_thawed_by_it(self) -> None:
        self.act({"quiesce": None})
        with mock.patch(
            "nova_quiesce.quiescing.Quiescing._thaw_lost", side_effect=ConnectionError
        ) as thaw:
            self.act({"os-resetState": {"state": "active"}})
            self.await_that("the guest to be thawed", lambda: thaw.called)
            self.guests.frozen.clear()  # as a hard reboot does
            self.assertEqual(202, self.act({"quiesce": None}).status_code)
            self.await_that(
                "kept", lambda: self.server_id in self.watch._lost and not self.watch._thawing
            )
            thaw.reset_mock()
            self.await_that("due", lambda: self.watch._lost[self.server_id][1].is_due)
            self.watch.look()
            thaw.assert_not_called()
        self.assertTrue(self.frozen)

    def test_what_is_quiesced_again_while_it_is_thawed_for_a_reset_does_not_pass_for_frozen(
        self,
    ) -> None:
        self.act({"quiesce": None})
        self.guests.frozen.clear()

        def quiesce_again() -> None:
            self.guests.while_thawing = lambda: None
            instance = self.instance()
            self.another_process().quiesce(instance._context, instance, 60)

        self.guests.while_thawing = quiesce_again
        self.act({"os-resetState": {"state": "active"}})
        self.await_that(
            "ended",
            lambda: (
                self.guests.calls[-1] == "thaw"
                and not self.shown()["quiesced"]
                and len(self.guests.calls) > 3
            ),
        )
        self.assertFalse(self.frozen)

    def test_a_server_that_is_not_quiesced_is_not_thawed(self) -> None:
        self.act({"os-resetState": {"state": "active"}})
        self.assertEqual([], self.guests.calls)

    def test_a_member_may_neither_reset_nor_thaw_by_it(self) -> None:
        self.act({"quiesce": None})
        self.fault(self.act({"os-resetState": {"state": "active"}}, api=self.api), 403, "forbidden")
        self.assertTrue(self.frozen)

    def test_a_freeze_that_comes_after_the_thaw_for_a_reset_is_thawed_too(self) -> None:
        self.guests.before_freezing = self.reset_and_await_thaw
        self.fault(self.act({"quiesce": None}), 409, "conflictingRequest")
        self.await_that("thawed", lambda: not self.frozen)

    def test_so_is_one_of_which_the_agent_does_not_tell(self) -> None:
        self.guests.falls_silent_in_the_freeze()
        self.guests.thaws_to_fail = 0
        self.guests.before_freezing = self.reset_and_await_thaw
        self.fault(self.act({"quiesce": None}), 409, "conflictingRequest")
        self.await_that("thawed", lambda: not self.frozen)
        self.assert_nothing_is_left()

    def reset_and_await_thaw(self) -> None:
        self.act({"os-resetState": {"state": "active"}})
        self.await_that(
            "thawed for the reset",
            lambda: (
                "thaw" in self.guests.calls and not self.watch._lost and not self.watch._thawing
            ),
        )

    @property
    def watch(self) -> watch.Watch:
        """The watch of the nova-api."""
        return quiesce_filter._of_this_process().watch


class TestSnapshotsThroughNova(CloudTestCase):
    """os-assisted-volume-snapshots: how Cinder snapshots attached volumes of backends that are
    files.
    """

    SNAPSHOT = "11111111-0000-4000-8000-000000000000"
    CREATE = {  # noqa: RUF012
        "snapshot": {
            "volume_id": VOLUME,
            "create_info": {
                "snapshot_id": SNAPSHOT,
                "type": "qcow2",
                "new_file": "f",
                "id": SNAPSHOT,
            },
        }
    }

    def setUp(self) -> None:
        super().setUp()
        instance = self.instance()
        instance.system_metadata["image_hw_qemu_guest_agent"] = "yes"
        instance.save()
        answer = self.request(
            f"/servers/{self.server_id}/os-volume_attachments",
            "POST",
            {"volumeAttachment": {"volumeId": VOLUME}},
        )
        self.assertIn(answer.status_code, (200, 202), answer.text)
        attached = f"/servers/{self.server_id}/os-volume_attachments"
        self.await_that(
            "attached", lambda: bool(self.request(attached).json()["volumeAttachments"])
        )

    def test_they_are_taken_of_a_quiesced_server_which_stays_frozen(self) -> None:
        self.act({"quiesce": None})
        answer = self.request("/os-assisted-volume-snapshots", "POST", self.CREATE)
        self.assertEqual(200, answer.status_code, answer.text)
        self.assertEqual({"snapshot": {"id": self.SNAPSHOT, "volumeId": VOLUME}}, answer.json())
        self.await_that("snapshot taken", lambda: self.guests.snapshots == [(VOLUME, True)])
        self.assertTrue(self.frozen)
        self.assertEqual("yes", self.instance().system_metadata["image_hw_qemu_guest_agent"])
        self.assertEqual("quiesced", self.instance().task_state)

    def test_they_are_taken_of_any_other_server_as_ever(self) -> None:
        self.assertEqual(
            200, self.request("/os-assisted-volume-snapshots", "POST", self.CREATE).status_code
        )
        self.await_that("snapshot taken", lambda: self.guests.snapshots == [(VOLUME, False)])
        self.fault(
            self.request("/os-assisted-volume-snapshots", "POST", self.CREATE, api=self.api),
            403,
            "forbidden",
        )
        self.fault(
            self.request("/os-assisted-volume-snapshots", "POST", {"snapshot": {}}),
            400,
            "badRequest",
        )

    def test_they_are_refused_by_nova_while_the_server_has_another_task(self) -> None:
        instance = self.instance()
        instance.task_state = "rebooting"
        instance.save()
        message = self.fault(
            self.request("/os-assisted-volume-snapshots", "POST", self.CREATE), 400, "badRequest"
        )
        self.assertIn("task_state rebooting", message)
        instance.task_state = None
        instance.save()
