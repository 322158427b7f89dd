"""Files an operator writes: YAML read into a model, every error with file, line and field."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from antipode.errors import InvalidInput

AnyModel = TypeVar("AnyModel", bound=BaseModel)


Problem = tuple[tuple[int | str, ...], str]
"""Where in a file something is wrong (keys and indexes), and what."""


def read(
    path: Path, model: type[AnyModel], check: Callable[[AnyModel], Iterable[Problem]] = lambda _: ()
) -> AnyModel:
    """Read the YAML file `path` as a `model`; `check` tells what is wrong with it beyond its form.

    Raises:
        InvalidInput: the file cannot be read or does not fit; names each wrong field with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidInput(f"{path}: cannot be read: {reason}") from error
    document = _parse(path, text)
    try:
        value = model.model_validate(_plain(document))
    except ValidationError as error:
        raise _invalid(
            path, document, [(e["loc"], _words(e, model)) for e in error.errors()]
        ) from error
    if problems := list(check(value)):
        raise _invalid(path, document, problems)
    return value


def _invalid(path: Path, document: Any, problems: Iterable[Problem]) -> InvalidInput:
    return InvalidInput(
        "\n".join(f"{path}:{_line(document, loc)}: {_field(loc)}{words}" for loc, words in problems)
    )


def _parse(path: Path, text: str) -> Any:
    try:
        document = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = (error.problem or str(error)).splitlines()[0]
        raise InvalidInput(f"{path}:{line}: is not valid YAML: {problem}") from error
    except (YAMLError, ValueError) as error:
        raise InvalidInput(f"{path}:1: is not valid YAML: {error}") from error
    if not isinstance(document, CommentedMap):
        raise InvalidInput(f"{path}:1: must be a mapping of fields to values")
    return document


def _plain(value: Any) -> Any:
    """The same value without ruamel's own types, so that nothing of the file's form gets into
    models.
    """
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _line(document: Any, loc: tuple[int | str, ...]) -> int:
    """The line of the field `loc`, or of the nearest thing around it that has one."""
    line, node = 0, document
    for part in loc:
        if isinstance(node, CommentedMap) and part in node:
            line = node.lc.key(part)[0]
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0]
        else:
            break
        node = node[part]
    return int(line) + 1


def _field(loc: tuple[int | str, ...]) -> str:
    name = ""
    for part in loc:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return f"{name}: " if name else ""


def _words(error: ErrorDetails, model: type[BaseModel]) -> str:
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, error["loc"][:-1])
        return "unknown field" + (f"; known here: {', '.join(known)}" if known else "")
    if error["type"] == "missing":
        return "is required and missing"
    return error["msg"].removeprefix("Value error, ")


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The fields that a model has at a place, as far as it can be told from its schema."""
    schema = model.model_json_schema()
    node: Any = schema
    for part in (None, *loc):
        if part is not None:
            node = (
                node.get("items")
                if isinstance(part, int)
                else node.get("properties", {}).get(part) or node.get("additionalProperties")
            )
        while isinstance(node, dict) and ("$ref" in node or "anyOf" in node):
            node = (
                schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
                if "$ref" in node
                else node["anyOf"][0]
            )
        if not isinstance(node, dict):
            return []
    return list(node.get("properties", {}))
