# SPDX-License-Identifier: Apache-2.0
"""Neutron's way with any resource: whose it is, how it is found and listed, its tags."""

from __future__ import annotations

from collections.abc import Iterable

from antipode.sandbox.database import Json, Table
from antipode.sandbox.http import Call, Caller, Refused, page

LONGEST_TAG = 60


def sees(caller: Caller, item: Json) -> bool:
    """Whether a caller is shown a resource."""
    return caller.may_see(item) or bool(item.get("shared") or item.get("router:external"))


def find(call: Call, table: Table, item_id: str, kind: str) -> Json:
    """A resource that the caller may see; refused with 404 when there is none."""
    item = table.get(item_id)
    if item is None or not sees(call.caller, item):
        raise Refused(
            404, f"{kind} {item_id} could not be found.", kind.title().replace(" ", "") + "NotFound"
        )
    return item


def listed(call: Call, collection: str, items: Iterable[Json]) -> Json:
    """The rows that pass the request's filters; oldest first, as Neutron has no order."""
    wanted: dict[str, list[str]] = {}
    for name in call.query:
        if name not in ("limit", "marker", "fields", "sort_key", "sort_dir", "page_reverse"):
            wanted[name] = call.query.getall(name)
    found = [
        item
        for item in items
        if all(_matches(item, name, values) for name, values in wanted.items())
    ]
    return page(call, collection, found[::-1], lambda item: item)


def _matches(item: Json, name: str, values: list[str]) -> bool:
    if name == "fixed_ips":
        pairs = [v.split("=", 1) for v in values]
        return any(f.get(key) == value for key, value in pairs for f in item["fixed_ips"])
    if name == "tags":
        return set(",".join(values).split(",")) <= set(item["tags"])
    key = {"tenant_id": "project_id"}.get(name, name)
    return key not in item or str(item[key]).lower() in {v.lower() for v in values}


def refuse_unknown(wanted: Json, allowed: Iterable[str], what: str = "POST") -> None:
    """Refuse attributes that the API does not take, with 400."""
    for name in wanted:
        if name not in allowed:
            raise Refused(400, f"Attribute '{name}' not allowed in {what}", "HTTPBadRequest")


def tagged(call: Call, table: Table, item: Json) -> list[str]:
    """The tags that a resource has from now on: those of the request and no others.

    Raises:
        Refused: one is longer than Neutron takes.
    """
    tags = sorted(call.body.get("tags", []))
    if too_long := [t for t in tags if len(t) > LONGEST_TAG]:
        raise Refused(
            400,
            f"Invalid input for tags. Reason: '{too_long[0]}' exceeds maximum length"
            f" of {LONGEST_TAG}.",
            "HTTPBadRequest",
        )
    table.keep(item, tags=tags)
    return tags
