# SPDX-License-Identifier: Apache-2.0
"""A report, or a history, as one HTML page, which loads nothing from anywhere. All that it shows is
escaped.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import Environment, PackageLoader, StrictUndefined

from antipode.model.history import History, VnfHistory
from antipode.model.plan_file import PREFIX
from antipode.model.report import Foretold, Report


def html(report: Report) -> bytes:
    """The page of a run."""
    return _environment().get_template("report.html").render(report=report).encode()


def history_html(found: History) -> bytes:
    """The page of a history."""
    return _environment().get_template("history.html").render(found=found).encode()


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("antipode.operations.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["target"] = target
    environment.filters["foretold"] = foretold
    environment.filters["subject"] = subject
    environment.filters["figures"] = figures
    return environment


def subject(vnf: str) -> str:
    """What a run is about, in words: a VNF, or a plan over many."""
    is_plan = vnf.startswith(PREFIX)
    return f"plan {vnf.removeprefix(PREFIX)}" if is_plan else f"VNF {vnf}"


def target(found: object) -> str:
    """An objective in words."""
    reached, wanted = getattr(found, "reached_s", None), getattr(found, "target_s", None)
    words = "not measured" if reached is None else f"{reached:g} s"
    if wanted is None:
        return f"{words}; no target"
    verdict = {True: ": met", False: ": NOT MET", None: ""}[getattr(found, "met", None)]
    return f"{words}; target {wanted:g} s{verdict}"


def foretold(found: Foretold) -> str:
    """What was forecast, and what it took, in words."""
    if found.back_in_s is None:
        return "back in a time that was never measured before"
    words = f"back in {found.back_in_s:g} s ± {found.error_s or 0:g} s"
    if found.took_s is None or found.off_by_s is None:
        return words
    return f"{words}; it took {found.took_s:g} s, {abs(found.off_by_s):g} s " + (
        "more" if found.off_by_s > 0 else "less"
    )


def figures(vnf: VnfHistory) -> Iterator[tuple[str, str]]:
    """The figures of a VNF, with their names, in words."""
    for name, value in vnf.model_dump(exclude={"vnf", "since", "until"}).items():
        shown = f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        yield name.replace("_", " "), "none" if value is None else shown
