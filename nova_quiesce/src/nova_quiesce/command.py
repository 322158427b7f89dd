# SPDX-License-Identifier: Apache-2.0
"""The command nova-quiesce: what an operator needs beside the API."""

from __future__ import annotations

import sys
from typing import Any

from nova import config, objects
from nova import context as nova_context
from nova.conf import CONF
from oslo_config import cfg
from oslo_log import log as logging

from nova_quiesce import options, record, watch
from nova_quiesce.quiescing import Quiescing

_COMMANDS = cfg.SubCommandOpt(
    "command", title="Commands", handler=lambda parsers: _add_commands(parsers)
)


def main() -> int:
    """Run the command that sys.argv names; return its exit code."""
    CONF.register_cli_opt(_COMMANDS)
    config.parse_args(sys.argv)
    logging.setup(CONF, "nova-quiesce")
    options.register(CONF)
    objects.register_all()
    return int(CONF.command.run() or 0)


def _add_commands(subparsers: Any) -> None:
    for name, run, text in (
        ("list", _list, "list the servers that are quiesced"),
        (
            "unquiesce",
            _unquiesce,
            "unquiesce all servers that are quiesced, and remove what is left of such that are "
            "not any more",
        ),
        (
            "watch",
            _watch,
            "unquiesce servers whose time is over, for ever: for nova-api processes that cannot do "
            "it themselves",
        ),
    ):
        subparsers.add_parser(name, help=text, description=text).set_defaults(run=run)


def _list() -> None:
    for cell, server_id, found in watch.all_quiesced():
        print(
            f"{server_id}  {cell.name or cell.uuid}  {found.state}  since {found.since}  until "
            f"{found.expires_at}"
        )


def _unquiesce() -> int:
    failed = 0
    quiescing = Quiescing()
    for cell, server_id, _ in watch.all_quiesced():
        with nova_context.target_cell(nova_context.get_admin_context(), cell) as context:
            try:
                instance = objects.Instance.get_by_uuid(
                    context, server_id, expected_attrs=["services", "system_metadata"]
                )
                quiescing.unquiesce(context, instance)
            except Exception as error:
                failed = 1
                print(f"{server_id}  not unquiesced: {error}", file=sys.stderr)
            else:
                print(f"{server_id}  unquiesced")
    for cell in watch.cells():
        with nova_context.target_cell(nova_context.get_admin_context(), cell) as context:
            record.forget(context)
    return failed


def _watch() -> None:
    Quiescing().watch.run()
