# SPDX-License-Identifier: Apache-2.0
"""The documents of the API say what its code does, and break no client without a microversion."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import pytest

from antipode.api.identity import Caller
from antipode.api.rules import Rules
from antipode.errors import InvalidInput
from tests import api_reference
from tests.reference import DOCS
from tests.unit.test_reference import AGAIN

Json = dict[str, Any]
RUNS = "/v1/runs"


def test_the_openapi_document_agrees_with_the_code() -> None:
    assert (DOCS / "openapi.json").read_text() == api_reference.openapi_text(), AGAIN


def test_the_api_reference_agrees_with_the_code() -> None:
    assert (DOCS / "api-reference.md").read_text() == api_reference.page(), AGAIN


def test_the_sample_of_a_policy_file_agrees_with_the_code() -> None:
    assert (DOCS / "policy.yaml").read_text() == api_reference.policy_text(), AGAIN


def test_the_sample_is_a_policy_file() -> None:
    Rules(DOCS / "policy.yaml")


@pytest.mark.parametrize(
    "text",
    [
        '"x": "rule:none"',
        "[1, 2]",
        '"disaster-recovery:site:list": "rule:"',
        '"disaster-recovery:standing:delete": "!"',
        "{",
        '"a": 5',
    ],
)
def test_a_wrong_policy_file_is_refused_at_the_start(tmp_path: Any, text: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput):
        Rules(path)
    with pytest.raises(InvalidInput):
        Rules(tmp_path / "missing.yaml")


def test_a_policy_file_that_goes_away_or_is_restored_opens_nothing(tmp_path: Any) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text('"disaster-recovery:vnf:list": "role:none"')
    rules = Rules(path)
    member = Caller("u", "demo", "d", "p", "vnf", False, frozenset({"member"}), "site-a", 0.0)
    assert not rules.allows(member, "vnf:list", "vnf")
    path.unlink()
    assert not rules.allows(member, "vnf:list", "vnf")
    path.write_text('"disaster-recovery:vnf:list": "role:member"')
    os.utime(path, (4e9, 4e9))
    assert rules.allows(member, "vnf:list", "vnf")
    path.write_text('"disaster-recovery:vnf:list": "role:none"')
    os.utime(path, (1, 1))  # that of before, with its time
    assert not rules.allows(member, "vnf:list", "vnf")
    assert not rules.allows(member, "vnf:list", "vnf")


def test_the_document_has_not_changed_by_itself() -> None:
    now = api_reference.openapi()
    assert api_reference.breaks(now, now) == []
    assert api_reference.breaks(json.loads((DOCS / "openapi.json").read_text()), now) == []


def without_path(new: Json) -> None:
    del new["paths"][RUNS]


def without_parameter(new: Json) -> None:
    parameters = new["paths"][RUNS]["get"]["parameters"]
    parameters.remove(next(p for p in parameters if p["name"] == "marker"))


def with_needed_parameter(new: Json) -> None:
    more = {"name": "more", "in": "query", "required": True, "schema": {}}
    new["paths"][RUNS]["get"]["parameters"].append(more)


def without_field(new: Json) -> None:
    del new["components"]["schemas"]["RunOfList"]["properties"]["author"]


def of_another_type(new: Json) -> None:
    new["components"]["schemas"]["RunOfList"]["properties"]["id"]["type"] = "integer"


def with_needed_field(new: Json) -> None:
    new["components"]["schemas"]["Answering"]["required"].append("more")


def without_kind(new: Json) -> None:
    kinds = new["components"]["schemas"]["GivenRun"]["properties"]["run"]["oneOf"]
    kinds.pop()


@pytest.mark.parametrize(
    "change",
    [
        *(without_path, without_parameter, with_needed_parameter, without_field, of_another_type),
        *(with_needed_field, without_kind),
    ],
)
def test_what_breaks_clients_is_found(change: Any) -> None:
    old = api_reference.openapi()
    new = copy.deepcopy(old)
    change(new)
    assert api_reference.breaks(old, new)
    new["info"]["version"] = "1.99"
    assert api_reference.breaks(old, new) == []


def test_what_is_added_breaks_no_client() -> None:
    old = api_reference.openapi()
    new = copy.deepcopy(old)
    new["paths"]["/v1/more"] = {}
    new["components"]["schemas"]["RunOfList"]["properties"]["more"] = {"type": "string"}
    assert api_reference.breaks(old, new) == []
