# SPDX-License-Identifier: Apache-2.0
"""The options of the add-on in nova.conf, group [quiesce]."""

from __future__ import annotations

from oslo_config import cfg

GROUP = cfg.OptGroup("quiesce", title="Quiesce and unquiesce of servers")

OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt(
        "default_timeout",
        default=60,
        min=1,
        help="Seconds after which a quiesced server is unquiesced by itself when the request named "
        "no timeout.",
    ),
    cfg.IntOpt(
        "maximum_timeout",
        default=600,
        min=1,
        help="The longest timeout, in seconds, that a request may name.",
    ),
    cfg.IntOpt(
        "look_interval",
        default=15,
        min=1,
        help="Seconds between two looks of one nova-api process for servers that another process "
        "has quiesced and not unquiesced: one query "
        "by an index to the database of each cell. When a process dies, the servers it has "
        "quiesced are unquiesced by so much late at most.",
    ),
]


def register(conf: cfg.ConfigOpts) -> None:
    """Register the options in `conf`; doing so twice is harmless."""
    conf.register_group(GROUP)
    conf.register_opts(OPTIONS, group=GROUP)


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Return the options for oslo-config-generator."""
    return [(GROUP, OPTIONS)]
