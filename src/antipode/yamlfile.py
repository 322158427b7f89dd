# SPDX-License-Identifier: Apache-2.0
"""Files that an operator writes: YAML read into a model, every error with file, line and field.

A file of any content is refused in bounded time and memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, ScalarEvent

from antipode.errors import InvalidFile, Mistake

AnyModel = TypeVar("AnyModel", bound=BaseModel)


Problem = tuple[tuple[int | str, ...], str]
"""A place in a file (keys and indexes), and what is wrong there."""
LARGEST = 512 << 10
"""Bytes of a file; a VNF of a thousand members has a tenth of it."""
DEEPEST = 32
"""Levels of values inside values; the models have six."""
SHOWN = 20
"""Problems that a message names."""
MOST = 20_000
"""Values in a file, those of an alias counted each time that it is used."""


def read(
    path: Path, model: type[AnyModel], check: Callable[[AnyModel], Iterable[Problem]] = lambda _: ()
) -> AnyModel:
    """Read the YAML file `path` as a `model`.

    Args:
        check: finds the problems of a value that has the right form.

    Raises:
        InvalidFile: the file cannot be read or does not fit; names each wrong field with its line.
    """
    document = _parse(path, _text(path))
    plain = _Plain()
    content = plain.value(document)
    if plain.problems:
        raise _invalid(path, document, plain.problems)
    try:
        value = model.model_validate(content)
    except ValidationError as error:
        errors = error.errors()[: SHOWN + 1]
        raise _invalid(path, document, list(_problems(errors, model))) from error
    if problems := list(check(value)):
        raise _invalid(path, document, problems)
    return value


def _invalid(path: Path, document: Any, problems: Sequence[Problem]) -> InvalidFile:
    mistakes = [Mistake(_line(document, loc), _field(loc), words) for loc, words in problems]
    return InvalidFile(path, mistakes[:SHOWN], more=len(mistakes) > SHOWN)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise _unreadable(path, f"it is larger than {LARGEST >> 10} KiB")
        return content.decode("utf-8")
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "it is not UTF-8 text") from error


def _unreadable(path: Path, reason: str) -> InvalidFile:
    return InvalidFile(path, [Mistake(None, "", f"cannot be read: {reason}")])


def _at(path: Path, line: int, problem: str) -> InvalidFile:
    return InvalidFile(path, [Mistake(line, "", problem)])


def _parse(path: Path, text: str) -> Any:
    try:
        _check_size(path, text)
        document = YAML(typ="rt", pure=True).load(text)
    except InvalidFile:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = (error.problem or str(error)).splitlines()[0]
        raise _at(path, line, f"is not valid YAML: {problem}") from error
    except Exception as error:  # the parser lets many kinds through, for a wrong tag for example
        raise _at(path, 1, f"is not valid YAML: {error}") from error
    if not isinstance(document, CommentedMap):
        raise _at(path, 1, "must be a mapping of fields to values")
    return document


def _check_size(path: Path, text: str) -> None:
    """Refuse too many values, and values that are nested too deep, before they are put together by
    recursion.

    Raises:
        InvalidFile: there are such values, or a merge key (`<<`), whose chains multiply.
    """
    depth = 0
    for number, event in enumerate(YAML(typ="rt", pure=True).parse(text)):
        line = event.start_mark.line + 1
        if isinstance(event, CollectionStartEvent):
            depth += 1
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        elif isinstance(event, ScalarEvent) and event.value == "<<" and event.implicit[0]:
            raise _at(path, line, "merge keys (<<) are not supported")
        if number > 2 * MOST:  # a key and its value
            raise _at(path, line, "there are too many values")
        if depth > DEEPEST:
            raise _at(path, line, f"values are nested more than {DEEPEST} levels deep")


class _Plain:
    """Turns a document into the same values without ruamel's own types, so that nothing of the
    file's form gets into models; collects the problems of values that no model accepts.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._count = 0

    def value(self, value: Any, loc: tuple[int | str, ...] = ()) -> Any:
        """The plain value of a place; stops at the first file that is too large by its aliases."""
        self._count += 1
        if len(loc) > DEEPEST or self._count > MOST:
            if not self.problems:
                self.problems = [(loc[:1], "aliases make the file too large")]
            return None
        if isinstance(value, dict):
            return {
                self._key(k, loc): self.value(v, (*loc, str(k)))
                for k, v in value.items()
                if not self._is_full
            }
        if isinstance(value, list):
            return [self.value(v, (*loc, i)) for i, v in enumerate(value) if not self._is_full]
        for kind in (bool, int, float, str):
            if isinstance(value, kind):
                return self._checked(kind(value), loc)
        return value

    @property
    def _is_full(self) -> bool:
        return self._count > MOST

    def _key(self, key: Any, loc: tuple[int | str, ...]) -> str:
        if not isinstance(key, str):
            self.problems.append((loc, f"the key {key!r} is not text; write it in quotes"))
        return str(self._checked(str(key), (*loc, str(key))))

    def _checked(self, value: Any, loc: tuple[int | str, ...]) -> Any:
        if isinstance(value, str) and (found := _UNUSABLE.search(value)):
            self.problems.append((loc, f"has the character {found[0]!r}, which no name may have"))
        return value


_UNUSABLE = re.compile(r"[\x00\ud800-\udfff]")
"""NUL ends a string of the operating system; half a surrogate pair is no character."""


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
    return name


def _problems(errors: Sequence[ErrorDetails], model: type[BaseModel]) -> Iterator[Problem]:
    """Each error in words. The known fields of a place are named once."""
    named = set[tuple[int | str, ...]]()
    for error in errors:
        place = error["loc"][:-1]
        if error["type"] == "extra_forbidden" and place not in named:
            named.add(place)
            known = _fields_at(model, place)
            words = "unknown field" + (f"; known here: {', '.join(known)}" if known else "")
            yield error["loc"], words
        else:
            yield error["loc"], _words(error)


def _words(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown field"
    if error["type"] == "string_pattern_mismatch":
        return f"{error['input']!r} does not fit the pattern {error['ctx']['pattern']}"
    return _WORDS.get(error["type"]) or error["msg"].removeprefix("Value error, ")


_WORDS = {
    "missing": "is required and missing",
    "string_type": "must be text; write it in quotes",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of fields to values",
    "finite_number": "must be a finite number",
}
"""By pydantic's type of error: its own words are of Python's types."""


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The fields that a model has at a place, as far as its schema shows them."""
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
