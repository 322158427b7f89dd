# SPDX-License-Identifier: Apache-2.0
"""Runbook steps: what the operator has done beside the recovery of the members, and when."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, Self, get_args
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from antipode.model.base import Model, Name, Seconds, Whole

Recovery = Literal["failover", "migrate", "failback", "drill"]
"""A verb that recovers members, one after another."""
Verb = Literal[Recovery, "undo", "commit", "fence", "reprotect"]
Deliberate = Literal[Verb, "dns-switch"]
"""A verb that an operator begins by confirming it."""
Approvals = dict[Deliberate, Annotated[Whole, Field(ge=0, le=10)]]
"""How many others than its author must approve a run of each verb."""
Everything = Literal["all"]
ALL: Everything = "all"
"""In the place of members: the verb as a whole."""
LONGEST_S = 7 * 86400.0
WITHIN_S = {"prompt": 3600.0, "command": 60.0, "http": 30.0, "script": 300.0}
"""The time limit of an action, in seconds, where a step names none."""
Message = Annotated[str, StringConstraints(min_length=1, max_length=2000, strip_whitespace=True)]
Word = Annotated[str, Field(max_length=4096)]
THIS_HOST = ("127.0.0.1", "::1")
"""The addresses to which a secret may go without TLS."""
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")]
_RETRY = re.compile(r"retry\(([1-9][0-9]?)\)")


def _as_list(value: object) -> object:
    """A single value that is written without a list; `all` stands for no list."""
    return [value] if isinstance(value, str) and value != ALL else value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Place = Annotated[
    Everything | Annotated[list[str], Field(min_length=1, max_length=1000)],
    BeforeValidator(_as_list),
]
"""`all`, or members as the boot order names them."""


Inherited = Annotated[
    Everything | Annotated[list[VariableName], Field(max_length=100)], BeforeValidator(_as_list)
]
"""The variables of antipode's environment that a program gets beside those that all get; `all`: the
whole environment, with all secrets in it."""


class Prompt(Model):
    """A question to an operator, for which the run waits."""

    message: Message
    answer: Literal["yes-no", "text"] = "yes-no"
    """yes-no: a no stops the run; text: any words, which are kept with the run"""


def _prompt(value: object) -> object:
    return {"message": value} if isinstance(value, str) else value


class FromElsewhere(Model):
    """A value that is read on the host that needs it: the VNF file and recovery points name its
    place only.
    """

    file: Annotated[str, StringConstraints(pattern=r"^/")] | None = None
    """its first line"""
    env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    prefix: Annotated[str, Field(max_length=80)] = ""
    """what stands before it, as `Bearer `"""

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise ValueError("give one of file and env")
        return self

    def __str__(self) -> str:
        return f"file {self.file}" if self.file else f"variable {self.env}"


HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[ -~]*$", max_length=4096)]


class HttpCall(Model):
    """A call of a web service. Redirects are not followed."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://[!-~]+$", max_length=2048)]
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    headers: Annotated[dict[HeaderName, FromElsewhere | HeaderValue], Field(max_length=50)] = {}
    body: Annotated[str, Field(max_length=65_535)] | None = None
    expect: Annotated[
        list[Annotated[Whole, Field(ge=100, le=599)]],
        Field(max_length=100),
        BeforeValidator(lambda value: [value] if isinstance(value, int) else value),
    ] = []
    """the statuses of success; from 200 to 299 by default"""

    @model_validator(mode="after")
    def keeps_its_secrets(self) -> Self:
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            raise ValueError("a password in the URL would be in logs; give a header from a file")
        secret = any(isinstance(value, FromElsewhere) for value in self.headers.values())
        if secret and parts.scheme != "https" and parts.hostname not in THIS_HOST:
            raise ValueError(
                "a header from a file or a variable goes to https:// or this host only"
            )
        return self

    def __str__(self) -> str:
        secret = [f"{k} from {v}" for k, v in self.headers.items() if isinstance(v, FromElsewhere)]
        headers = f", with {', '.join(secret)}" if secret else ""
        body = f", body {self.body!r}" if self.body else ""
        return f"{self.method} {self.url}{headers}{body}"


class Script(Model):
    """A program that a runner of antipode.yaml runs, on another host or in a container."""

    runner: Name
    command: Annotated[list[Word], Field(min_length=1, max_length=256)]

    def __str__(self) -> str:
        return f"{shlex.join(self.command)}, by runner {self.runner}"


def _on_error(value: object) -> object:
    if value in ("stop", "ignore") or (isinstance(value, str) and _RETRY.fullmatch(value)):
        return value
    raise ValueError("give stop, ignore, or retry(n) with n from 1 to 99")


class RunbookStep(Model):
    """One step of a runbook: an action, its place in the recovery, and the verbs that it is for."""

    name: Name
    before: Place | None = None
    """the step is over before these members boot, and begins when all that they boot from is there
    and all that they wait for answer; all: before anything is created
    """
    after: Place | None = None
    """the step begins when these members answer, and is over before any other boots that waits for
    one of them; all: when all members answer, before the run is over
    """
    on: Annotated[list[Verb], Field(min_length=1), BeforeValidator(_listed)] = [
        "failover",
        "migrate",
        "failback",
    ]
    """the verbs in which it is done: never in a drill that is not named"""
    to: Annotated[list[Name], BeforeValidator(_listed)] = []
    """only in a recovery at one of these sites; at any by default"""
    within: Annotated[Seconds, Field(gt=0, le=LONGEST_S)] | None = None
    """its time limit for one attempt, in seconds"""
    on_error: Annotated[str, BeforeValidator(_on_error)] = "stop"
    """stop: the run fails; ignore: it continues, with a warning; retry(n): up to n more attempts"""
    wait: Annotated[Seconds, Field(gt=0, le=86400)] | None = None
    prompt: Annotated[Prompt, BeforeValidator(_prompt)] | None = None
    command: Annotated[list[Word], Field(min_length=1, max_length=256)] | None = None
    """run on the host of antipode, without a shell"""
    http: HttpCall | None = None
    script: Script | None = None
    variables: Annotated[list[VariableName], Field(max_length=100), BeforeValidator(_listed)] = []
    """of the environment of antipode, that its command gets beside those that all commands get"""

    @model_validator(mode="after")
    def is_one_action_at_one_place(self) -> Self:
        if len(given := [a for a in ACTIONS if getattr(self, a) is not None]) != 1:
            raise ValueError(f"give one of {', '.join(ACTIONS)}")
        if (self.before is None) == (self.after is None):
            raise ValueError("give before or after")
        if self.within is not None and given == ["wait"]:
            raise ValueError("a wait has no time limit")
        if self.variables and given != ["command"]:
            raise ValueError("only a command of this host has variables of it")
        whole = sorted(set(self.on) - set(get_args(Recovery)))
        if whole and self.place != ALL:
            raise ValueError(f"{', '.join(whole)} boots no members: write before or after: all")
        return self

    @property
    def action(self) -> str:
        """The field that says what is done."""
        return next(a for a in ACTIONS if getattr(self, a) is not None)

    @property
    def limit_s(self) -> float:
        """The time limit of one attempt, in seconds."""
        return self.within or WITHIN_S[self.action]

    @property
    def retries(self) -> int:
        """How many more attempts follow one that fails."""
        found = _RETRY.fullmatch(self.on_error)
        return int(found[1]) if found else 0

    @property
    def place(self) -> Everything | list[str]:
        """The members that it is before or after."""
        place = self.before or self.after
        assert place is not None  # it has one
        return place

    def __str__(self) -> str:
        """What is done, for people: every word that is executed."""
        if self.wait is not None:
            return f"waits {self.wait:g} s"
        if self.prompt is not None:
            return f"asks an operator, for up to {self.limit_s:g} s: {self.prompt.message}"
        if self.http is not None:
            return f"calls, for up to {self.limit_s:g} s: {self.http}"
        if self.script is not None:
            return f"runs, for up to {self.limit_s:g} s: {self.script}"
        known = f", with {', '.join(self.variables)}" if self.variables else ""
        run = shlex.join(self.command or [])
        return f"runs on this host, for up to {self.limit_s:g} s: {run}{known}"


ACTIONS = ("wait", "prompt", "command", "http", "script")
"""The fields of a step that say what is done."""


class PlannedStep(Model):
    """A runbook step of a plan, its members named as servers of the plan."""

    step: RunbookStep
    servers: list[str] = []
    """those that it is before or after; none where it is before or after all"""

    @property
    def comes_first(self) -> bool:
        """Whether it is done before anything is created."""
        return self.step.before == ALL

    @property
    def comes_last(self) -> bool:
        """Whether it is done when all members answer."""
        return self.step.after == ALL

    def __str__(self) -> str:
        when = "before" if self.step.before else "after"
        place = "anything is created" if self.comes_first else "all members answer"
        place = ", ".join(self.servers) or place
        ignored = "it continues without an answer" if self.step.prompt else "an error is ignored"
        error = {"stop": "", "ignore": f"; {ignored}"}
        how = error.get(self.step.on_error, f"; {self.step.retries} retries")
        return f"{self.step.name}, {when} {place}: {self.step}{how}"


class Node(NamedTuple):
    """A member or a step in the order of a recovery."""

    kind: Literal["member", "step"]
    name: str


def order(
    steps: Iterable[PlannedStep], before: Mapping[str, Iterable[str]]
) -> Iterator[tuple[Node, Node]]:
    """Pairs of which the first is over before the second begins, of steps about some members; for
    a member that is to answer, and to boot.

    Args:
        before: member -> those that must answer before it boots.
    """
    last: dict[tuple[bool, frozenset[str]], Node] = {}
    for planned in steps:
        if planned.comes_first or planned.comes_last:
            continue
        group, node = frozenset(planned.servers), Node("step", planned.step.name)
        is_before = planned.step.before is not None
        if is_before:
            waited_for = frozenset(p for m in group for p in before.get(m, ())) - group
            boot = group
        else:
            waited_for = group
            boot = frozenset(m for m, ps in before.items() if group & set(ps)) - group
        yield from ((Node("member", m), node) for m in sorted(waited_for))
        yield from ((node, Node("member", m)) for m in sorted(boot))
        if (earlier := last.get((is_before, group))) is not None:
            yield earlier, node  # in the order of the file
        last[is_before, group] = node


def planned(
    steps: Sequence[RunbookStep], verb: str, site: str, servers_of: Callable[[str], list[str]]
) -> list[PlannedStep]:
    """The steps that are done by a verb at a site, in the order of the file. One about members of
    which none is there is left out.

    Args:
        servers_of: the servers of a plan behind a name in the boot order.
    """
    found: list[PlannedStep] = []
    for step in steps:
        if verb not in step.on or (step.to and site not in step.to):
            continue
        if step.place == ALL:
            found.append(PlannedStep(step=step))
        elif servers := [s for label in step.place for s in servers_of(label)]:
            found.append(PlannedStep(step=step, servers=list(dict.fromkeys(servers))))
    return found
