# SPDX-License-Identifier: Apache-2.0
"""A site's API at the HTTP seam: versions, errors, retries, tokens."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from subprocess import run
from types import SimpleNamespace
from typing import Any

import pytest
from keystoneauth1 import exceptions
from keystoneauth1.access import AccessInfoV3
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.session import Session
from openstack.exceptions import ServiceDisabledException

from antipode.cloud import health
from antipode.cloud import objects as objects_of_swift
from antipode.cloud.answers import Listing
from antipode.cloud.api import Api, ApiError, Reply
from antipode.cloud.objects import Objects
from antipode.cloud.site import connect
from antipode.cloud.transport import Login, Wire, answering
from antipode.errors import (
    AntipodeError,
    InvalidInput,
    NotFound,
    PreflightFailed,
    SiteUnreachable,
)
from tests.unit.fakecloud import FakeCloud

THINGS = Listing("things", dict[str, str])


class Response:
    def __init__(self, status: int, body: Any = None, content: bytes = b"x") -> None:
        self.status_code, self.content, self.text = status, content, content.decode()
        self._body = body

    def json(self) -> Any:
        if self._body is None:
            raise ValueError
        return self._body


class Proxy:
    """What openstacksdk's service proxies do, as far as we use it."""

    def __init__(self, *answers: Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def request(self, path: str, method: str, **options: Any) -> Response:
        self.asked.append((method, path, options))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def ask(proxy: Proxy, method: str = "GET", timeout: float | None = None) -> Reply:
    return Wire("site-a", proxy.request)(
        method,
        "/x",
        json=None,
        params=None,
        microversion="3.47",
        timeout=timeout,
    )


def test_a_site_that_does_not_answer_is_said_to_be_unreachable() -> None:
    with pytest.raises(SiteUnreachable, match="site-a"):
        ask(Proxy(exceptions.ConnectFailure("refused")))
    with pytest.raises(SiteUnreachable):
        ask(Proxy(exceptions.ConnectTimeout("slow")))


def test_refused_credentials_are_the_operators_to_mend() -> None:
    with pytest.raises(InvalidInput):
        ask(Proxy(exceptions.Unauthorized("no")))


def test_only_what_changes_nothing_is_sent_again() -> None:
    proxy = Proxy(Response(200, {}), Response(202, {}), Response(200, {}))
    ask(proxy)
    ask(proxy, "POST")
    ask(proxy, "GET", timeout=1)
    assert [options["connect_retries"] for _, _, options in proxy.asked] == [2, 0, 0]
    assert proxy.asked[2][2]["timeout"] == 1
    assert "timeout" not in proxy.asked[0][2], "the connection's own must count"


def test_the_clouds_own_words_are_in_the_error() -> None:
    for body, words in (
        ({"conflictingRequest": {"code": 409, "message": "locked"}}, "locked"),
        ({"NeutronError": {"type": "MacInUse", "message": "MAC is taken"}}, "MAC is taken"),
        ({"error": "plain"}, "plain"),
        (None, "x"),
    ):
        proxy = Proxy(Response(409, body))
        api = Api("s", "compute", Wire("s", proxy.request))
        with pytest.raises(ApiError, match=rf"POST compute/x.*409: {words}") as failure:
            api.post("/x", {})
        assert failure.value.status == 409


def test_a_cinder_that_is_too_old_is_named_with_what_is_needed() -> None:
    with pytest.raises(
        PreflightFailed,
        match=r"block-storage.*3\.46.*3\.47",
    ):
        FakeCloud(cinder=(3, 46))


def test_a_service_that_does_not_tell_its_versions_is_unreachable_and_not_too_old() -> None:
    with pytest.raises(SiteUnreachable):
        Api("s", "compute", lambda *a, **k: Reply(200, {})).negotiate((2, 1), (2, 2))


def test_listings_are_followed_page_by_page() -> None:
    pages = [
        {"things": [{"id": "1"}], "things_links": [{"rel": "next", "href": "…"}]},
        {"things": [{"id": "2"}]},
    ]
    asked: list[Any] = []

    def answer(method: str, path: str, **options: Any) -> Reply:
        asked.append(options["params"])
        return Reply(200, pages[len(asked) - 1])

    assert [t["id"] for t in Api("s", "x", answer).all("/things", THINGS, a="b")] == ["1", "2"]
    assert asked == [{"a": "b"}, {"a": "b", "marker": "1"}]


def test_only_the_first_page_of_a_listing_is_asked_to_be_short() -> None:
    pages = [
        {"things": [{"id": "1"}], "things_links": [{"rel": "next", "href": "…"}]},
        {"things": [{"id": "2"}]},
    ]
    asked: list[Any] = []

    def answer(method: str, path: str, **options: Any) -> Reply:
        asked.append(options["params"])
        return Reply(200, pages[len(asked) - 1])

    assert len(list(Api("s", "x", answer).pages("/things", THINGS, first=50))) == 2
    assert asked == [{"limit": 50}, {"marker": "1"}]


def test_a_listing_goes_on_though_the_last_item_of_a_page_was_deleted_meanwhile() -> None:
    def answer(method: str, path: str, *, params: Any, **_: Any) -> Reply:
        match params:
            case None:
                return Reply(
                    200,
                    {
                        "things": [{"id": "1"}, {"id": "2"}],
                        "things_links": [{"rel": "next", "href": "…"}],
                    },
                )
            case {"marker": "2"}:
                return Reply(400, {"badRequest": {"message": "marker [2] not found"}})
            case {"marker": "1"}:
                return Reply(200, {"things": [{"id": "3"}]})
        raise AssertionError(params)

    assert [t["id"] for t in Api("s", "x", answer).all("/things", THINGS)] == ["1", "2", "3"]


def test_a_cloud_that_clouds_yaml_does_not_have_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "none.yaml"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="nowhere"):
        connect("here", "nowhere")


def test_a_keystone_that_is_not_there_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    file = tmp_path / "clouds.yaml"
    file.write_text(
        "clouds: {c: {auth: {auth_url: 'http://127.0.0.1:9/v3', username: u, password: p, "
        "project_name: p}}}"
    )
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
    with pytest.raises(SiteUnreachable, match="here"):
        connect("here", "c", api_timeout_s=2)


class Keystone(BaseIdentityPlugin):
    """An identity service that tells how many tokens it has given."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0

    def get_auth_ref(self, session: Any, **_: Any) -> Any:
        self.given += 1
        return AccessInfoV3(
            {"token": {"expires_at": "2999-01-01T00:00:00Z"}}, f"token-{self.given}"
        )

    def get_cache_id_elements(self) -> dict[str, str]:
        return {}


def test_threads_whose_token_is_refused_at_one_moment_all_go_on_with_one_new_token() -> None:
    keystone = Keystone()
    session = Session(auth=keystone)
    together = threading.Barrier(8)

    class Service:
        """Refuses the first token, to all who have it at one moment."""

        def request(self, *_: Any, **__: Any) -> Response:
            if session.get_token() == "token-1":
                together.wait(60)
                return Response(401)
            return Response(200, {})

    login = Login(session)
    session.get_token()
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(login.ask, Service(), "/x", "POST") for _ in range(8)]
    assert [a.result().status_code for a in asked] == [200] * 8
    assert keystone.given == 2


def test_a_token_is_renewed_before_its_end_only_when_it_would_not_last() -> None:
    keystone = Keystone()
    login = Login(Session(auth=keystone))
    login.stay(60)
    assert keystone.given == 1
    login.stay(1000 * 365 * 24 * 3600)
    assert keystone.given == 2


def test_openstacksdk_is_not_loaded_before_a_site_is_connected() -> None:
    code = (
        "import antipode.protect.quiesced_snapshot.window, antipode.recover.plan, sys; "
        "sys.exit(bool({'openstack', 'keystoneauth1'} & sys.modules.keys()))"
    )
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_objects_are_not_found_and_listings_are_followed() -> None:
    answers = (
        Response(404),
        Response(204),
        Response(200, [{"name": "a", "bytes": 1, "hash": "h"}]),
        Response(200, []),
    )
    objects = Objects("s", Proxy(*answers).request)
    with pytest.raises(NotFound, match="vault/x"):
        objects.get("vault", "x")
    objects.delete("vault", "x")
    assert [o[:3] for o in objects.listing("vault")] == [("a", 1, "h")]


class Swift:
    """An object that is written when a status says so, or all the same."""

    def __init__(self, *statuses: int, holds: bytes | None = None) -> None:
        self.left = [*statuses]
        self.holds = holds

    def ask(self, path: str, method: str, data: bytes = b"", **_: Any) -> Any:
        if method == "GET":
            return SimpleNamespace(
                status_code=200, iter_content=lambda _: iter([self.holds]), close=lambda: None
            )
        status = self.left.pop(0)
        if self.holds is None and status != 413:
            self.holds = data
        return SimpleNamespace(status_code=status, text="")


@pytest.mark.parametrize(
    ("statuses", "succeeds"),
    [
        ([201], True),
        ([503, 201], True),
        ([500, 498, 201], True),
        ([503, 503, 503], False),
        ([413], False),
        ([507], False),
    ],
)
def test_a_write_that_swift_could_not_do_at_once_is_sent_again(
    statuses: list[int], succeeds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_of_swift, "PAUSES_S", (0.0, 0.0))
    swift = Swift(*statuses)
    objects = Objects("s", swift.ask)
    with nullcontext() if succeeds else pytest.raises(AntipodeError):
        objects.put("vault", "x", b"content")
    assert swift.left == []


@pytest.mark.parametrize(
    ("statuses", "there", "written"),
    [
        ([201], None, True),
        ([412], b"content", False),
        ([503, 412], None, True),
        ([503, 412], b"another's", False),
    ],
)
def test_of_a_creation_that_is_sent_again_it_is_known_whose_object_is_there(
    statuses: list[int], there: bytes | None, written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_of_swift, "PAUSES_S", (0.0, 0.0))
    objects = Objects("s", Swift(*statuses, holds=there).ask)
    assert objects.create("vault", "x", b"content") is written


def test_a_site_tells_what_it_lacks() -> None:
    cloud = FakeCloud()
    assert all(f.ok for f in health.check(cloud.site))
    cloud.add_on, cloud.backup_state, cloud.may_import = False, "down", False
    assert {f.check for f in health.check(cloud.site) if not f.ok} == {
        "quiesce add-on",
        "cinder-backup",
        "admin rights",
    }
    assert not cloud.events


def test_a_site_tells_which_services_and_agents_are_down_on_which_host() -> None:
    cloud = FakeCloud()
    cloud.service_states = {"nova-compute": "down", "cinder-volume": "down"}
    cloud.network_agents.append(
        {
            "id": "2",
            "agent_type": "L3 agent",
            "host": "net-2",
            "alive": False,
            "admin_state_up": True,
        }
    )
    unfit = {f.check: f.detail for f in health.check(cloud.site) if not f.ok}
    assert unfit.keys() == {"nova-compute", "cinder-volume", "network agents"}
    assert "compute-1 is down and enabled" in unfit["nova-compute"]
    assert "L3 agent at net-2" in unfit["network agents"]


def test_one_agent_of_a_kind_that_is_alive_is_enough_and_the_dead_one_is_named() -> None:
    cloud = FakeCloud()
    cloud.network_agents.append(
        {
            "id": "2",
            "agent_type": "DHCP agent",
            "host": "net-2",
            "alive": False,
            "admin_state_up": True,
        }
    )
    finding = next(f for f in health.check(cloud.site) if f.check == "network agents")
    assert finding.ok
    assert "DHCP agent at net-2" in finding.detail


def test_a_service_that_a_catalog_does_not_have_is_missing() -> None:
    with pytest.raises(PreflightFailed), answering("site-a"):
        raise ServiceDisabledException("no object-store")
