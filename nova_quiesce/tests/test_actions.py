# SPDX-License-Identifier: Apache-2.0
"""quiesce and unquiesce against Nova's real API, conductor and compute code."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import nova.policy
from nova import context as nova_context
from nova import exception
from nova.api.auth import NovaKeystoneContext
from nova.tests.fixtures.nova import PROJECT_ID

import nova_quiesce
from tests.cloud import CloudTestCase

UNKNOWN = "00000000-0000-4000-8000-000000000000"


class TestQuiesce(CloudTestCase):
    def test_quiesce_freezes_and_unquiesce_thaws_before_it_answers(self) -> None:
        answer = self.act({"quiesce": None})
        self.assertEqual((202, b""), (answer.status_code, answer.content))
        self.assertIn("x-openstack-request-id", answer.headers)
        self.assertTrue(self.frozen)
        answer = self.act({"unquiesce": None})
        self.assertEqual((202, b""), (answer.status_code, answer.content))
        self.assertFalse(self.frozen)

    def test_it_works_with_the_project_id_in_the_url(self) -> None:
        path = f"/{PROJECT_ID}/servers/{self.server_id}/action"
        self.assertEqual(202, self.request(path, "POST", {"quiesce": None}).status_code)
        self.assertEqual(202, self.request(path, "POST", {"unquiesce": None}).status_code)
        self.assertFalse(self.frozen)

    def test_the_project_id_of_another_project_in_the_url_is_refused_as_nova_refuses_it(
        self,
    ) -> None:
        answer = self.request(f"/abcdef/servers/{self.server_id}/action", "POST", {"quiesce": None})
        self.assertIn("Malformed request URL", self.fault(answer, 400, "badRequest"))
        self.assertFalse(self.frozen)

    def test_it_works_below_the_legacy_prefix(self) -> None:
        with mock.patch.object(
            self.admin_api, "base_url", self.admin_api.base_url.replace("/v2.1", "/v2")
        ):
            self.assertEqual(202, self.act({"quiesce": None}).status_code)
        self.assertTrue(self.frozen)

    def test_a_second_quiesce_is_a_conflict_that_leaves_the_first_as_it_is(self) -> None:
        self.act({"quiesce": None})
        before = self.shown()
        message = self.fault(self.act({"quiesce": None}), 409, "conflictingRequest")
        self.assertIn(
            f"is already quiesced, since {before['since']} and until {before['expires_at']}",
            message,
        )
        self.assertTrue(self.frozen)
        self.assertEqual(before, self.shown())

    def test_a_guest_frozen_by_something_else_is_a_conflict_and_stays_frozen(self) -> None:
        self.guests.frozen.add(self.server_id)
        message = self.fault(self.act({"quiesce": None}), 409, "conflictingRequest")
        self.assertIn("guest-fsfreeze-freeze has been disabled", message)
        self.assertTrue(self.frozen)
        self.assertFalse(self.shown()["quiesced"])

    def test_unquiescing_what_is_not_quiesced_succeeds(self) -> None:
        self.assertEqual(202, self.act({"unquiesce": None}).status_code)

    def test_it_shows_whether_and_until_when_a_server_is_quiesced(self) -> None:
        nothing = {"quiesced": False, "state": None, "id": None, "since": None, "expires_at": None}
        self.assertEqual(nothing, self.shown())
        self.act({"quiesce": {"timeout": 30}})
        shown = self.shown()
        self.assertTrue(shown["quiesced"])
        self.assertEqual("quiesced", shown["state"])
        self.assertLess(shown["since"], shown["expires_at"])
        self.act({"unquiesce": None})
        self.assertEqual(nothing, self.shown())

    def test_each_quiesce_has_an_id_of_its_own_so_that_a_client_learns_that_its_own_was_ended(
        self,
    ) -> None:
        self.act({"quiesce": None})
        first = self.shown()["id"]
        self.act({"unquiesce": None})
        self.act({"quiesce": None})
        self.assertNotEqual(first, self.shown()["id"])

    def test_a_server_shows_every_viewer_that_it_is_quiesced(self) -> None:
        self.act({"quiesce": None})
        server = self.request(f"/servers/{self.server_id}", api=self.api).json()["server"]
        self.assertEqual(
            ("ACTIVE", "quiesced"), (server["status"], server["OS-EXT-STS:task_state"])
        )
        self.act({"unquiesce": None})
        self.assertIsNone(
            self.request(f"/servers/{self.server_id}").json()["server"]["OS-EXT-STS:task_state"]
        )

    def test_unquiesce_leaves_nothing_in_the_database(self) -> None:
        self.act({"quiesce": None})
        self.act({"unquiesce": None})
        self.assert_nothing_is_left()

    def test_the_add_on_and_its_version_can_be_found_out(self) -> None:
        for api in (self.admin_api, self.api):
            answer = self.request("/os-quiesce", api=api)
            self.assertEqual(200, answer.status_code)
            self.assertEqual(
                {
                    "version": nova_quiesce.__version__,
                    "default_timeout": 60,
                    "maximum_timeout": 600,
                },
                answer.json()["quiesce"],
            )


class TestRefusals(CloudTestCase):
    def test_an_unknown_server_is_not_found(self) -> None:
        for action in ("quiesce", "unquiesce"):
            self.assertIn(
                "could not be found",
                self.fault(self.act({action: None}, UNKNOWN), 404, "itemNotFound"),
            )
        self.fault(self.request(f"/servers/{UNKNOWN}/os-quiesce"), 404, "itemNotFound")

    def test_a_member_is_forbidden_by_default(self) -> None:
        for action in ("quiesce", "unquiesce"):
            message = self.fault(self.act({action: None}, api=self.api), 403, "forbidden")
            self.assertIn(f"os_compute_api:os-quiesce:{action}", message)
        self.assertEqual([], self.guests.calls)

    def test_a_member_is_allowed_when_the_policy_file_says_so(self) -> None:
        self.let_members_quiesce()
        self.assertEqual(202, self.act({"quiesce": None}, api=self.api).status_code)
        self.assertTrue(self.frozen)
        self.assertEqual(202, self.act({"unquiesce": None}, api=self.api).status_code)
        self.assertFalse(self.frozen)

    def test_a_member_of_another_project_finds_no_such_server_even_then(self) -> None:
        self.let_members_quiesce()
        with mock.patch.object(self.api, "project_id", "another"):
            for action in ("quiesce", "unquiesce"):
                self.fault(self.act({action: None}, api=self.api), 404, "itemNotFound")
            self.fault(
                self.request(f"/servers/{self.server_id}/os-quiesce", api=self.api),
                404,
                "itemNotFound",
            )
        self.assertEqual([], self.guests.calls)

    def let_members_quiesce(self) -> None:
        """Write the policy file that the README gives."""
        for undone_last_first in (nova.policy.init, nova.policy.reset):
            self.addCleanup(undone_last_first)
        file = Path(self.enterContext(tempfile.TemporaryDirectory())) / "policy.yaml"
        rules = ("os_compute_api:os-quiesce:quiesce", "os_compute_api:os-quiesce:unquiesce")
        file.write_text("".join(f'"{rule}": "rule:project_member_or_admin"\n' for rule in rules))
        self.option("policy_file", str(file), "oslo_policy")
        nova.policy.reset()
        nova.policy.init()

    def test_malformed_bodies_are_bad_requests(self) -> None:
        for body in (
            {"quiesce": "now"},
            {"quiesce": {"timeout": 0}},
            {"quiesce": {"timeout": "soon"}},
            {"quiesce": {"timeout": True}},
            {"quiesce": {"for": 3}},
            {"quiesce": {"timeout": 601}},
            {"quiesce": None, "unquiesce": None},
            {"unquiesce": {"timeout": 3}},
            '{"quiesce": ',
            "[]",
        ):
            with self.subTest(body=body):
                self.fault(self.act(body), 400, "badRequest")
        self.assertEqual([], self.guests.calls)

    def test_another_content_type_is_refused_as_nova_refuses_it(self) -> None:
        answer = self.act({"quiesce": None}, headers={"Content-Type": "application/xml"})
        self.fault(answer, 415, "badMediaType")

    def test_a_stopped_server_is_a_conflict(self) -> None:
        self.act({"os-stop": None})
        self.cloud._wait_for_state_change({"id": self.server_id}, "SHUTOFF")
        for action in ("quiesce", "unquiesce"):
            message = self.fault(self.act({action: None}), 409, "conflictingRequest")
            self.assertEqual(
                f"Cannot '{action}' instance {self.server_id} while it is in vm_state stopped",
                message,
            )

    def test_a_server_with_a_task_in_progress_is_a_conflict(self) -> None:
        instance = self.instance()
        instance.task_state = "rebooting"
        instance.save()
        message = self.fault(self.act({"quiesce": None}), 409, "conflictingRequest")
        self.assertIn("while it is in task_state rebooting", message)

    def test_a_locked_server_is_a_conflict_except_for_the_admin(self) -> None:
        self.let_members_quiesce()
        self.act({"lock": None})
        message = self.fault(self.act({"quiesce": None}, api=self.api), 409, "conflictingRequest")
        self.assertEqual(f"Instance {self.server_id} is locked", message)
        self.assertEqual(202, self.act({"quiesce": None}).status_code)
        self.fault(self.act({"unquiesce": None}, api=self.api), 409, "conflictingRequest")
        self.assertTrue(self.frozen)
        self.assertEqual(202, self.act({"unquiesce": None}).status_code)
        self.assertFalse(self.frozen)

    def test_a_server_in_error_is_a_conflict(self) -> None:
        self.act({"os-resetState": {"state": "error"}})
        message = self.fault(self.act({"quiesce": None}), 409, "conflictingRequest")
        self.assertIn("while it is in vm_state error", message)

    def test_a_shelved_server_is_a_conflict(self) -> None:
        self.option("shelved_offload_time", 0)
        self.act({"shelve": None})
        self.cloud._wait_for_state_change({"id": self.server_id}, "SHELVED_OFFLOADED")
        message = self.fault(self.act({"quiesce": None}), 409, "conflictingRequest")
        self.assertIn("while it is in vm_state shelved_offloaded", message)
        self.assertEqual([], self.guests.calls)

    def test_a_server_without_agent_is_a_conflict(self) -> None:
        self.guests.refuse_with = exception.QemuGuestAgentNotEnabled()
        for action in ("quiesce", "unquiesce"):
            self.assertEqual(
                "QEMU guest agent is not enabled",
                self.fault(self.act({action: None}), 409, "conflictingRequest"),
            )
        self.assertFalse(self.shown()["quiesced"])

    def test_an_agent_that_was_never_there_is_a_conflict_at_once_and_nothing_is_left(self) -> None:
        for said in (
            "Guest agent is not responding: QEMU guest agent is not connected",
            "Guest agent is not responding: guest agent didn't respond to synchronization within "
            "'5' seconds",
        ):
            self.guests.refuse_with = exception.InstanceQuiesceFailed(reason=said)
            for action in ("quiesce", "unquiesce"):
                message = self.fault(self.act({action: None}), 409, "conflictingRequest")
                self.assertEqual(f"Failed to quiesce instance: {said}", message)
                self.assert_nothing_is_left()
        self.assertEqual(["freeze", "thaw"] * 2, self.guests.calls)

    def test_a_hypervisor_that_cannot_quiesce_is_a_conflict(self) -> None:
        for error in (
            NotImplementedError(),
            exception.InstanceQuiesceNotSupported(instance_id=self.server_id),
        ):
            self.guests.refuse_with = error
            message = self.fault(self.act({"quiesce": None}), 409, "conflictingRequest")
            self.assertIn("Quiescing is not supported", message)

    def test_a_hypervisor_that_is_down_is_a_conflict(self) -> None:
        self.guests.refuse_with = exception.HypervisorUnavailable(host="compute")
        self.assertIn(
            "Connection to the hypervisor is broken",
            self.fault(self.act({"quiesce": None}), 409, "conflictingRequest"),
        )
        self.assert_nothing_is_left()

    def test_a_compute_host_that_is_down_is_a_conflict(self) -> None:
        service = next(
            s for s in self.admin_api.get_services(binary="nova-compute") if s["host"] == "compute"
        )
        self.admin_api.put_service(service["id"], {"forced_down": True})
        self.addCleanup(self.admin_api.put_service, service["id"], {"forced_down": False})
        message = self.fault(self.act({"quiesce": None}), 409, "conflictingRequest")
        self.assertEqual("Service is unavailable at this time.", message)


class TestOtherRequests(CloudTestCase):
    def test_other_actions_reach_nova_with_their_body(self) -> None:
        self.assertEqual(202, self.act({"lock": {"locked_reason": "for a while"}}).status_code)
        self.assertEqual("for a while", self.admin_api.get_server(self.server_id)["locked_reason"])
        self.assertEqual(202, self.act({"unlock": None}).status_code)

    def test_an_action_that_nobody_knows_is_refused_by_nova(self) -> None:
        self.assertIn(
            "There is no such action: quiesced",
            self.fault(self.act({"quiesced": None}), 400, "badRequest"),
        )

    def test_the_request_context_that_nova_gets_is_not_targeted_at_a_cell(self) -> None:
        made_context = NovaKeystoneContext._create_context
        seen = []

        def remember_made(environ: dict[str, str], **more: object) -> nova_context.RequestContext:
            seen.append(made_context(environ, **more))
            return seen[-1]

        with (
            mock.patch.object(NovaKeystoneContext, "_create_context", side_effect=remember_made),
            mock.patch(
                "nova_quiesce.policy.authorize",
                side_effect=lambda context, *_: seen.append(context),
            ),
        ):
            self.act({"quiesce": None})
        request_context, used_context = seen
        self.assertIsNone(request_context.mq_connection)
        self.assertIsNotNone(used_context.mq_connection)
