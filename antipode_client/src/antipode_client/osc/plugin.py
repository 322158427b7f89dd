# SPDX-License-Identifier: Apache-2.0
"""What python-openstackclient asks of a plug-in: the name and versions of its API, and a client."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from osc_lib import utils

if TYPE_CHECKING:
    from antipode_client.client import Client

API_NAME = "disaster_recovery"
API_VERSION_OPTION = "os_disaster_recovery_api_version"
API_VERSIONS = {"1": "antipode_client.client.Client"}
DEFAULT_API_VERSION = "1"


def make_client(instance: Any) -> Client:
    """The client for commands.

    Args:
        instance: the client manager of python-openstackclient, which has the session, the region
            and the interface that the user has chosen.
    """
    from antipode_client.client import Client

    return Client(
        instance.session,
        region_name=instance.region_name,
        interface=instance.interface,
        endpoint_override=instance.get_configuration().get("disaster_recovery_endpoint_override"),
    )


def build_option_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the global options of the plug-in."""
    parser.add_argument(
        "--os-disaster-recovery-api-version",
        metavar="<disaster-recovery-api-version>",
        default=utils.env("OS_DISASTER_RECOVERY_API_VERSION", default=DEFAULT_API_VERSION),
        help="Version of the disaster recovery API, default: 1"
        " (Env: OS_DISASTER_RECOVERY_API_VERSION)",
    )
    parser.add_argument(
        "--os-disaster-recovery-endpoint-override",
        dest="disaster_recovery_endpoint_override",
        metavar="<url>",
        default=utils.env("OS_DISASTER_RECOVERY_ENDPOINT_OVERRIDE", default=None),
        help="URL of the disaster recovery API, in place of the one in the catalog"
        " (Env: OS_DISASTER_RECOVERY_ENDPOINT_OVERRIDE)",
    )
    return parser
