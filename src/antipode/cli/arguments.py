# SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands have, and the values that they may take."""

from __future__ import annotations

import argparse
import math
import re

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def add_vnf(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vnf", metavar="VNF", type=name, help="name of the VNF")


def add_any_vnf(parser: argparse.ArgumentParser, text: str) -> None:
    """`text`: what is shown with the VNF, and without it."""
    parser.add_argument("vnf", metavar="VNF", nargs="?", type=name, help=text)


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="id of the run; see: antipode run list")


def add_detach(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--detach",
        action="store_true",
        help="queue the run for the service (antipode serve), print its id and end",
    )


def add_yes(parser: argparse.ArgumentParser, means: str = "") -> None:
    """`means`: what the operator states with `--yes`."""
    parser.add_argument(
        "--yes", action="store_true", help=f"do not ask; {means}" if means else "do not ask"
    )


def add_lost_vault(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lost-vault",
        metavar="NAME",
        action="append",
        default=[],
        type=name,
        help="states that this vault is lost, and that no other host is failing over the VNF: the "
        "others decide without it; may be repeated",
    )


def add_fence(parser: argparse.ArgumentParser) -> None:
    fence = parser.add_mutually_exclusive_group()
    fence.add_argument(
        "--fence",
        dest="fence",
        action="store_const",
        const="required",
        help="where the other site still answers in part: cut its copy off, stop and lock it "
        "first. The failover ends, and all is as before, where that fails",
    )
    fence.add_argument(
        "--fence-try",
        dest="fence",
        action="store_const",
        const="try",
        help="as --fence, and continue where not all of that copy can be fenced",
    )


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be removed, and remove nothing"
    )


def name(text: str) -> str:
    """The name of a VNF or the id of a recovery point; both are part of paths in the vault."""
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a name: letters, digits, '_', '.' and '-', a letter or digit first"
        )
    return text


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not (text.isascii() and text.isdigit() and len(text) < 8 and 0 < int(text) <= 10**6):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1,000,000")
    return int(text)


def port(text: str) -> int:
    """A port of TCP."""
    if (found := count(text)) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: the highest is 65535")
    return found


LONGEST_S = 7 * 86400.0


def duration(text: str) -> float:
    """A duration of up to a week, as in a VNF file; in seconds."""
    from antipode.model.base import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not (isinstance(seconds, float) and 0 < seconds <= LONGEST_S):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time of up to 7 days")
    return seconds


def time_back(text: str) -> float:
    """A time of up to ten years, in seconds."""
    from antipode.model.base import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not (isinstance(seconds, float) and 0 < seconds <= 3650 * 86400):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time of up to ten years")
    return seconds


def factor(text: str) -> float:
    """A number that is finite and not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value
