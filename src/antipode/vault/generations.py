# SPDX-License-Identifier: Apache-2.0
"""The generations of a VNF in its vaults: claimed by a failover, then active or released.

`<vnf>/generation-0000000002.claim` is written by a failover before it creates anything, and only
if there is none: of several failovers on several hosts, one continues. `….outcome` beside it
says how it ended. Both are signed, and count for nothing otherwise. Neither is ever changed or
removed, so that no number is used twice.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from antipode.errors import Busy, VaultCorrupt, VaultError
from antipode.model.state import (
    HIGHEST_GENERATION,
    Claim,
    Moment,
    Outcome,
    ProtectedVnf,
    VnfState,
)
from antipode.vault import Vault, reserve, statements
from antipode.vault.statements import AnyStatement, Kind

LOG = logging.getLogger(__name__)
AnyUnsigned = TypeVar("AnyUnsigned", bound=BaseModel)
Found = tuple[Claim, Outcome | None]
"""A claim, and how it ended if it did."""


class UnsignedOutcome(BaseModel):
    """An outcome as unreleased versions of antipode wrote it, unsigned."""

    run: str
    outcome: Literal["active", "released"]
    since: Moment


class GivenUp(NamedTuple):
    """The failovers whose claim another one may release."""

    failed: Collection[str] = ()
    """known to have failed: to the same site only, as one may have made a copy at its own"""
    lost: str | None = None
    """one whose host and database are gone, as the operator says: to any site"""


NONE_GIVEN_UP = GivenUp()


def present(vault: Vault, vnf: str, primary: str) -> ProtectedVnf:
    """Where a VNF is active now.

    Args:
        primary: its site in the VNF file, which is the active one until a failover has succeeded.

    Raises:
        VaultCorrupt: a claim cannot be understood, or two hosts have claimed the same generation.
        VaultError: the vault cannot be read.
    """
    return _state(_standing(vault, vnf), vnf, primary)


def active_generation(vault: Vault, vnf: str) -> int:
    """The generation of what runs now, whose recovery points are the newest there can be.

    Raises:
        VaultError: as `present`.
    """
    return present(vault, vnf, "unknown").generation


def claim(
    vault: Vault,
    expected: ProtectedVnf,
    to: str,
    run: str,
    instead_of: GivenUp = NONE_GIVEN_UP,
    *,
    undo_within_s: float | None = None,
) -> Claim:
    """Claim the next generation of a VNF for a failover. Again by the same run finds its claim.

    Args:
        expected: the state of the VNF that the failover was planned and confirmed for.
        to: the site at which the VNF will be active.
        run: the failover.
        instead_of: failovers whose claim this one may release.
        undo_within_s: for how many seconds after its success the failover can be undone.

    Raises:
        Busy: another failover has the claim, and the message names its host, run and site; or the
            VNF is not active where it was expected.
        VaultCorrupt: a claim cannot be understood.
        VaultError: it was not claimed everywhere, or that is unknown.
    """
    teach(vault, expected)
    # the number that is claimed follows the highest that the state was made of: a claim that
    # another host has made since then is in the way of it
    claims = list(_until_active(_claims(vault, expected.vnf, _numbers(vault, expected.vnf))))
    now = _state(_unreleased(claims), expected.vnf, expected.active_site)
    for mine, outcome in claims:
        if mine.run == run:
            if outcome is not None and outcome.outcome == "released":
                raise Busy(f"run {run} has lost its claim: it was released. {now}")
            if mine.site != to:
                raise Busy(f"{now}; the same run cannot go to {to}")
            _claim_everywhere(vault, mine)
            return mine
    if (now.active_site, now.generation) != (expected.active_site, expected.generation):
        raise Busy(f"{now}, and not at {expected.active_site} any more. Plan the failover again")
    if now.active_site == to:
        raise Busy(f"{now} already; fail over to another site")
    must_be_free(now, to, instead_of)
    generation = _next(vault, now.vnf, claims)
    if now.state is VnfState.FAILING_OVER and now.claim is not None:
        _write_claim(vault, now.claim)  # its run may have died before it was everywhere
        release(vault, now.claim)
    mine = Claim(
        vnf=now.vnf,
        generation=generation,
        site=to,
        former_site=now.active_site,
        run=run,
        host=socket.gethostname(),
        since=_now(),
        undo_within_s=undo_within_s,
    )
    _claim_everywhere(vault, mine)
    return mine


def must_be_free(state: ProtectedVnf, to: str, instead_of: GivenUp = NONE_GIVEN_UP) -> None:
    """See that no failover has claimed the next generation, except those that were given up.

    Args:
        to: the site at which the VNF will be active.

    Raises:
        Busy: one has; names its host, run and site.
    """
    claim = state.claim
    if state.state is not VnfState.FAILING_OVER or claim is None:
        return
    if claim.run == instead_of.lost:
        return
    if claim.run not in instead_of.failed:
        raise Busy(_lost_to(claim))
    if claim.site != to:
        raise Busy(
            f"VNF {claim.vnf} may be active at {claim.site} already, by {_holder(claim)}, which "
            f"has failed. Before a failover to {to}, run: antipode run abort {claim.run}"
        )


def confirm(vault: Vault, claim: Claim) -> None:
    """See that a claim still stands: before anything is created, and before it is completed.

    Raises:
        Busy: another failover has it, or it was released.
        VaultError: too few vaults answer that have it: others may have released it meanwhile.
    """
    standing = next(_standing(vault, claim.vnf), None)
    if standing is None:
        raise Busy(f"run {claim.run} has lost its claim to VNF {claim.vnf}")
    if standing[0].run != claim.run:
        raise Busy(_lost_to(standing[0]))
    released = {p for p, o in _outcomes(vault, claim) if _is_release(o)}
    name = _name(claim, "claim")
    own = {p for p, c in _read(vault, CLAIM, name) if c.run == claim.run}
    having = sorted(own - released)
    if not vault.decides(having, claim.former_site):
        raise VaultError(_too_few(having, claim, f"claim {name}"))


def complete(vault: Vault, claim: Claim) -> None:
    """The failover has succeeded: the VNF is active at its site. Safe to repeat.

    Raises:
        Busy: the claim was released meanwhile.
        VaultError: it was not noted everywhere, or that is unknown.
    """
    _end(vault, claim, "active")


def release(vault: Vault, claim: Claim) -> None:
    """The failover is aborted: the VNF is active where it was before. Safe to repeat.

    Raises:
        Busy: the failover has succeeded meanwhile.
        VaultError: it was not noted everywhere, or that is unknown.
    """
    _end(vault, claim, "released")


def claim_of(vault: Vault, vnf: str, run: str) -> Found | None:
    """The claim of a run that was not released, and how it ended if it did.

    Raises:
        VaultError: as `present`.
    """
    return next((found for found in _standing(vault, vnf) if found[0].run == run), None)


def history(vault: Vault, vnf: str) -> list[Found]:
    """Every claim and how it ended, those that were released included; the highest generation
    first.

    Raises:
        VaultError: as `present`.
    """
    return list(_claims(vault, vnf, _numbers(vault, vnf)))


def must_be_decided(vault: Vault, state: ProtectedVnf) -> None:
    """See that no vault that is silent can know of a later generation than this state, which was
    just read: a failover from the active site would have needed one of those that answer.

    Raises:
        VaultError: one can.
    """
    having = _places(vault.copies())
    if not vault.decides(having, state.active_site):
        raise VaultError(
            f"{state}, as far as the vaults that answer know ({', '.join(having) or 'none'}); too"
            " few of them answer to be sure that it is not active elsewhere by now. Wait for the"
            " others; or name each that is lost for good with --lost-vault"
        )


def has_succeeded(vault: Vault, vnf: str, run: str) -> bool:
    """Whether the vaults have it that a failover has succeeded.

    Raises:
        VaultError: as `present`; or too few have it, so that others may have it as released.
    """
    if (found := claim_of(vault, vnf, run)) is None:
        return False
    former, outcomes = found[0].former_site, _outcomes(vault, found[0])
    having = [p for p, o in outcomes if o.claim.run == run and not _is_release(o)]
    if not having:
        return False
    if vault.decides(having, former):
        return True
    others = [place for place in _places(vault.copies()) if place not in having]
    if found[1] is None and vault.decides(others, former):
        return False  # some have it as released, and the silent ones cannot decide otherwise
    raise VaultError(_too_few(having, found[0], f"outcome {_name(found[0], 'outcome')}"))


def spread(vault: Vault, vnf: str) -> None:
    """Write to each vault what others know of the generations and it does not, as it could not be
    reached at that time. Damaged and undecided documents are not spread.

    Raises:
        VaultError: not all was written.
    """
    for there, name, document in lacking(vault, vnf):
        try:
            reserve.write(there, partial(there.create, name, document))
        except VaultError as error:
            vault.leave_out(there, error)


def lacking(vault: Vault, vnf: str) -> Iterator[tuple[Vault, str, bytes]]:
    """What `spread` writes: the vault, the document's name and the document; claims before their
    outcomes.

    Raises:
        VaultError: a vault that is needed cannot be read.
    """
    copies = vault.copies()
    if len(copies) == 1:
        return
    known: dict[Vault, set[str]] = {}
    for there in copies:
        try:
            known[there] = set(there.list(prefix(vnf)))
        except VaultError as error:
            vault.leave_out(there, error)
    all_names = {statements.base_of(n) for names in known.values() for n in names}
    for name in sorted(all_names):
        if (match := _DOCUMENT.fullmatch(name.removeprefix(prefix(vnf)))) is None:
            continue
        having = set(_places_of(vault, name, match[2]))
        without = [there for there in known if there.place not in having]
        if without and (document := to_spread(vault, vnf, name)) is not None:
            for there in without:
                yield there, statements.free_name(name, known[there].__contains__), document


def teach(vault: Vault, known: ProtectedVnf) -> None:
    """Write the failover that has made a known state to vaults that lack it: those that have it may
    have failed with the site, or have been replaced by empty ones, or by older copies.

    Raises:
        Busy: the vaults have another failover of that generation, or have it as aborted.
        VaultError: it was not written everywhere, or that is unknown.
    """
    if known.state is not VnfState.ACTIVE or (claim := known.claim) is None:
        return
    found = _found(vault, known.vnf, known.generation)
    if found is None or found[1] is None:
        # it was decided when it was made, by vaults that may be others than these
        written, theirs = _write_claim(vault, claim)
        if theirs:
            _take_out(written)
            raise Busy(_lost_to(theirs[0]))
        _write_outcome(vault, claim, "active", known.since)


def to_spread(vault: Vault, vnf: str, name: str) -> bytes | None:
    """A claim or an outcome as it is written to the vaults that lack it; None if none counts, or
    it is a claim that its run may not have, or an outcome that is not decided.
    """
    base = statements.base_of(name)
    if (match := _DOCUMENT.fullmatch(base.removeprefix(prefix(vnf)))) is None:
        return None
    number, part = match.groups()
    try:
        if (found := _found(vault, vnf, int(number))) is None:
            return None
    except VaultCorrupt as error:
        LOG.warning("not written to the other vaults: %s", error)
        return None
    claim, outcome = found
    if part == "outcome":
        if outcome is None:
            return None
        return statements.document_of(vault, vault.keys, OUTCOME, outcome)
    own = [p for p, c in _read(vault, CLAIM, base) if c.run == claim.run]
    if outcome is None and not vault.decides(own, claim.former_site):
        return None
    return statements.document_of(vault, vault.keys, CLAIM, claim)


def refused(vault: Vault, vnf: str) -> Iterator[tuple[str, str, str]]:
    """Documents in the vaults that have the names of claims and outcomes and do not count: the
    vault's place, the name, and why.

    Raises:
        KeyMissing: there is a signed one, and this host has no key at all to judge it by.
        VaultError: a vault cannot be read.
    """
    for name in vault.list(prefix(vnf)):
        match = _DOCUMENT.fullmatch(statements.base_of(name).removeprefix(prefix(vnf)))
        if match is None:
            continue
        for place, document in vault.versions(name):
            if why := _why_refused(vault, match[2], name, document):
                yield place, name, why


def _why_refused(vault: Vault, part: str, name: str, document: bytes) -> str | None:
    try:
        if part == "claim":
            statements.opened(vault.keys, CLAIM, name, document)
        else:
            statements.opened(vault.keys, OUTCOME, name, document)
    except VaultCorrupt as error:
        return str(error)
    return None


def adopt(vault: Vault, vnf: str) -> list[str]:
    """Sign the claims and outcomes that an unreleased antipode has left unsigned, as the operator
    says that they are true; the names of those that count from now on.

    Raises:
        Busy: a signed one contradicts it.
        KeyMissing, KeyUnusable: there is no key to sign with.
        VaultCorrupt: vaults contradict each other.
        VaultError: it was not written everywhere.
    """
    adopted: list[str] = []
    for generation in _numbers(vault, vnf)[1:]:
        name = f"{prefix(vnf)}{generation:010d}"
        if _read(vault, OUTCOME, f"{name}.outcome"):
            continue
        signed = _read(vault, CLAIM, f"{name}.claim")
        unsigned = [c for c in _unsigned(vault, f"{name}.claim", Claim) if _is_named(c, name)]
        claims = [claim for _, claim in signed] or unsigned
        outcomes = _unsigned(vault, f"{name}.outcome", UnsignedOutcome) if claims else []
        said = {(c.run, None) for c in claims} | {(o.run, o.outcome) for o in outcomes}
        if len({run for run, _ in said}) > 1 or len({o.outcome for o in outcomes}) > 1:
            raise VaultCorrupt(
                f"{name}: what is not signed contradicts itself. See which copy of {vnf} serves,"
                " and remove the documents that are wrong"
            )
        if unsigned and not signed:
            _, theirs = _write_claim(vault, claims[0])
            if theirs:
                raise Busy(_lost_to(theirs[0]))
            adopted.append(f"{name}.claim")
        for outcome in outcomes[:1]:
            _write_outcome(vault, claims[0], outcome.outcome, outcome.since)
            adopted.append(f"{name}.outcome")
    return adopted


def _is_named(claim: Claim, name: str) -> bool:
    return _name(claim, "claim") == f"{name}.claim"


def contradictions(vault: Vault, vnf: str) -> Iterator[tuple[str, str, str]]:
    """The outcomes that vaults have otherwise than those that decide: the place of each vault, the
    document's name and the outcome. Where too few agree, each of them.

    Raises:
        VaultError: as `present`.
    """
    for claim, outcome in _claims(vault, vnf, _numbers(vault, vnf)):
        name = _name(claim, "outcome")
        for place, found in _outcomes(vault, claim):
            if outcome is None or found.outcome != outcome.outcome:
                yield place, name, found.outcome


def _state(standing: Iterable[Found], vnf: str, primary: str) -> ProtectedVnf:
    """The state of a VNF whose claims are these, the highest generation first."""
    pending: Claim | None = None
    site, generation, since, made_by = primary, 1, None, None
    for claim, outcome in standing:
        if outcome is None:
            pending = pending or claim
        else:
            site, generation, since, made_by = claim.site, claim.generation, outcome.since, claim
            break
    return ProtectedVnf(
        vnf=vnf,
        active_site=site,
        generation=generation,
        state=VnfState.FAILING_OVER if pending else VnfState.ACTIVE,
        since=pending.since if pending else since,
        claim=pending or made_by,
    )


def _claim_everywhere(vault: Vault, mine: Claim) -> None:
    """Write a claim to every vault that answers; to none where it is decided for another run.

    A run has its claim when the vaults that have it decide, apart from those at the site that the
    VNF leaves: of two runs that reach different vaults at most one has it.

    Raises:
        Busy: another run has it, or none has while both try.
        VaultError: too few vaults answer.
    """
    written, theirs = _write_claim(vault, mine)
    if vault.decides(_places(written), mine.former_site):
        for other in theirs:
            LOG.warning("the claim of %s comes to nothing: run %s has it", _holder(other), mine.run)
        return
    _take_out(written)
    if theirs:
        raise Busy(_lost_to(theirs[0]))
    raise VaultError(_too_few(_places(written), mine, f"claim {_name(mine, 'claim')}"))


def _write_claim(vault: Vault, mine: Claim) -> tuple[dict[Vault, str | None], list[Claim]]:
    """Write a claim to every vault that answers, until others have so many that it is in vain.

    Returns:
        the vaults that have it, each with the name under which this call has written it, if it
        has; and the claims of other runs that were in its way.
    """
    written: dict[Vault, str | None] = {}
    theirs: list[Claim] = []
    copies = list(vault.copies())
    for number, there in enumerate(copies):
        try:
            created = statements.create(there, vault.keys, CLAIM, mine)
        except VaultError as error:
            vault.leave_out(there, error)
            continue
        if created.statement.run == mine.run:
            written[there] = created.name if created.is_new else None
            continue
        theirs.append(created.statement)
        if not vault.decides(_places([*written, *copies[number + 1 :]]), mine.former_site):
            break
    return written, theirs


def _take_out(written: Mapping[Vault, str | None]) -> None:
    """Remove a claim from the vaults that it was just written to: nothing was built on it yet, and
    that of another run is to be there.
    """
    for there, name in written.items():
        if name is not None:
            there.delete(name)


def _end(vault: Vault, claim: Claim, outcome: Literal["active", "released"]) -> None:
    """Note how a claim has ended in every vault that answers.

    Raises:
        Busy: it has ended otherwise.
        VaultError: too few vaults answer.
    """
    noted = _write_outcome(vault, claim, outcome, None)
    if not vault.decides(_places(noted), claim.former_site):
        raise VaultError(_too_few(_places(noted), claim, f"outcome {_name(claim, 'outcome')}"))


def _write_outcome(
    vault: Vault, claim: Claim, outcome: Literal["active", "released"], since: str | None
) -> list[Vault]:
    """Write how a claim has ended to every vault that answers, until others have so many that it is
    in vain; those that have it.

    Raises:
        Busy: it has ended otherwise.
    """
    wanted = Outcome(claim=claim, outcome=outcome, since=since or _now())
    noted: list[Vault] = []
    other: Outcome | None = None
    copies = list(vault.copies())
    for number, there in enumerate(copies):
        try:
            found = statements.create(there, vault.keys, OUTCOME, wanted).statement
        except VaultError as error:
            vault.leave_out(there, error)
            continue
        if (found.claim.run, found.outcome) == (claim.run, outcome):
            noted.append(there)
            wanted = found  # all vaults have the same moment
            continue
        other = found
        if not vault.decides(_places([*noted, *copies[number + 1 :]]), claim.former_site):
            break
    if other is not None and not vault.decides(_places(noted), claim.former_site):
        raise Busy(
            f"run {claim.run} has lost its claim to VNF {claim.vnf}: generation "
            f"{claim.generation} is {other.outcome} since {other.since}"
        )
    return noted


def _places(vaults: Iterable[Vault]) -> list[str]:
    return [vault.place for vault in vaults]


def _is_release(outcome: Outcome) -> bool:
    return outcome.outcome == "released"


def _too_few(having: Collection[str], claim: Claim, what: str) -> str:
    places = ", ".join(having) or "none"
    return (
        f"VNF {claim.vnf}: too few vaults answer for its {what} to count (it is in: {places}). "
        "Wait for the others; or name each that is lost for good with --lost-vault, once no other "
        f"host can be failing over {claim.vnf}"
    )


def _standing(vault: Vault, vnf: str) -> Iterator[Found]:
    return _unreleased(_claims(vault, vnf, _numbers(vault, vnf)))


def _unreleased(claims: Iterable[Found]) -> Iterator[Found]:
    return (
        (claim, outcome)
        for claim, outcome in claims
        if outcome is None or outcome.outcome == "active"
    )


def _until_active(claims: Iterable[Found]) -> Iterator[Found]:
    """The claims down to the one that has made the active site what it is."""
    for claim, outcome in claims:
        yield claim, outcome
        if outcome is not None and outcome.outcome == "active":
            return


def _claims(vault: Vault, vnf: str, numbers: Collection[int]) -> Iterator[Found]:
    """Every claim and how it ended, the highest generation first.

    Below each number that is there the next is asked for by name, as a listing may lag behind; a
    gap, which no failover leaves, is passed over in one step.

    Raises:
        VaultCorrupt: two vaults contradict each other.
    """
    generation = max(numbers)
    while generation > 1:
        if (found := _found(vault, vnf, generation)) is not None:
            yield found
            generation -= 1
        else:
            generation = max((n for n in numbers if n < generation), default=1)


def _found(vault: Vault, vnf: str, generation: int) -> Found | None:
    """The claim of a generation and how it ended, if it was claimed.

    Raises:
        VaultCorrupt: as `_claims`.
    """
    name = f"{prefix(vnf)}{generation:010d}"
    outcomes = _read(vault, OUTCOME, f"{name}.outcome")
    # an outcome proves the claim whose it is, where that one is damaged or gone
    proven = [(place, outcome.claim) for place, outcome in outcomes]
    claims = _decided(vault, [*_read(vault, CLAIM, f"{name}.claim"), *proven], outcomes)
    if not claims:
        return None
    return claims[0][1], _decided_outcome(vault, claims[0][1], outcomes)


def _decided_outcome(
    vault: Vault, claim: Claim, outcomes: list[tuple[str, Outcome]]
) -> Outcome | None:
    """How a claim ended. Where vaults that were apart contradict each other, those that decide are
    right; where neither side does, the claim has not ended: nothing is protected, and its run ends
    it once more vaults answer.
    """
    sides: dict[str, list[tuple[str, Outcome]]] = {}
    for place, outcome in outcomes:
        sides.setdefault(outcome.outcome, []).append((place, outcome))
    if len(sides) < 2:
        return outcomes[0][1] if outcomes else None
    places = {name: [place for place, _ in side] for name, side in sides.items()}
    decided = [n for n, having in places.items() if vault.decides(having, claim.former_site)]
    LOG.warning(
        "%s is %s. %s",
        _name(claim, "outcome"),
        ", and ".join(f"{name} in {', '.join(having)}" for name, having in places.items()),
        f"It is {decided[0]}; remove the other"
        if decided
        else f"Too few agree: until others answer, run {claim.run} counts as not ended",
    )
    return sides[decided[0]][0][1] if decided else None


def _decided(
    vault: Vault, claims: list[tuple[str, Claim]], outcomes: list[tuple[str, Outcome]]
) -> list[tuple[str, Claim]]:
    """The claims of one generation without those of runs that came too late: a run that stopped
    before it knew may have left its claim in too few vaults.

    Raises:
        VaultCorrupt: of several runs none has it for certain.
    """
    of_run: dict[str, list[tuple[str, Claim]]] = {}
    for place, claim in claims:
        of_run.setdefault(claim.run, []).append((place, claim))
    if len(of_run) < 2:
        return claims
    for run, own in of_run.items():
        places = [place for place, _ in own]
        ended = all(o.claim.run == run for _, o in outcomes)
        if ended and vault.decides(places, own[0][1].former_site):
            return own
    (one_place, one), (place, other) = (own[0] for own in list(of_run.values())[:2])
    raise VaultCorrupt(
        f"generation {one.generation} of VNF {one.vnf} was claimed twice: by "
        f"{_holder(one)} ({one_place}), and by {_holder(other)} ({place})."
        f" See which copy serves, stop the other, and remove its {_name(other, 'claim')}"
    )


def _numbers(vault: Vault, vnf: str) -> list[int]:
    """The generations that are there, in rising order; the first needs no claim. A listing of Swift
    may lag behind: where it has a gap or an end, the next one is asked for by name. The gap is what
    a forged claim of a high number makes, or a listing that lags.
    """
    listed = [_NUMBER.match(name) for name in vault.list(prefix(vnf))]
    numbers = {1, *(int(match[1]) for match in listed if match)}
    for last in sorted(n for n in numbers if n + 1 not in numbers):
        while vault.versions(f"{prefix(vnf)}{last + 1:010d}.claim"):
            last += 1
            numbers.add(last)
    return sorted(numbers)


def _next(vault: Vault, vnf: str, claims: Collection[Found]) -> int:
    """The generation after these, which begin with the highest.

    Raises:
        VaultCorrupt: there is none, as the numbers are used up.
    """
    highest = next((claim.generation for claim, _ in claims), 1)
    if highest >= HIGHEST_GENERATION:
        raise VaultCorrupt(
            f"{vault.place}: {prefix(vnf)}{highest:010d}.claim has the highest number that there "
            "is, which no failover has reached. Remove it and its outcome"
        )
    return highest + 1


def _read(vault: Vault, kind: Kind[AnyStatement], name: str) -> list[tuple[str, AnyStatement]]:
    return statements.read(vault, vault.keys, kind, name)


def _places_of(vault: Vault, name: str, part: str) -> list[str]:
    """Where a claim or an outcome is."""
    if part == "claim":
        return [place for place, _ in _read(vault, CLAIM, name)]
    return [place for place, _ in _read(vault, OUTCOME, name)]


def _outcomes(vault: Vault, claim: Claim) -> list[tuple[str, Outcome]]:
    return _read(vault, OUTCOME, _name(claim, "outcome"))


def _unsigned(vault: Vault, name: str, kind: type[AnyUnsigned]) -> list[AnyUnsigned]:
    """The documents of unreleased versions of antipode under a name, in any vault."""
    found: list[AnyUnsigned] = []
    for place, document in vault.versions(name):
        try:
            found.append(kind.model_validate_json(document[: statements.LARGEST_BYTES]))
        except ValidationError as error:
            LOG.info("%s: %s is no unsigned statement: %s", place, name, error.title)
    return found


def _lost_to(claim: Claim) -> str:
    return (
        f"VNF {claim.vnf} is failing over by {_holder(claim)}. Wait for that, or resume or abort "
        f"it there; if that host is lost with its database: --instead-of {claim.run}"
    )


def _holder(claim: Claim) -> str:
    return f"run {claim.run} on host {claim.host}, to {claim.site}, since {claim.since}"


def _name(claim: Claim, part: str) -> str:
    return f"{prefix(claim.vnf)}{claim.generation:010d}.{part}"


def prefix(vnf: str) -> str:
    """What the names of all claims and outcomes of a VNF begin with."""
    return f"{vnf}/generation-"


CLAIM = Kind(Claim, "application/vnd.antipode.claim+json", lambda c: _name(c, "claim"))
OUTCOME = Kind(
    Outcome, "application/vnd.antipode.outcome+json", lambda o: _name(o.claim, "outcome")
)
_DOCUMENT = re.compile(r"(\d{10})\.(claim|outcome)", re.ASCII)
_NUMBER = re.compile(r".*/generation-(\d{10})\.(?:claim|outcome)(?:\.\d+)?$", re.DOTALL)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
