# SPDX-License-Identifier: Apache-2.0
"""What an operator runs: the generators that know the add-on, and its command."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import unittest
from unittest import mock

from nova import exception, objects

from nova_quiesce import command, record
from tests.cloud import CloudTestCase

# What the program of that name would execute, which an environment beside Nova's does not have.
PROGRAM = """
import sys
from importlib import metadata
del sys.argv[0]
scripts = metadata.entry_points(group="console_scripts")
sys.exit(next(found for found in scripts if found.name == sys.argv[0]).load()())
"""


def run(*argv: str) -> str:
    """Run an installed program and return what it printed."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *argv], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class TestGenerators(unittest.TestCase):
    def test_oslopolicy_sample_generator_shows_the_rules_and_their_defaults(self) -> None:
        sample = run("oslopolicy-sample-generator", "--namespace", "nova_quiesce")
        for rule, default in (
            ("quiesce", "rule:context_is_admin"),
            ("unquiesce", "rule:context_is_admin"),
            ("show", "rule:project_reader_or_admin"),
        ):
            self.assertIn(f'#"os_compute_api:os-quiesce:{rule}": "{default}"', sample)

    def test_oslo_config_generator_shows_the_options(self) -> None:
        sample = run("oslo-config-generator", "--namespace", "nova_quiesce")
        for line in (
            "[quiesce]",
            "#default_timeout = 60",
            "#maximum_timeout = 600",
            "#look_interval = 15",
        ):
            self.assertIn(line, sample.splitlines())

    def test_the_command_explains_itself(self) -> None:
        for name in ("list", "unquiesce", "watch"):
            self.assertIn(name, run("nova-quiesce", "--help"))


class TestCommand(CloudTestCase):
    def test_list_names_what_is_quiesced(self) -> None:
        self.assertEqual("", self.printed(command._list))
        self.act({"quiesce": None})
        self.assertIn(f"{self.server_id}  cell1  quiesced  since ", self.printed(command._list))

    def test_thaw_thaws_what_is_quiesced_in_all_cells_and_leaves_nothing(self) -> None:
        other = self.create_server("compute2")
        for server_id in (self.server_id, other):
            self.assertEqual(202, self.act({"quiesce": None}, server_id).status_code)
        printed = self.printed(command._unquiesce)
        for server_id in (self.server_id, other):
            self.assertIn(f"{server_id}  unquiesced", printed)
            self.assertNotIn(record.KEY, self.instance(server_id).system_metadata)
            self.assertIsNone(self.instance(server_id).task_state)
        self.assertEqual(set(), self.guests.frozen)

    def test_thaw_removes_rows_to_which_no_task_state_belongs_any_more(self) -> None:
        self.act({"quiesce": None})
        instance = self.instance()
        instance.task_state = None
        instance.save()
        self.assertIn(record.KEY, self.instance().system_metadata)
        self.printed(command._unquiesce)
        self.assertNotIn(record.KEY, self.instance().system_metadata)

    def test_thaw_tells_what_it_could_not_thaw_and_keeps_its_record(self) -> None:
        self.act({"quiesce": None})
        with (
            mock.patch("nova.servicegroup.API.service_is_up", return_value=False),
            contextlib.redirect_stderr(io.StringIO()) as told,
        ):
            self.assertEqual(1, command._unquiesce())
        self.assertIn(f"{self.server_id}  not unquiesced: Service is unavailable", told.getvalue())
        self.assertTrue(self.shown()["quiesced"])

    def test_thaw_thaws_the_others_when_one_is_deleted_meanwhile(self) -> None:
        other, deleted = self.server_id, self.create_server("compute")
        for server_id in (deleted, other):
            self.act({"quiesce": None}, server_id)
        load = objects.Instance.get_by_uuid

        def one_is_gone(context: object, server_id: str, **more: object) -> object:
            if server_id == deleted:
                raise exception.InstanceNotFound(instance_id=server_id)
            return load(context, server_id, **more)

        with (
            mock.patch("nova.objects.Instance.get_by_uuid", one_is_gone),
            contextlib.redirect_stderr(io.StringIO()) as told,
        ):
            self.assertEqual(1, command._unquiesce())
        self.assertIn(
            f"{deleted}  not unquiesced: Instance {deleted} could not be found", told.getvalue()
        )
        self.assertNotIn(other, self.guests.frozen)

    def printed(self, run_command: object) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            self.assertFalse(run_command())  # type: ignore[operator]
        return printed.getvalue()
