# SPDX-License-Identifier: Apache-2.0
"""What a cloud answers is checked where it enters: any JSON gives a result or an error of ours."""

from __future__ import annotations

import base64
import copy
import json
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from antipode.cloud import answers, health
from antipode.cloud.api import Api, Reply
from antipode.cloud.backups import read_record
from antipode.cloud.objects import Objects
from antipode.cloud.site import Site
from antipode.errors import AntipodeError, NotFound, ResourceFailed, UnexpectedAnswer
from antipode.model.topology import Topology
from antipode.model.vnf import Member, Vnf
from antipode.topology.discovery import discover, find_members
from tests.unit.fakecloud import FakeCloud

Json = Any
VNF = Vnf(
    vnf="v",
    primary="site-a",
    backup=["site-b"],
    members=[Member(server=s) for s in ("db", "app", "front")],
)
CALLS_AT_MOST = 500
"""How many calls a reading makes before a test holds it for endless; the fake's takes 30."""


def deep(levels: int) -> Json:
    nested: Json = []
    for _ in range(levels):
        nested = [nested]
    return nested


ODD: list[Json] = [
    None,
    True,
    0,
    -1,
    10**400,
    math.nan,
    math.inf,
    "",
    "\ud800",
    "next",
    "UNKNOWN",
    [],
    {},
    [None],
    {"id": "id-db"},
    deep(900),
]
"""What is put in the place of a value; the last is too deep to be written as JSON."""


class Mutated:
    """A cloud whose answers are mutated on their way: the same mutation for the same call."""

    def __init__(self, mutations: dict[str, list[tuple[str, int, Json]]]) -> None:
        self.cloud = FakeCloud()
        self.calls = 0
        self._mutations = mutations
        self._lock = threading.Lock()
        site = self.cloud.site
        self.site = Site(
            site.name,
            project_id="project-1",
            user_id="user-1",
            roles=["admin"],
            compute=self._api(site.compute._api, (2, 96)),
            volume=self._api(site.volumes._api, (3, 70)),
            network=self._api(site.networks._api, None),
        )

    def _api(self, real: Api, newest: tuple[int, int] | None) -> Api:
        def send(method: str, path: str, **options: Any) -> Reply:
            with self._lock:
                self.calls += 1
                assert self.calls < CALLS_AT_MOST, f"no end of {method} {path}"
            try:
                reply = real._send(method, path, **options)
            except (AssertionError, KeyError, StopIteration, TypeError):
                return Reply(404, {"itemNotFound": {"message": "no such thing"}})
            body = copy.deepcopy(reply.body)
            kind = next((k for k in self._mutations if path.endswith(k)), None)
            for mutation in self._mutations.get(kind or "", []):
                body = mutate(body, *mutation)
            return Reply(reply.status, body)

        return Api(real.site, real.service, send, newest)


def mutate(body: Json, how: str, where: int, odd: Json) -> Json:
    """One change at one of the places of a document."""
    if not isinstance(body, dict | list) or how == "whole":
        return copy.copy(odd)
    places: list[tuple[Any, Any]] = []
    nodes: list[Any] = [body]
    while nodes and len(places) < 1000:
        node = nodes.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        places += [(node, key) for key in keys]
        nodes += [node[key] for key in keys if isinstance(node[key], dict | list)]
    if not places:
        return copy.copy(odd)
    parent, key = places[where % len(places)]
    match how:
        case "drop":
            del parent[key]
        case "retype":
            parent[key] = copy.copy(odd)
        case "nest":
            parent[key] = [parent[key]]
        case "duplicate" if isinstance(parent, list):
            parent.append(copy.copy(parent[key]))
        case "reorder" if isinstance(parent, list):
            parent.reverse()
        case "next" if isinstance(body, dict):
            body[f"{next(iter(body))}_links"] = [{"rel": "next"}]
        case _:
            parent[key] = {"inside": parent[key]}
    return body


READ = (
    "/servers/detail",
    "/os-volume_attachments",
    "/os-interface",
    "/os-server-groups",
    "/os-keypairs/key",
    "/volumes/detail",
    "/ports",
    "/networks",
    "/subnets",
    "/security-groups",
    "/flavors/detail",
    "/types",
    "/os-availability-zone",
    "/backups/detail",
    "/os-services",
    "/agents",
    "/detail",
    "/project-1",
    "/details.json",
    "/os-quiesce",
)
HOW = ("drop", "retype", "nest", "duplicate", "reorder", "next", "deepen", "whole")


def mutations(odd: list[Json]) -> st.SearchStrategy[list[tuple[str, int, Json]]]:
    one = st.tuples(st.sampled_from(HOW), st.integers(0, 200), st.sampled_from(odd))
    return st.lists(one, min_size=1, max_size=3)


def read_for_a_plan(site: Site) -> None:
    """The listings that a plan of a recovery reads, and what it takes of them."""
    site.compute.flavors()
    site.compute.availability_zones()
    site.compute.server_groups()
    site.compute.quota("project-1")
    site.volumes.types()
    site.volumes.availability_zones()
    site.volumes.quota("project-1")
    site.backups.backups()
    site.backups.services_up()
    site.networks.networks()
    site.networks.quota("project-1")
    health.check(site)


def ours(read: Callable[[], object]) -> None:
    try:
        read()
    except AntipodeError as error:
        str(error).encode()


# to shrink takes minutes: the mutations are few as they are
@settings(max_examples=250, phases=[Phase.generate])
@given(st.dictionaries(st.sampled_from(READ), mutations(ODD), min_size=1, max_size=3))
def test_any_answer_gives_a_result_or_an_error_of_ours(
    changes: dict[str, list[tuple[str, int, Json]]],
) -> None:
    cloud = Mutated(changes)
    ours(lambda: discover(VNF, cloud.site))
    ours(lambda: read_for_a_plan(cloud.site))
    ours(lambda: cloud.site.volumes.watch.wait_for(["db-root"], wanted=("in-use",), timeout_s=0))


@settings(max_examples=200, phases=[Phase.generate])
@given(mutations(ODD[:-1]), st.binary(max_size=40))
def test_any_record_of_a_backup_is_read_or_refused(
    changes: list[tuple[str, int, Json]], raw: bytes
) -> None:
    record: Json = {"id": "b", "volume_id": "v", "parent_id": None, "service_metadata": "prefix"}
    for change in changes:
        record = mutate(record, *change)
    ours(lambda: read_record(base64.b64encode(json.dumps(record).encode()).decode()))
    ours(lambda: read_record(base64.b64encode(raw).decode()))
    ours(lambda: read_record(raw.decode("latin-1")))


def test_a_record_that_is_nested_without_end_is_refused() -> None:
    with pytest.raises(UnexpectedAnswer):
        read_record(base64.b64encode(b"[" * 100_000).decode())


class Response:
    def __init__(self, body: Json) -> None:
        self.status_code, self._body = 200, body

    def json(self) -> Json:
        if self._body is RecursionError:
            raise RecursionError
        return self._body


@pytest.mark.parametrize(
    "page", [*ODD[1:], RecursionError, [{"name": "a", "bytes": 1, "hash": "x"}]]
)
def test_a_listing_of_objects_that_is_none_or_has_no_end_is_refused(page: Json) -> None:
    if not page:
        return  # an empty page is the end
    calls = iter(range(CALLS_AT_MOST))

    def ask(path: str, method: str, **_: Any) -> Response:
        next(calls)
        return Response(page)

    with pytest.raises(UnexpectedAnswer):
        Objects("s", ask).listing("container")


def scene(change: Callable[[FakeCloud], object]) -> Topology:
    cloud = FakeCloud()
    change(cloud)
    return discover(VNF, cloud.site)


def in_dead_cell(cloud: FakeCloud, name: str) -> None:
    """As Nova lists it (2.69): no name."""
    cloud.servers[f"id-{name}"] = {
        "id": f"id-{name}",
        "status": "UNKNOWN",
        "tenant_id": "project-1",
        "created": "2026-01-01T00:00:00Z",
        "links": [],
    }


def test_a_stranger_in_a_cell_that_is_down_stops_nothing() -> None:
    def change(cloud: FakeCloud) -> None:
        cloud.add_server("other", 9)
        in_dead_cell(cloud, "other")

    assert [s.name for s in scene(change).servers] == ["db", "app", "front"]


def test_a_member_in_a_cell_that_is_down_is_named() -> None:
    with pytest.raises(ResourceFailed, match="db"):
        scene(lambda cloud: in_dead_cell(cloud, "db"))
    cloud = FakeCloud()
    in_dead_cell(cloud, "db")
    by_id = VNF.model_copy(update={"members": [Member(server="id-db")]})
    with pytest.raises(ResourceFailed, match="id-db"):
        find_members(by_id, cloud.site)


def test_a_member_that_does_not_exist_is_not_found() -> None:
    with pytest.raises(NotFound):
        scene(lambda cloud: cloud.servers.pop("id-db"))


def test_what_a_member_refers_to_and_no_service_lists_is_named() -> None:
    with pytest.raises(ResourceFailed, match=r"db.*db-data"):
        scene(lambda cloud: cloud.volumes.pop("db-data"))
    with pytest.raises(ResourceFailed, match=r"port-id-db.*net-1"):
        scene(lambda cloud: cloud.networks.clear())
    with pytest.raises(ResourceFailed, match=r"port-id-db.*subnet-1"):
        scene(lambda cloud: cloud.subnets.clear())


def test_what_a_release_or_a_policy_may_hide_may_be_missing_or_null() -> None:
    def change(cloud: FakeCloud) -> None:
        server = cloud.servers["id-db"]
        for hidden in ("key_name", "OS-EXT-SRV-ATTR:user_data", "OS-EXT-SRV-ATTR:root_device_name"):
            server.pop(hidden)
        server |= {"description": None, "tags": [], "config_drive": ""}
        cloud.volumes["db-root"] |= {"name": None, "volume_type": None, "description": None}
        cloud.volumes["db-root"] |= {"availability_zone": None, "encrypted": False}
        cloud.volumes["db-root"].pop("volume_image_metadata")
        cloud.attachments["id-db"][0].pop("tag")
        cloud.ports["port-id-db"].pop("security_groups")

    server = scene(change).servers[0]
    assert (server.keypair, server.user_data, server.description) == (None, None, None)
    assert {v.volume_type for v in server.volumes} == {"", "fast"}


def test_an_unexpected_answer_names_site_call_resource_and_field() -> None:
    with pytest.raises(UnexpectedAnswer) as failure:
        scene(lambda cloud: cloud.servers["id-app"]["flavor"].pop("vcpus"))
    for words in ("site-a", "GET compute/servers/detail", "app", "id-app", "flavor.vcpus"):
        assert words in str(failure.value)


def test_an_item_that_is_listed_on_two_pages_is_one() -> None:
    things = answers.Listing("things", dict[str, str])
    pages = [
        {"things": [{"id": "1"}, {"id": "2"}], "things_links": [{"rel": "next"}]},
        {"things": [{"id": "2"}, {"id": "3"}]},
    ]
    api = Api("s", "x", lambda *a, **k: Reply(200, pages.pop(0)))
    assert [t["id"] for t in api.all("/things", things)] == ["1", "2", "3"]


def test_a_listing_whose_next_link_leads_back_has_an_end() -> None:
    things = answers.Listing("things", dict[str, str])
    page = {"things": [{"id": "1"}], "things_links": [{"rel": "next", "href": "…"}]}
    with pytest.raises(UnexpectedAnswer):
        Api("s", "x", lambda *a, **k: Reply(200, page)).all("/things", things)
