# SPDX-License-Identifier: Apache-2.0
"""The tree of errors that antipode raises; each says what happened, to which resource, and what the
operator can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class AntipodeError(Exception):
    """A command or a run cannot do its work.

    Args:
        message: what happened, to which resource, and what to do.
        resource: the resource in question, as `vnf hlr` or `file /etc/antipode.yaml`, where the
            place that raises the error knows it.
    """

    code = "failed"
    """names the kind of error; stable, so that programs may compare it"""
    exit_code = 1
    """the exit code of the command"""

    def __init__(self, message: str, *, resource: str | None = None) -> None:
        self.resource = resource
        super().__init__(message)


class InvalidInput(AntipodeError):
    """A file, name or option that the operator gave is wrong; nothing was changed."""

    code = "invalid-input"
    exit_code = 2


@dataclass(frozen=True)
class Mistake:
    """One mistake in a file of the operator."""

    line: int | None
    """counted from 1; None: the file has no lines that can be read"""
    field: str
    """as `members[1].server`; empty: the file as a whole"""
    problem: str


class InvalidFile(InvalidInput):
    """A file of the operator has mistakes, each with its line and field; nothing was changed.

    Args:
        mistakes: those that are named, at least one.
        more: whether the file has others.
    """

    code = "invalid-file"

    def __init__(self, path: Path, mistakes: Sequence[Mistake], *, more: bool = False) -> None:
        self.path = path
        self.mistakes = list(mistakes)
        lines = []
        for mistake in self.mistakes:
            line = "" if mistake.line is None else f":{mistake.line}"
            field = f"{mistake.field}: " if mistake.field else ""
            lines.append(f"{path}{line}: {field}{mistake.problem}")
        if more:
            lines.append(f"{path}: has more mistakes than these {len(lines)}")
        super().__init__("\n".join(lines), resource=f"file {path}")


class NotFound(InvalidInput):
    """The VNF, run, recovery point or site that the operator named does not exist."""

    code = "not-found"


class NotAuthenticated(AntipodeError):
    """A request to the API has no valid token, or wrong credentials; nothing was changed."""

    code = "not-authenticated"


class Forbidden(AntipodeError):
    """The roles of a user do not allow what a request to the API asks for; nothing was changed."""

    code = "forbidden"


class QuotaExceeded(AntipodeError):
    """A project may have no more of something; nothing was changed."""

    code = "quota-exceeded"


class TooManyRequests(AntipodeError):
    """The API has more requests of a user, or more that take long, than it answers at once."""

    code = "too-many-requests"


class KeyReused(InvalidInput):
    """The Idempotency-Key of a request to the API was that of another request."""

    code = "idempotency-key-reused"


class PreflightFailed(AntipodeError):
    """Something that a run needs is missing; found before anything was frozen or created.

    `problems` has one sentence for each missing thing, so that the operator can mend all at once.
    """

    code = "preflight-failed"
    exit_code = 3

    def __init__(self, what: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n  - ".join([f"{what} cannot start:", *self.problems]))


class NotConfirmed(AntipodeError):
    """The operator did not confirm; nothing was changed."""

    code = "not-confirmed"
    exit_code = 4


class NotApproved(AntipodeError):
    """A run may not begin, as others have not approved it; nothing was changed."""

    code = "not-approved"
    exit_code = 8


class Rejected(NotApproved):
    """Somebody has rejected a run before it began; nothing was changed."""

    code = "rejected"


class ApprovalExpired(NotApproved):
    """A run was not approved in time; nothing was changed."""

    code = "approval-expired"


class SiteUnreachable(AntipodeError):
    """The API of a site does not answer."""

    code = "site-unreachable"
    exit_code = 5


class UnexpectedAnswer(AntipodeError):
    """A service answered a call, and not as its API says.

    `problem` names the resource and the field.
    """

    code = "unexpected-answer"

    def __init__(self, site: str, call: str, problem: str) -> None:
        self.problem = problem
        super().__init__(
            f"{site}: the answer to {call} cannot be used: {problem}. Look at the log of that "
            "service, and of proxies before it"
        )


class ResourceFailed(AntipodeError):
    """A cloud resource went into an error state, or was not ready in time."""

    code = "resource-failed"


class NotSynchronised(ResourceFailed):
    """A first synchronisation has not ended in time. It continues, and can be awaited again."""

    code = "not-synchronised"


class VolumeTaken(ResourceFailed):
    """A volume that the mover was about to write is another's now. Nothing more was written."""

    code = "volume-taken"


class HelperFailed(ResourceFailed):
    """The helper server of the mover cannot be used: its SSH server takes no key of ours or has no
    SFTP, or a volume that Nova has attached to it cannot be found or opened there.
    """

    code = "helper-failed"


class HelperUnreachable(HelperFailed):
    """The helper server of the mover does not answer by SSH, or has stopped to."""

    code = "helper-unreachable"


class HelperUntrusted(HelperFailed):
    """What answers at the address of the helper server has another host key than `known_hosts` of
    its settings. Nothing was attached or sent.
    """

    code = "helper-untrusted"


class StepFailed(AntipodeError):
    """A step of the runbook has failed: a command, a call, or a question that was answered with no
    or not in time.
    """

    code = "runbook-step-failed"


class Stalled(ResourceFailed):
    """Nothing has changed about a resource for longer than its work may take."""

    code = "stalled"


class NoCounterpart(ResourceFailed):
    """The storage of the backup site holds nothing under the name of a volume."""

    code = "counterpart-missing"


class CounterpartRefused(ResourceFailed):
    """What the storage of the backup site holds under the name of a volume is not, or not for
    certain, its replica: it has another size, is another volume's, or there are several.
    """

    code = "counterpart-refused"


class QuiesceFailed(AntipodeError):
    """A member could not be quiesced or unquiesced; the message names the members that may still be
    frozen.
    """

    code = "quiesce-failed"


class VaultError(AntipodeError):
    """The vault cannot be read or written."""

    code = "vault-failed"


class VaultFull(VaultError):
    """The vault has no room: its disk is full, or a quota is exhausted."""

    code = "vault-full"


class VaultCorrupt(VaultError):
    """A manifest in the vault does not pass its checksum or cannot be understood."""

    code = "vault-corrupt"


class PointUnsigned(VaultCorrupt):
    """A recovery point has no signature: its writer is unknown."""

    code = "recovery-point-unsigned"


class PointUntrusted(VaultCorrupt):
    """A recovery point is signed by a key that this host does not trust."""

    code = "recovery-point-untrusted"


class PointMisplaced(VaultCorrupt):
    """A recovery point lies under the name of another one, or of another VNF."""

    code = "recovery-point-misplaced"


class KeyMissing(AntipodeError):
    """This host has no key to sign with, or no identity that opens what is encrypted."""

    code = "key-missing"


class KeyUnusable(InvalidInput):
    """A key file may be read or written by others, or holds no key; it is not used."""

    code = "key-unusable"


class RecoveryPointInvalid(AntipodeError):
    """A recovery point does not verify: a backup is missing, a chain is broken, a checksum is
    wrong.
    """

    code = "recovery-point-invalid"


class ReportInvalid(AntipodeError):
    """A file of a report is not what was signed, or no key that this host trusts has signed it."""

    code = "report-invalid"


class DrillNotPassed(AntipodeError):
    """A drill was made to its end, and a member did not answer, its content differs, or something
    was left at the site.
    """

    code = "drill-not-passed"


class NotIsolated(AntipodeError):
    """Something else than a drill is on its networks, or leads to them; no guest was booted, or all
    of it was removed.
    """

    code = "not-isolated"


class DnsFailed(AntipodeError):
    """A record in DNS could not be read or changed."""

    code = "dns-failed"


class DnsUnreachable(DnsFailed):
    """A DNS server does not answer, or cannot answer now."""

    code = "dns-unreachable"


class DnsRefused(DnsFailed):
    """A DNS server refuses the key, or the change, or does not have the zone."""

    code = "dns-refused"


class DnsRecordChanged(DnsFailed):
    """A record in DNS is another one than was planned for: somebody else has changed it, and it was
    left as it is.
    """

    code = "dns-record-changed"


class NotFenced(AntipodeError):
    """A failover that was to begin with a fence has ended, as not all of the old copy is fenced;
    what was fenced is as it was before.
    """

    code = "not-fenced"


class Busy(AntipodeError):
    """Another run of the same VNF is under way."""

    code = "busy"
    exit_code = 6


class WrongState(AntipodeError):
    """The state of a run does not allow what a request to the API asks for; nothing was changed."""

    code = "wrong-state"

    def __init__(self, message: str, state: str, *, resource: str | None = None) -> None:
        self.state = state
        super().__init__(message, resource=resource)


class Stopped(AntipodeError):
    """A run must stop. The step under way did not fail, and is not reported as failed."""

    code = "stopped"


class ClaimLost(Stopped):
    """This process has lost its claim of a run, or cannot know that it still has it: nothing was
    changed after that, and frozen members were unquiesced.

    The run itself has not ended: the process that claimed it resumes it.
    """

    code = "claim-lost"
    exit_code = 7


class Aborted(Stopped):
    """A run was aborted on request, and rolled back."""

    code = "aborted"


class Halted(Stopped):
    """A run was stopped at a safe point without a rollback, to be resumed later."""

    code = "halted"
    exit_code = 130


class Interrupted(AntipodeError):
    """A signal ended a run; frozen members were unquiesced."""

    code = "interrupted"
    exit_code = 130


class Unexpected(AntipodeError):
    """A fault of antipode itself: an exception that no part of it foresees."""

    code = "unexpected"
