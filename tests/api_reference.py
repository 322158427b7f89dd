# SPDX-License-Identifier: Apache-2.0
"""The reference pages of the REST API, made from its code: the OpenAPI document, a page for people,
and the sample of a policy file.

A document that would break clients of the present microversion is not written: see `breaks`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from antipode.api.app import rooms
from antipode.api.document import document
from antipode.api.rules import PERSONAS, RULES, SERVICE, defaults

Json = dict[str, Any]
HEAD = """\
# API reference

Made from the API's own code by `python -m tests.reference`; a test compares the two.
[openapi.json](openapi.json) is the same for programs, with the types of all fields, and
[api.md](api.md) explains the concepts.
"""
POLICY_HEAD = """\
# The rules of the REST API with their defaults. A file with some of them, named by api.policy_file
# in antipode.yaml, replaces those. Made by `python -m tests.reference`.
"""


def openapi() -> Json:
    """The OpenAPI document."""
    found: Json = json.loads(json.dumps(document(rooms())))
    return found


def openapi_text() -> str:
    """docs/openapi.json."""
    return f"{json.dumps(openapi(), indent=1, sort_keys=True)}\n"


def page() -> str:
    """docs/api-reference.md."""
    found = openapi()
    personas = {f"{SERVICE}:{rule.name}": rule.check for rule in RULES}
    lines = [HEAD]
    by_tag: dict[str, list[str]] = {}
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            section = "\n".join(_operation(found, method, path, operation, personas))
            by_tag.setdefault(operation["tags"][0], []).append(section)
    for tag, sections in by_tag.items():
        lines += [f"## {tag.capitalize()}\n", *sections]
    return "\n".join(lines)


def policy_text() -> str:
    """docs/policy.yaml."""
    about = [f"# {p.name}: a user that {p.about}" for p in PERSONAS]
    lines = [POLICY_HEAD.rstrip(), *about]
    for rule in defaults():
        lines.append("")
        lines.append(f"# {rule.description}")
        operations = next((r.operations for r in RULES if f"{SERVICE}:{r.name}" == rule.name), ())
        lines += [f"# {operation}" for operation in operations]
        lines.append(f'"{rule.name}": "{rule.check_str}"')
    return "\n".join([*lines, ""])


def breaks(old: Json, new: Json) -> list[str]:
    """What clients of an old document would stumble over in a new one, in words; nothing where the
    microversion was raised.
    """
    if old["info"]["version"] != new["info"]["version"]:
        return []
    return list(_broken(old, new))


def _broken(old: Json, new: Json) -> Iterator[str]:
    for path, methods in old["paths"].items():
        for method, before in methods.items():
            name = f"{method.upper()} {path}"
            after = new["paths"].get(path, {}).get(method)
            if after is None:
                yield f"{name} is gone"
                continue
            yield from _parameters(name, before, after)
            for status, answer in before["responses"].items():
                if status.startswith("2"):
                    if status not in after["responses"]:
                        yield f"{name} does not answer with {status} any more"
                        continue
                    yield from _fields(
                        f"{name}: the answer",
                        (old, _schema(answer)),
                        (new, _schema(after["responses"][status])),
                        is_sent=False,
                    )
            yield from _fields(
                f"{name}: the body",
                (old, _schema(before.get("requestBody", {}))),
                (new, _schema(after.get("requestBody", {}))),
                is_sent=True,
            )


def _parameters(name: str, before: Json, after: Json) -> Iterator[str]:
    known = {(p["name"], p["in"]): p for p in after.get("parameters", [])}
    former = {(p["name"], p["in"]) for p in before.get("parameters", [])}
    for key in former - known.keys():
        yield f"{name} has no parameter {key[0]} any more"
    for key in known.keys() - former:
        if known[key].get("required"):
            yield f"{name} needs the new parameter {key[0]}"


def _schema(part: Json) -> Json:
    found: Json = part.get("content", {}).get("application/json", {}).get("schema", {})
    return found


def _fields(
    where: str,
    before: tuple[Json, Json],
    after: tuple[Json, Json],
    *,
    is_sent: bool,
    seen: tuple[str, ...] = (),
) -> Iterator[str]:
    """What is lost of a schema: fields of an answer; of a body, what may be sent, and what need
    not be.
    """
    (old, one), (new, other) = before, after
    if (name := one.get("$ref")) is not None:
        if name in seen:
            return
        seen = (*seen, name)
    one, other = _resolved(old, one), _resolved(new, other)
    if one.get("type") != other.get("type") and "type" in one:
        yield f"{where} is {other.get('type')}, and was {one['type']}"
        return
    for field, schema in one.get("properties", {}).items():
        there = other.get("properties", {}).get(field)
        if there is None:
            yield f"{where} has no {field} any more"
            continue
        inner = (old, schema), (new, there)
        yield from _fields(f"{where}.{field}", *inner, is_sent=is_sent, seen=seen)
    if "items" in one and "items" in other:
        inner = (old, one["items"]), (new, other["items"])
        yield from _fields(f"{where}[]", *inner, is_sent=is_sent, seen=seen)
    needed = set(other.get("required", [])) - set(one.get("required", []))
    if is_sent and needed:
        yield f"{where} needs {', '.join(sorted(needed))}"
    dropped = set(one.get("required", [])) - set(other.get("required", []))
    if not is_sent and dropped:
        yield f"{where} may lack {', '.join(sorted(dropped))}"
    for words in ("anyOf", "oneOf", "enum"):
        known = {json.dumps(choice, sort_keys=True) for choice in other.get(words, [])}
        for choice in one.get(words, []) if is_sent else ():
            if json.dumps(choice, sort_keys=True) not in known:
                yield f"{where} may not be {json.dumps(choice)} any more"


def _resolved(whole: Json, schema: Json) -> Json:
    name = schema.get("$ref")
    if name is None:
        return schema
    found: Json = whole["components"]["schemas"][name.rpartition("/")[2]]
    return found


def _operation(
    whole: Json, method: str, path: str, operation: Json, personas: dict[str, str]
) -> Iterator[str]:
    yield f"### {method.upper()} `{path}`\n"
    yield f"{operation['description'] if 'description' in operation else operation['summary']}\n"
    if (rule := operation.get("x-rule")) is not None:
        yield f"Rule: `{rule}`, by default\n`{personas[rule]}`.\n"
    rows = [
        (p["name"], p["in"], p.get("description", p["schema"].get("description", "")))
        for p in operation.get("parameters", [])
    ]
    if rows:
        yield "| parameter | in | |\n|---|---|---|"
        yield from (f"| `{name}` | {where} | {about} |" for name, where, about in rows)
        yield ""
    if "requestBody" in operation:
        yield f"Body: {_named(_schema(operation['requestBody']))}.\n"
    for status, answer in sorted(operation["responses"].items()):
        if status.startswith("2"):
            schema = _schema(answer)
            what = f": {_named(schema)}" if schema else ""
            yield f"Answer: {status}{what}.\n"


def _named(schema: Json) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return f"`{name}`" if name else "an object"
