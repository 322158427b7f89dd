# SPDX-License-Identifier: Apache-2.0
"""The life of a VNF in a browser: protected, rehearsed, its site lost, recovered, its old copy
fenced, protected the other way round.
"""

from __future__ import annotations

import pytest

from antipode.sandbox import canary, desk
from antipode.sandbox.demo import Silence
from antipode.sandbox.keystone import PASSWORD
from antipode.sandbox.supervision import SITES
from antipode.sandbox.visit import Visit
from tests.console.browser import PHONE, Browser

pytestmark = pytest.mark.sandbox
PRIMARY, BACKUP = SITES
LARGEST = 2 << 20
"""Bytes of the first page with all its files."""


def confirmed(browser: Browser, button: str) -> None:
    """Type the name of the VNF and press; the run that was begun ends well."""
    browser.type("#typed", "canary")
    browser.press(button)
    browser.until(lambda: browser.path.startswith("/runs/"), "the page of the run")
    ended_well(browser)


def ended_well(browser: Browser) -> None:
    """The run of the page succeeds."""
    state = "#run-live > section .pill"
    browser.until(lambda: browser.find(state).text == "succeeded", "the run has succeeded")


def test_a_vnf_is_led_through_a_disaster_in_the_browser(laid: Visit, browser: Browser) -> None:
    barriers: list[str] = []

    def look(name: str) -> None:
        """Keep a picture, of a phone too, and see that it is accessible to all."""
        browser.shot(name)
        barriers.extend(browser.barriers())

    # ---- logging in ----
    browser.open("/")
    assert browser.path.startswith("/login")
    look("01-login")
    browser.log_in("operator", "wrong")
    browser.reads("Not logged in")
    browser.expected_faults("401")
    browser.log_in("operator", PASSWORD)
    browser.reads("Getting started")
    assert browser.weight() < LARGEST
    look("02-getting-started")

    # ---- protecting ----
    laid.operator.tell("vnf", "add", str(laid.sandbox.directory / desk.VNF_FILE))
    browser.open("/vnfs/canary")
    browser.reads("Next:")
    browser.press("Protect now")
    browser.until(lambda: browser.path.startswith("/runs/protect-"), "the page of the run")
    browser.shot("03-protecting")
    ended_well(browser)
    look("04-protected")
    browser.press("To canary")
    browser.find("[data-load*=topology] svg.picture")
    browser.find("[data-load*=points] svg.line")
    browser.reads("Quiesce window")
    look("05-vnf")

    # ---- rehearsing ----
    browser.press("Drill …")
    browser.reads("Nothing stands in the way")
    look("06-drill-dialog")
    confirmed(browser, f"Begin the drill at {BACKUP}")
    look("07-drilled")

    # ---- the disaster ----
    laid.sandbox.kill(PRIMARY)
    browser.open("/vnfs/canary")
    browser.press(f"Fail over to {BACKUP} …")
    browser.reads("Nothing stands in the way")
    browser.reads("of data")
    browser.type("#typed", "another")
    assert not browser.find("button.danger").is_enabled()
    look("08-failover-dialog")
    browser.type("#typed", "canary")
    browser.press(f"Fail over to {BACKUP}")
    browser.until(lambda: browser.path.startswith("/runs/failover-"), "the page of the run")
    browser.find("table.gantt svg.track")
    browser.shot("09-failing-over")
    ended_well(browser)
    look("10-failed-over")

    # ---- the old copy comes back ----
    laid.sandbox.start(PRIMARY)
    compute = canary.connect(laid.sandbox, f"{PRIMARY}-tenant").compute
    for server in compute.servers():
        compute.start_server(server)
    browser.open(f"/vnfs/canary/change/fence?to={PRIMARY}")
    browser.reads("Nothing stands in the way")
    look("11-fence-dialog")
    confirmed(browser, f"Fence at {PRIMARY}")

    # ---- protecting the other way round ----
    browser.open("/vnfs/canary")
    browser.reads("Protect it the other way round")
    browser.press("Reprotect …")
    browser.reads("Nothing stands in the way")
    look("12-reprotect-dialog")
    confirmed(browser, f"Reprotect for a recovery at {PRIMARY}")

    # ---- looking around ----
    for name, path in (
        ("13-overview", "/"),
        ("14-vnfs", "/vnfs"),
        ("15-runs", "/runs"),
        ("16-sites", "/sites"),
        ("17-site", f"/sites/{BACKUP}"),
        ("18-reports", "/reports"),
        ("19-plans", "/plans"),
    ):
        browser.open(path)
        browser.until(lambda: "…" not in browser.text.split("\n"), "the parts are loaded")
        look(name)
    browser.driver.find_element("css selector", "[data-theme-toggle]").click()
    browser.open("/vnfs/canary")
    browser.find("[data-load*=topology] svg.picture")
    look("20-vnf-dark")
    browser.size(*PHONE)
    for name, path in (("21-phone-overview", "/"), ("22-phone-vnf", "/vnfs/canary")):
        browser.open(path)
        browser.reads("canary")
        look(name)

    browser.open("/")
    assert barriers == []
    assert browser.faults == []


def test_an_operator_logs_in_with_the_keystone_of_the_lost_site_silent(
    laid: Visit, browser: Browser
) -> None:
    laid.sandbox.kill(PRIMARY)
    with Silence(laid.sandbox.settings(PRIMARY).port):
        browser.log_in("operator", PASSWORD)
        browser.reads("VNFs by state")
        browser.open("/vnfs/canary")
        browser.find("[data-load*=topology] svg.picture")
        browser.shot("23-site-black-holed")
        assert browser.faults == []
