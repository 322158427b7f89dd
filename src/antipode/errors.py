"""The tree of errors antipode raises; each says what happened, to which resource, and what the
operator can do.
"""

from __future__ import annotations

from collections.abc import Sequence


class AntipodeError(Exception):
    """Anything antipode gives up on. `exit_code` is what the command line ends with."""

    exit_code = 1


class InvalidInput(AntipodeError):
    """A file, name or option of the operator's is wrong; nothing was changed."""

    exit_code = 2


class NotFound(InvalidInput):
    """The operator named a VNF, run, recovery point or site that does not exist."""


class PreflightFailed(AntipodeError):
    """What is needed for a run is missing; found before anything was frozen or created.

    `problems` has one sentence for each thing that is wrong, all of them, so that they can be
    mended at once.
    """

    exit_code = 3

    def __init__(self, what: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n  - ".join([f"{what} cannot start:", *self.problems]))


class NotConfirmed(AntipodeError):
    """The operator did not confirm; nothing was changed."""

    exit_code = 4


class SiteUnreachable(AntipodeError):
    """A site's API does not answer."""

    exit_code = 5


class UnexpectedAnswer(AntipodeError):
    """A service answered a call, and not as its API says.

    `problem` names the resource and the field.
    """

    def __init__(self, site: str, call: str, problem: str) -> None:
        self.problem = problem
        super().__init__(
            f"{site}: the answer to {call} cannot be used: {problem}. Look at the log of that "
            "service, and at whatever stands between it and antipode"
        )


class ResourceFailed(AntipodeError):
    """A cloud resource went into an error state or did not get ready in time."""


class Stalled(ResourceFailed):
    """Nothing has changed about a resource for longer than its work may take."""


class QuiesceFailed(AntipodeError):
    """A member could not be quiesced, or not be thawed; the message tells which members may still
    be frozen.
    """


class VaultError(AntipodeError):
    """The vault cannot be read or written."""


class VaultCorrupt(VaultError):
    """A manifest in the vault does not pass its checksum or cannot be understood."""


class RecoveryPointInvalid(AntipodeError):
    """A recovery point does not verify: backups missing, chain broken, checksum wrong."""


class Busy(AntipodeError):
    """Another run of the same VNF is under way."""

    exit_code = 6


class Stopped(AntipodeError):
    """A run must not go on.

    This is no failure of what it was just doing, and is not told as one.
    """


class ClaimLost(Stopped):
    """A run is not this process's any more, or cannot be known to be: nothing was changed after
    that, and what was frozen was thawed.

    The run itself has not ended: whoever holds it goes on with it.
    """

    exit_code = 7


class Aborted(Stopped):
    """A run was stopped because somebody asked for it, and what it made was taken back."""


class Halted(Stopped):
    """A run was stopped at a safe point, nothing taken back, to be gone on with later."""

    exit_code = 130


class Interrupted(AntipodeError):
    """A signal ended a run; what it had frozen was thawed."""

    exit_code = 130
