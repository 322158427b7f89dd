# SPDX-License-Identifier: Apache-2.0
"""The one way into the console: logins, sessions, forms, headers."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.routing import Route

from antipode.api import envelope, rate
from antipode.api.identity import LoggedIn, Password
from antipode.api.rate import Buckets
from antipode.api.rules import RULES, rule_of_kind
from antipode.console.app import PAGES
from antipode.console.pages import changes
from antipode.console.sessions import MOST_OF_ONE, Sessions
from antipode.console.web import COOKIE, HEADERS, ROOT
from antipode.errors import TooManyRequests
from antipode.operations import proposals
from antipode.sandbox.keystone import STAFF
from tests.unit.console.conftest import House, Page, run
from tests.unit.keystones import PASSWORD, Served

ROUTES = [route for room in PAGES for route in room.ROUTES]
SOURCE = Path(changes.__file__).parents[1]


def paths(method: str) -> list[str]:
    """The paths of all pages but the login, with something for each name in them."""
    return [
        re.sub(r"\{\w+\}", "x", route.path)
        for route in ROUTES
        if isinstance(route, Route) and method in (route.methods or ()) and route.path != "/login"
    ]


def test_no_page_is_seen_without_a_login(house: House) -> None:
    visitor, asked = house.visitor(), paths("GET")
    assert len(asked) > 15
    for path in asked:
        answer = visitor.get(path)
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith(f"{ROOT}/login")
        assert visitor.get(path, fragment=True).status_code == 401


def test_no_form_is_taken_without_a_login_or_of_another_session_or_site(house: House) -> None:
    nobody, one, other = house.visitor(), house.logged_in("boss"), house.logged_in("boss")
    own, others, asked = one.csrf(), other.csrf(), paths("POST")
    assert len(asked) > 10
    for path in asked:
        assert nobody.post(path, {"csrf": "x"}).status_code == 303, path
        for sent in ("", "x", others):
            assert one.post(path, {"csrf": sent}).status_code == 403, path
        for header in ({"Origin": "https://elsewhere.example"}, {"Sec_Fetch_Site": "cross-site"}):
            assert one.post(path, {"csrf": own}, **header).status_code == 403, path
    assert one.get("/").status_code == 200


def test_each_answer_has_the_headers_that_protect_it(known: House) -> None:
    visitor = known.logged_in("boss")
    answers = [
        known.visitor().get("/login"),
        visitor.get("/"),
        visitor.get("/vnfs/hlr"),
        visitor.get("/nothing"),
        visitor.get("/", fragment=True),
        visitor.post("/vnfs", {"csrf": "x"}),
    ]
    for answer in answers:
        assert {n: answer.headers[n] for n in HEADERS} == HEADERS, answer.url
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy and "http" not in policy


def test_pages_load_nothing_from_elsewhere_and_have_no_script_or_style_inside(known: House) -> None:
    visitor = known.logged_in("boss")
    for path in ("/", "/vnfs", "/vnfs/hlr", "/runs", "/sites", "/reports"):
        page = visitor.page(path)
        loaded = [
            attributes[name]
            for tag, attributes in page.tags
            for name in ("src", "href", "action", "data-load", "data-refresh")
            if attributes.get(name)
        ]
        assert loaded
        assert all(p.startswith((f"{ROOT}/", "?", "#")) or p == ROOT for p in loaded), path
        assert all(script.get("src") for script in page.all("script"))
        assert not page.all("style")
        assert not any("style" in attributes for _, attributes in page.tags)


def test_the_files_of_pages_are_kept_by_browsers_and_change_their_names(house: House) -> None:
    page = Page(house.visitor().get("/login").text)
    address = page.all("link")[0]["href"].removeprefix(ROOT)
    assert "immutable" in house.visitor().get(address).headers["cache-control"]
    assert house.visitor().get("/assets/0000000000000000/console.css").status_code == 404
    assert house.visitor().get("/assets/x/../../app.py").status_code != 200


def test_a_session_is_named_by_a_cookie_that_no_script_reads(house: House) -> None:
    answer = house.visitor().log_in("operator")
    cookie = next(
        part for part in answer.headers["set-cookie"].split(", ") if part.startswith(COOKIE)
    )
    assert "httponly" in cookie.lower() and "samesite=lax" in cookie.lower()
    assert f"path={ROOT}" in cookie.lower()


def test_a_wrong_password_logs_nobody_in_and_is_not_repeated(house: House) -> None:
    visitor = house.visitor()
    answer = visitor.log_in("operator", "not-the-password")
    assert answer.status_code == 401
    assert "not-the-password" not in answer.text
    assert COOKIE not in visitor.http.cookies


def test_many_wrong_passwords_hold_up_further_ones(house: House) -> None:
    visitor = house.visitor()
    found = [visitor.log_in("operator", "wrong").status_code for _ in range(12)]
    assert found[0] == 401 and found[-1] == 403
    house.app.tries.forget()
    assert visitor.log_in("operator").status_code == 303


def test_a_stranger_behind_the_proxy_holds_up_no_other_login(house: House) -> None:
    stranger, operator = house.visitor(), house.visitor()
    stranger.http.headers["X-Forwarded-For"] = "192.0.2.66"
    found = [stranger.log_in("operator", "wrong").status_code for _ in range(12)]
    assert found[-1] == 403
    stranger.http.headers["X-Forwarded-For"] = "198.51.100.7, 192.0.2.66"  # as a client forges it
    assert stranger.log_in("operator", "wrong").status_code == 403
    operator.http.headers["X-Forwarded-For"] = "192.0.2.7"
    assert operator.log_in("operator").status_code == 303


def test_a_login_form_of_another_browser_is_refused(house: House) -> None:
    one, other = house.visitor(), house.visitor()
    one.get("/login")
    answer = one.post("/login", {"csrf": other.csrf("/login"), "user": "boss", "password": "x"})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "wanted", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", "\n//x"]
)
def test_a_login_leads_to_no_other_site(house: House, wanted: str) -> None:
    answer = house.visitor().log_in("operator", next=wanted)
    assert answer.headers["location"] == f"{ROOT}/"


def test_a_login_leads_to_the_page_that_was_asked_for(known: House) -> None:
    visitor = known.visitor()
    found = visitor.get("/vnfs/hlr?x=1").headers["location"]
    assert found.endswith("next=/vnfs/hlr%3Fx%3D1")
    assert visitor.log_in("boss", next="/vnfs/hlr?x=1").headers["location"].endswith("hlr?x=1")


def test_a_new_login_has_a_new_name_and_ends_the_old_session(house: House) -> None:
    visitor = house.logged_in("operator")
    before = visitor.cookie
    visitor.log_in("operator")
    after = visitor.cookie
    assert before != after
    visitor.http.cookies.set(COOKIE, before, path=ROOT)
    assert house.app.sessions.find(before, by_person=True) is None


def test_a_session_that_no_person_uses_is_over_though_its_page_refreshes_itself(
    house: House,
) -> None:
    visitor = house.logged_in("operator")
    session = house.session_of(visitor)
    session.used_at -= 1790
    used_at = session.used_at
    assert visitor.get("/", fragment=True).status_code == 200
    assert session.used_at == used_at
    session.used_at -= 20
    assert visitor.get("/", fragment=True).status_code == 401
    assert visitor.get("/").status_code == 303


def test_a_session_is_over_with_its_time_and_with_its_token(house: House) -> None:
    visitor = house.logged_in("operator")
    session = house.session_of(visitor)
    session.began_at -= 8 * 3600
    assert visitor.get("/").status_code == 303
    visitor = house.logged_in("operator")
    session = house.session_of(visitor)
    session.caller = type(session.caller)(**{**session.caller.__dict__, "expires_at": 1.0})
    assert visitor.get("/").status_code == 303


def test_a_user_that_logs_in_often_ends_no_session_of_others(house: House) -> None:
    sessions = Sessions(60.0, 600.0)
    caller = house.installation.keystones.log_in(Password("boss", PASSWORD, project=STAFF)).caller
    others, _ = sessions.begin(LoggedIn(caller, "x"))
    eager = LoggedIn(replace(caller, user_id="eager"), "y")
    names = [sessions.begin(eager)[0] for _ in range(30)]
    assert sessions.find(others, by_person=False) is not None
    alive = [name for name in names if sessions.find(name, by_person=False) is not None]
    assert alive == names[-MOST_OF_ONE:]


def test_a_logout_ends_the_session_on_the_server(house: House) -> None:
    visitor = house.logged_in("operator")
    name = visitor.cookie
    assert visitor.post("/logout").status_code == 303
    assert house.app.sessions.find(name, by_person=True) is None


def test_a_token_that_keystone_refuses_ends_its_session(
    house: House, sites: dict[str, Served]
) -> None:
    visitor = house.logged_in("operator")
    session = house.session_of(visitor)
    house.installation.keystones.forget(session.token)
    session.token = session.token[:-4] + "AAAA"
    session.checked_at = 0.0
    assert visitor.get("/").status_code == 303


def test_a_session_outlives_the_keystone_that_has_begun_it_and_says_so(
    house: House, sites: dict[str, Served]
) -> None:
    visitor = house.visitor()
    assert visitor.log_in("operator", site="site-a").status_code == 303
    session = house.session_of(visitor)
    sites["site-a"].kill()
    house.installation.keystones.forget(session.token)
    session.checked_at = 0.0
    answer = visitor.get("/")
    assert answer.status_code == 200 and session.is_unchecked
    assert "site-a does not answer" in answer.text


@pytest.mark.parametrize("end", ["kill", "vanish"])
def test_a_login_needs_one_site_only(house: House, sites: dict[str, Served], end: str) -> None:
    getattr(sites["site-a"], end)()
    assert house.logged_in("operator").get("/").status_code == 200


def test_an_application_credential_logs_in(house: House, sites: dict[str, Served]) -> None:
    answer = house.visitor().log_in("nothing", "wrong", kind="application-credential")
    assert answer.status_code == 401


def test_a_form_that_is_too_large_or_none_is_refused(house: House) -> None:
    visitor = house.logged_in("operator")
    large = visitor.post("/vnfs", {"csrf": visitor.csrf(), "vnf": "x" * 300_000})
    assert large.status_code == 400
    answer = visitor.http.post(f"{house.url}{ROOT}/vnfs", json={"verb": "protect"}, timeout=30)
    assert answer.status_code == 400


def test_each_rule_that_pages_ask_is_one_of_the_api() -> None:
    known = {rule.name for rule in RULES}
    text = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    asked = set(re.findall(r'"((?:site|vnf|run|plan|point|audit|policy|standing):[a-z-]+)"', text))
    assert asked and asked <= known


def test_each_change_has_a_rule_of_its_kind_and_words() -> None:
    assert changes.OF_VNF.keys() == proposals.OF_VNF.keys()
    assert {rule_of_kind(verb) for verb in changes.OF_VNF} == {f"run:{v}" for v in changes.OF_VNF}
    assert changes.OF_PLAN.keys() == proposals.OF_PLAN.keys()


def test_tenants_see_their_own_vnfs_and_runs_only(known: House) -> None:
    known.deployment.runs.create(run("protect-of-tenant"))
    known.deployment.runs.create(run("protect-of-staff", vnf="smsc"))
    tenant, stranger = known.logged_in("tenant-operator"), known.logged_in("stranger")
    for path in ("/", "/vnfs", "/runs", "/reports"):
        words = tenant.get(path).text
        assert "smsc" not in words and "of-staff" not in words, path
        assert "hlr" not in stranger.get(path).text, path
    assert "hlr" in tenant.get("/vnfs").text
    for path in ("/vnfs/smsc", "/vnfs/smsc/points", "/runs/protect-of-staff", "/vnfs/nothing"):
        assert tenant.get(path).status_code == 404, path
    assert stranger.get("/runs/protect-of-tenant").status_code == 404
    assert tenant.get("/plans").status_code == 403
    assert tenant.get("/reports/site/site-a.html").status_code == 404


def test_an_observer_begins_nothing(known: House) -> None:
    observer = known.logged_in("tenant-observer")
    begins = [found["action"] for found in observer.page("/vnfs/hlr").all("form")]
    assert begins == [f"{ROOT}/logout"]
    assert observer.get("/vnfs/hlr/change/failover?to=site-b").status_code == 403
    assert observer.post("/vnfs/hlr/protect").status_code == 403
    answer = observer.post("/vnfs", {"verb": "protect", "vnf": "hlr"})
    assert "refused" in answer.text
    assert known.deployment.runs.open() == []


def test_a_member_protects_and_does_not_fail_over(known: House) -> None:
    member = known.logged_in("demo")
    page = member.page("/vnfs/hlr")
    assert any(found["action"].endswith("/protect") for found in page.all("form"))
    assert "Fail over" not in page.words
    assert member.get("/vnfs/hlr/change/failover").status_code == 403


def test_changes_and_refusals_are_in_the_audit_trail(known: House) -> None:
    visitor = known.logged_in("operator")
    visitor.get("/vnfs/hlr")
    visitor.post("/vnfs/hlr/precheck")
    visitor.post("/vnfs/hlr/precheck", {"csrf": "x"})
    known.visitor().log_in("operator", "wrong")
    known.logged_in("tenant-observer").post("/vnfs/hlr/protect")
    found = [
        (row.identity, row.action, row.target, row.outcome)
        for row in known.deployment.audit.page(100)[::-1]
    ]
    operator = "operator@site-a"
    assert found[0] == (operator, "console:login", f"{ROOT}/login", "success")
    assert found[1] == (operator, "run:precheck", f"{ROOT}/vnfs/hlr/precheck", "success")
    assert (operator, "POST", f"{ROOT}/vnfs/hlr/precheck", "failure") in found
    assert (None, "POST", f"{ROOT}/login", "failure") in found
    assert ("tenant-observer@site-a", "run:create", f"{ROOT}/vnfs/hlr/protect", "failure") in found
    assert not any("GET" in row for row in found)
    assert "run:precheck" in known.logged_in("boss").page("/audit").words
    assert known.logged_in("operator").get("/audit").status_code == 403


def test_a_user_that_asks_too_often_is_held_up_here_and_at_the_api(house: House) -> None:
    visitor = house.logged_in("operator")
    house.installation.of_users = Buckets(2)
    found = [visitor.get("/").status_code for _ in range(4)]
    assert found[0] == 200 and found[-1] == 429
    with pytest.raises(TooManyRequests):
        house.installation.of_users.take(house.session_of(visitor).caller.account)


def test_viewers_of_vaults_hold_up_neither_each_other_for_ever_nor_other_pages(
    known: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate, "WAITS_S", 0.05)
    visitor = known.logged_in("operator")
    with ExitStack() as viewers:
        for _ in range(rate.LONG_AT_ONCE):
            viewers.enter_context(known.app.long.one())
        for part in ("points", "forecast", "topology"):
            assert visitor.get(f"/vnfs/hlr/{part}", fragment=True).status_code == 429, part
        assert visitor.get("/vnfs/hlr").status_code == 200
        assert visitor.post("/vnfs/hlr/precheck").status_code == 303
    assert visitor.get("/vnfs/hlr/points", fragment=True).status_code == 200


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trail keeps two requests of strangers in a minute."""
    monkeypatch.setattr(envelope, "STRANGERS_PER_MINUTE", 2)


def test_strangers_do_not_fill_the_trail(few: None, house: House) -> None:
    stranger = house.visitor()
    for path in ("/", "/vnfs", "/login", "/x", "/logout", "/y", "/z", f"/{'x' * 2000}"):
        assert stranger.post(path, {"csrf": "x"}).status_code in (303, 403, 404)
    assert 0 < len(house.deployment.audit.page(1000)) < 8
