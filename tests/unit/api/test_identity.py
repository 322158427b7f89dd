# SPDX-License-Identifier: Apache-2.0
"""Users of the API: the Keystone of any one site is enough."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
import requests

from antipode import identity
from antipode.api.gate import Installation
from antipode.api.identity import ApplicationCredential, Password
from antipode.errors import NotAuthenticated, SiteUnreachable
from antipode.sandbox.keystone import ACCOUNTS, PASSWORD
from tests.unit.keystones import Served

Sites = dict[str, Served]


@pytest.mark.parametrize("site", ["site-a", "site-b"])
def test_a_token_of_each_site_is_known(installation: Installation, sites: Sites, site: str) -> None:
    caller = installation.keystones.validate(sites[site].token("demo"))
    assert (caller.name, caller.project, caller.site) == ("demo", "vnf", site)
    assert caller.roles == {"member", "reader"}
    assert not caller.all_projects


def test_a_project_of_the_staff_covers_all(installation: Installation, sites: Sites) -> None:
    assert installation.keystones.validate(sites["site-b"].token("operator")).all_projects


def test_a_project_that_is_not_configured_is_none(installation: Installation, sites: Sites) -> None:
    assert installation.keystones.validate(sites["site-a"].token("backup")).project is None


@pytest.mark.parametrize("end", ["kill", "vanish"])
@pytest.mark.parametrize("dead", ["site-a", "site-b"])
def test_one_site_is_enough(installation: Installation, sites: Sites, dead: str, end: str) -> None:
    alive = next(site for site in sites if site != dead)
    getattr(sites[dead], end)()
    assert installation.keystones.validate(sites[alive].token("demo")).site == alive
    given = Password("demo", PASSWORD, project="vnf")
    assert installation.keystones.log_in(given).caller.site == alive


def test_a_silent_site_is_not_asked_again_at_once(installation: Installation, sites: Sites) -> None:
    sites["site-a"].vanish()
    keystones = installation.keystones
    with pytest.raises(NotAuthenticated):
        keystones.validate("no-token")
    assert keystones.sites() == ["site-b", "site-a"]
    began = sites["site-b"].calls
    assert keystones.validate(sites["site-b"].token("demo")).site == "site-b"
    assert sites["site-b"].calls == began + 1


def test_with_no_site_the_answer_is_not_that_a_token_is_wrong(
    installation: Installation, sites: Sites
) -> None:
    token = sites["site-a"].token("demo")
    for site in sites.values():
        site.kill()
    with pytest.raises(SiteUnreachable):
        installation.keystones.validate(token)


@pytest.mark.parametrize(
    "said", [b"<html>", b"[]", b"5", b"{}", b'{"token": []}', b'{"token": {}}']
)
def test_an_answer_that_is_no_keystones_holds_up_no_other_site(
    installation: Installation, sites: Sites, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    answer = requests.Response()
    answer.status_code, answer._content = 200, said
    for method in ("get", "post"):
        session = installation.keystones._keystones[0]._session
        monkeypatch.setattr(session, method, lambda *_, **__: answer)
    assert installation.keystones.validate(sites["site-b"].token("demo")).site == "site-b"
    given = Password("demo", PASSWORD, project="vnf")
    assert installation.keystones.log_in(given).caller.site == "site-b"


def test_a_token_is_asked_for_once(installation: Installation, sites: Sites) -> None:
    token = sites["site-a"].token("demo")
    first = installation.keystones.validate(token)
    sites["site-a"].kill()
    assert installation.keystones.validate(token) == first
    assert sites["site-a"].calls == 1


def test_a_token_is_forgotten_with_its_expiry(
    installation: Installation, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = sites["site-a"].token("demo")
    caller = installation.keystones.validate(token)
    monkeypatch.setattr(time, "time", lambda: caller.expires_at + 1)
    with pytest.raises(NotAuthenticated):
        installation.keystones.validate(token)


@pytest.mark.parametrize("token", ["", "x" * 20_000, "ümlaut", "two\nlines", "no-token"])
def test_what_is_no_token_is_refused(installation: Installation, token: str) -> None:
    with pytest.raises(NotAuthenticated):
        installation.keystones.validate(token)


def test_an_expired_token_is_refused(installation: Installation, sites: Sites) -> None:
    there = sites["site-a"]
    old = there.keystone._issue(ACCOUNTS[2], there.conditions.now() - timedelta(seconds=1))
    with pytest.raises(NotAuthenticated):
        installation.keystones.validate(old)


def test_a_wrong_password_is_refused(installation: Installation) -> None:
    with pytest.raises(NotAuthenticated):
        installation.keystones.log_in(Password("demo", "wrong", project="vnf"))


def test_an_application_credential_logs_in(installation: Installation, sites: Sites) -> None:
    there = sites["site-b"].keystone
    there._credentials["c1"] = {"secret": "s1", "account": 2}
    found = installation.keystones.log_in(ApplicationCredential("c1", "s1"))
    assert (found.caller.name, found.caller.site) == ("demo", "site-b")
    with pytest.raises(NotAuthenticated):
        installation.keystones.log_in(ApplicationCredential("c1", "s2"))


def test_an_application_credential_with_access_rules_does_not_log_in(
    installation: Installation, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = sites["site-a"].keystone
    shown, rules = there._token, [{"service": "compute", "method": "GET", "path": "/v2.1/servers"}]
    limited = {"application_credential": {"id": "c1", "restricted": True, "access_rules": rules}}
    monkeypatch.setattr(there, "_token", lambda *given: {**shown(*given), **limited})
    there._credentials["c1"] = {"secret": "s1", "account": 2}
    with pytest.raises(NotAuthenticated):
        installation.keystones.log_in(ApplicationCredential("c1", "s1"))
    with pytest.raises(NotAuthenticated):
        installation.keystones.validate(sites["site-a"].token(ACCOUNTS[2].user))


def test_neither_a_password_nor_a_token_is_shown(installation: Installation) -> None:
    found = installation.keystones.log_in(Password("demo", PASSWORD, project="vnf"))
    shown = f"{found!r} {Password('demo', PASSWORD)!r} {ApplicationCredential('c1', 's1')!r}"
    assert found.token not in shown
    assert PASSWORD not in shown
    assert "s1" not in shown


def test_a_user_is_one_person_at_all_sites(installation: Installation, sites: Sites) -> None:
    identities: list[Any] = [
        installation.keystones.validate(there.token("approver")).identity
        for there in sites.values()
    ]
    assert identities == ["approver@site-a", "approver@site-b"]
    assert {identity.person(i) for i in identities} == {"approver"}


def test_a_request_acts_as_its_user() -> None:
    before = identity.current()
    with identity.acting_as("demo@site-a"):
        assert identity.current() == "demo@site-a"
    assert identity.current() == before
