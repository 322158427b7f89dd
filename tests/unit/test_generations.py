# SPDX-License-Identifier: Apache-2.0
"""Where a VNF is active: of several failovers that claim its next generation, one has it."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from antipode.errors import Busy, SiteUnreachable, VaultCorrupt, VaultError
from antipode.model.state import HIGHEST_GENERATION, Claim, Outcome, ProtectedVnf, VnfState
from antipode.vault import Vault, Version, ensemble, generations, points, statements
from antipode.vault.directory import DirectoryVault
from antipode.vault.ensemble import Vaults
from antipode.vault.generations import GivenUp
from antipode.vault.statements import Kind
from antipode.vault.swift import SwiftVault
from tests.unit import storages

HOSTS = 4
CLAIM = "hlr/generation-0000000002.claim"
MOMENT = "2026-11-22T16:05:01+00:00"
OUTCOME = "hlr/generation-0000000002.outcome"


@pytest.fixture(params=["directory", "swift"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    if request.param == "directory":
        return DirectoryVault(tmp_path)
    objects: Any = storages.MemoryObjects()
    return SwiftVault(objects, "c", "site-b")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[DirectoryVault, DirectoryVault]]:
    for name in ("b", "third"):
        (tmp_path / name).mkdir()
    yield DirectoryVault(tmp_path / "b"), DirectoryVault(tmp_path / "third")


def both(pair: tuple[Vault, Vault], *, all_needed: bool = False) -> Vaults:
    b, third = pair
    return Vaults({"b": lambda: b, "third": lambda: third}, all_needed=all_needed)


def now(vault: Vault) -> ProtectedVnf:
    return generations.present(vault, "hlr", "site-a")


def claimed(vault: Vault, run: str = "failover-1", to: str = "site-b", **more: Any) -> Claim:
    return generations.claim(vault, now(vault), to, run, **more)


def dead() -> Vault:
    raise SiteUnreachable("site-a does not answer")


def test_a_vnf_that_never_failed_over_is_active_at_its_primary(vault: Vault) -> None:
    state = now(vault)
    assert (state.active_site, state.generation, state.state) == ("site-a", 1, VnfState.ACTIVE)
    assert state.since is None


def test_a_claim_is_not_yet_a_change_of_the_active_site_and_its_completion_is(vault: Vault) -> None:
    mine = claimed(vault)
    under_way = now(vault)
    assert (under_way.active_site, under_way.generation) == ("site-a", 1)
    assert (under_way.state, under_way.claim) == (VnfState.FAILING_OVER, mine)
    generations.complete(vault, mine)
    after = now(vault)
    assert (after.active_site, after.generation, after.state) == ("site-b", 2, VnfState.ACTIVE)
    assert after.since is not None


def test_a_released_claim_gives_the_vnf_back_and_its_number_is_never_used_again(
    vault: Vault,
) -> None:
    generations.release(vault, claimed(vault))
    back = now(vault)
    assert (back.active_site, back.generation, back.state) == ("site-a", 1, VnfState.ACTIVE)
    again = claimed(vault, "failover-2")
    assert again.generation == 3
    generations.complete(vault, again)
    assert now(vault).generation == 3


def test_a_vnf_fails_over_and_back(vault: Vault) -> None:
    generations.complete(vault, claimed(vault))
    generations.complete(vault, claimed(vault, "failover-2", "site-a"))
    assert (now(vault).active_site, now(vault).generation) == ("site-a", 3)


def test_the_loser_learns_who_has_the_claim(vault: Vault) -> None:
    expected, mine = now(vault), claimed(vault)
    with pytest.raises(Busy) as caught:
        generations.claim(vault, expected, "site-c", "failover-2")
    for part in (mine.host, mine.run, mine.site, mine.since):
        assert part in str(caught.value)


@pytest.mark.parametrize("killed", ["before its note", "after it"])
def test_a_resumed_run_finds_its_own_claim(vault: Vault, killed: str) -> None:
    expected, mine = now(vault), claimed(vault)
    resumed = expected if killed == "before its note" else now(vault)
    assert generations.claim(vault, resumed, "site-b", mine.run) == mine
    generations.confirm(vault, mine)
    generations.complete(vault, mine)
    generations.complete(vault, mine)


def test_a_claim_for_a_state_that_has_passed_is_refused(vault: Vault) -> None:
    expected = now(vault)
    generations.complete(vault, claimed(vault, "failover-1", "site-c"))
    with pytest.raises(Busy):
        generations.claim(vault, expected, "site-b", "failover-2")
    assert now(vault).claim is not None
    assert now(vault).active_site == "site-c"


def test_a_vnf_does_not_fail_over_to_where_it_is(vault: Vault) -> None:
    with pytest.raises(Busy):
        claimed(vault, to="site-a")


def test_a_run_that_was_given_up_loses_its_claim_to_the_next(vault: Vault) -> None:
    given_up = claimed(vault)
    mine = claimed(vault, "failover-2", instead_of=GivenUp(["failover-1"]))
    assert mine.generation == 3
    with pytest.raises(Busy):
        generations.confirm(vault, given_up)
    with pytest.raises(Busy):
        generations.complete(vault, given_up)
    with pytest.raises(Busy):
        claimed(vault, "failover-1")
    generations.release(vault, mine)
    assert now(vault).active_site == "site-a"


def test_a_run_that_was_given_up_at_another_site_keeps_its_claim(vault: Vault) -> None:
    standing = claimed(vault, to="site-c")
    with pytest.raises(Busy, match=standing.run):
        claimed(vault, "failover-2", instead_of=GivenUp([standing.run]))
    assert now(vault).claim == standing


def test_a_failover_that_has_succeeded_is_not_released(vault: Vault) -> None:
    mine = claimed(vault)
    generations.complete(vault, mine)
    with pytest.raises(Busy):
        generations.release(vault, mine)
    assert now(vault).active_site == "site-b"


def test_claims_are_no_recovery_points(vault: Vault) -> None:
    generations.complete(vault, claimed(vault))
    assert points.list_ids(vault, "hlr") == []


def test_a_claim_that_the_listing_does_not_have_yet_is_found(vault: Vault) -> None:
    generations.complete(vault, claimed(vault))
    vault.list = lambda prefix: []  # type: ignore[method-assign]
    assert now(vault).generation == 2


def put(vault: Vault, kind: Kind[Any], statement: Any, name: str | None = None) -> None:
    """Write a signed statement, under its own name by default."""
    document = statements.sealed(vault.keys, kind, statement)
    vault.put(name or kind.name_of(statement), document)


def lone(vault: Vault, generation: int, outcome: str) -> None:
    """A generation far above all others, as no failover leaves it."""
    written = Claim(
        vnf="hlr",
        generation=generation,
        site="site-b",
        former_site="site-a",
        run="far",
        host="h",
        since=MOMENT,
    )
    ended = Outcome.model_validate({"claim": written, "outcome": outcome, "since": MOMENT})
    put(vault, generations.CLAIM, written)
    put(vault, generations.OUTCOME, ended)


def few(vault: Vault, most: int = 50) -> None:
    """No more documents than that are read."""
    versions, asked = vault.versions, itertools.count(1)

    def counted(name: str) -> Sequence[Version]:
        assert next(asked) <= most
        return versions(name)

    vault.versions = counted  # type: ignore[method-assign]


def test_numbers_that_were_never_claimed_are_not_read(vault: Vault) -> None:
    generations.complete(vault, claimed(vault))
    lone(vault, 1_000_000, "released")
    few(vault)
    assert (now(vault).active_site, now(vault).generation) == ("site-b", 2)
    assert claimed(vault, "failover-2", "site-a").generation == 1_000_001


@pytest.mark.parametrize("outcome", ["active", "released"])
def test_the_highest_number_of_all_is_followed_by_none(vault: Vault, outcome: str) -> None:
    lone(vault, HIGHEST_GENERATION, outcome)
    few(vault)
    with pytest.raises(VaultCorrupt, match=f"{HIGHEST_GENERATION}.claim"):
        claimed(vault, to="site-c")


def test_a_claim_reads_no_further_than_the_active_generation(vault: Vault) -> None:
    generations.complete(vault, claimed(vault))
    generations.complete(vault, claimed(vault, "failover-2", "site-a"))
    vault.put(OUTCOME, b"")
    assert claimed(vault, "failover-3").generation == 4


def test_a_gap_that_a_listing_shows_is_filled_by_name(vault: Vault) -> None:
    generations.complete(vault, claimed(vault))
    generations.release(vault, claimed(vault, "failover-2", "site-a"))
    listed = vault.list

    def lagging(prefix: str) -> list[str]:
        return [name for name in listed(prefix) if name != CLAIM]

    vault.list = lagging  # type: ignore[method-assign]
    assert (now(vault).active_site, now(vault).generation) == ("site-b", 2)


def claim_as_host(folder: str, vnf: str, number: int) -> str:
    """What a host's claim came to: its own run, or nothing."""
    vault = DirectoryVault(Path(folder))
    expected = ProtectedVnf(vnf=vnf, active_site="site-a", generation=1)
    try:
        return generations.claim(vault, expected, "site-b", f"failover-{number}").run
    except Busy:
        return ""


def test_of_hosts_that_claim_at_once_exactly_one_has_it(tmp_path: Path) -> None:
    vnfs = [f"vnf-{n}" for n in range(20)]
    with ProcessPoolExecutor(HOSTS, multiprocessing.get_context("spawn")) as hosts:
        asked = {
            vnf: [hosts.submit(claim_as_host, str(tmp_path), vnf, n) for n in range(HOSTS)]
            for vnf in vnfs
        }
        for vnf, futures in asked.items():
            won = [run for future in futures if (run := future.result(timeout=300))]
            standing = generations.present(DirectoryVault(tmp_path), vnf, "site-a").claim
            assert standing is not None
            assert won == [standing.run]


def test_of_hosts_that_share_two_vaults_exactly_one_has_the_claim_in_both(
    pair: tuple[DirectoryVault, DirectoryVault],
) -> None:
    for number in range(20):
        vnf = f"vnf-{number}"
        expected = ProtectedVnf(vnf=vnf, active_site="site-a", generation=1)

        def attempt(host: int, expected: ProtectedVnf = expected) -> str | None:
            try:
                return generations.claim(both(pair), expected, "site-b", f"failover-{host}").run
            except Busy:
                return None

        with ThreadPoolExecutor(HOSTS) as hosts:
            won = [run for run in hosts.map(attempt, range(HOSTS)) if run]
        assert len(won) == 1
        for vault in pair:
            standing = generations.present(vault, vnf, "site-a").claim
            assert standing is not None
            assert standing.run == won[0]


def test_a_claim_over_which_swift_has_written_another_does_not_stand() -> None:
    storage: Any = storages.MemoryObjects()
    one, other = SwiftVault(storage, "c", "b"), SwiftVault(storage, "c", "b")
    expected = now(one)
    claims: list[Claim] = []

    def meanwhile() -> None:
        storage.between = lambda: None
        claims.append(generations.claim(other, expected, "site-b", "failover-2"))

    storage.between = meanwhile
    claims.append(generations.claim(one, expected, "site-b", "failover-1"))
    overwritten, standing = claims
    generations.confirm(one, standing)
    with pytest.raises(Busy):
        generations.confirm(other, overwritten)


def test_a_host_that_reaches_one_vault_only_loses_to_one_that_was_first_there(
    pair: tuple[DirectoryVault, DirectoryVault],
) -> None:
    expected = now(both(pair))
    b, third = pair
    # another host, which does not reach the vault b
    theirs = generations.claim(third, expected, "site-c", "failover-2")
    with pytest.raises(Busy):
        generations.claim(both(pair), expected, "site-b", "failover-1")
    assert now(b).state is VnfState.ACTIVE
    assert now(both(pair)).claim == theirs


def test_a_claim_that_was_written_to_one_vault_is_completed_in_both(
    pair: tuple[DirectoryVault, DirectoryVault],
) -> None:
    b, third = pair
    expected = now(both(pair))
    mine = generations.claim(b, expected, "site-b", "failover-1")  # killed then
    assert generations.claim(both(pair), expected, "site-b", "failover-1") == mine
    assert now(third).claim == mine


def test_a_dead_vault_holds_up_no_other_and_learns_of_the_failover_later(
    pair: tuple[DirectoryVault, DirectoryVault],
) -> None:
    b, third = pair
    without = Vaults({"b": lambda: b, "third": dead}, all_needed=False)
    generations.complete(without, claimed(without))
    assert now(third).active_site == "site-a"
    assert now(both(pair)).active_site == "site-b"
    generations.spread(both(pair, all_needed=True), "hlr")
    assert now(third) == now(b)


@pytest.mark.parametrize("to", ["site-b", "site-c"])
def test_a_claim_that_the_operator_gives_up_is_released_for_any_site(vault: Vault, to: str) -> None:
    lost = claimed(vault, "failover-1", "site-b")
    expected = now(vault)
    with pytest.raises(Busy):
        generations.claim(vault, expected, to, "failover-2", GivenUp(lost="failover-x"))
    mine = generations.claim(vault, expected, to, "failover-2", GivenUp(lost=lost.run))
    assert (mine.generation, now(vault).claim) == (lost.generation + 1, mine)
    for late in (generations.confirm, generations.complete):
        with pytest.raises(Busy):
            late(vault, lost)
    generations.complete(vault, mine)
    assert (now(vault).active_site, now(vault).generation) == (to, mine.generation)


def test_a_process_that_dies_between_the_release_of_a_lost_claim_and_its_own_is_resumed(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, expected = claimed(vault, "failover-1", "site-c"), now(vault)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(generations, "_claim_everywhere", die)
        generations.claim(vault, expected, "site-b", "failover-2", GivenUp(lost=lost.run))
    mine = generations.claim(vault, expected, "site-b", "failover-2", GivenUp(lost=lost.run))
    assert now(vault).claim == mine


def test_a_claim_that_succeeds_before_it_is_given_up_stands(vault: Vault) -> None:
    lost = claimed(vault, "failover-1", "site-b")
    expected = now(vault)
    generations.complete(vault, lost)
    with pytest.raises(Busy):
        generations.claim(vault, expected, "site-c", "failover-2", GivenUp(lost=lost.run))
    assert now(vault).active_site == "site-b"


def test_two_copies_of_one_generation_are_reported(
    pair: tuple[DirectoryVault, DirectoryVault],
) -> None:
    for number, vault in enumerate(pair):
        generations.complete(vault, claimed(vault, f"failover-{number}"))
    with pytest.raises(VaultCorrupt, match=r"failover-0.*failover-1"):
        now(both(pair))


@pytest.mark.parametrize("name", [CLAIM, OUTCOME])
@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("document", [b"{", b"{}", b""])
def test_a_document_that_is_damaged_in_one_vault_is_read_from_the_other(
    pair: tuple[DirectoryVault, DirectoryVault],
    caplog: pytest.LogCaptureFixture,
    name: str,
    copy: int,
    document: bytes,
) -> None:
    mine = claimed(both(pair))
    generations.complete(both(pair), mine)
    before = now(both(pair))
    pair[copy].put(name, document)
    assert now(both(pair, all_needed=True)) == before
    assert any(name in r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    back = claimed(both(pair), "failover-2", "site-a")
    generations.complete(both(pair), back)
    assert now(pair[1 - copy]).generation == 3


def test_a_claim_under_the_name_of_another_is_passed_over_where_a_vault_has_the_right_one(
    pair: tuple[DirectoryVault, DirectoryVault],
) -> None:
    mine = claimed(both(pair))
    other = mine.model_copy(update={"generation": 7})
    pair[0].put(CLAIM, other.model_dump_json().encode())
    assert now(both(pair)).claim == mine


@pytest.mark.parametrize("name", [CLAIM, OUTCOME])
def test_a_failover_goes_on_past_a_damaged_copy_of_its_own_documents(
    pair: tuple[DirectoryVault, DirectoryVault], name: str
) -> None:
    expected, mine = now(both(pair)), claimed(both(pair))
    generations.complete(both(pair), mine)  # killed then, and resumed
    pair[1].put(name, b"{")
    assert generations.claim(both(pair), expected, "site-b", mine.run) == mine
    generations.complete(both(pair), mine)
    assert now(both(pair)).generation == 2


@pytest.mark.parametrize("name", [CLAIM, OUTCOME])
def test_a_resumed_failover_writes_what_was_damaged_again(
    pair: tuple[DirectoryVault, DirectoryVault], name: str
) -> None:
    expected, mine = now(both(pair)), claimed(both(pair))
    generations.complete(both(pair), mine)  # killed then, and resumed
    pair[0].put(name, b"{")  # which breaks ties
    assert generations.claim(both(pair), expected, "site-b", mine.run) == mine
    generations.complete(both(pair), mine)
    alone = Vaults({"b": lambda: pair[0]}, all_needed=False)
    assert now(alone).claim == mine
    assert now(alone).state is VnfState.ACTIVE


def test_a_damaged_document_is_not_spread_and_the_vault_that_has_it_gets_the_right_one(
    pair: tuple[DirectoryVault, DirectoryVault], tmp_path: Path
) -> None:
    generations.complete(both(pair), claimed(both(pair)))
    pair[0].put(OUTCOME, b"{")
    (tmp_path / "x").mkdir()
    x = DirectoryVault(tmp_path / "x")
    members = {"x": lambda: x, "b": lambda: pair[0], "third": lambda: pair[1]}
    three = Vaults(members, all_needed=True)
    generations.spread(three, "hlr")
    assert now(x) == now(pair[1]) == now(pair[0])
    assert list(generations.lacking(three, "hlr")) == []


def test_what_must_be_known_by_all_vaults_is_not_known_without_one(
    pair: tuple[DirectoryVault, DirectoryVault],
) -> None:
    b, _ = pair
    with pytest.raises((VaultError, SiteUnreachable)):
        now(Vaults({"b": lambda: b, "third": dead}, all_needed=True))


def test_a_vault_that_hangs_is_not_waited_for(
    pair: tuple[DirectoryVault, DirectoryVault], monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(ensemble, "PATIENCE_S", 0.1)
    over = threading.Event()

    def hang() -> Vault:
        over.wait()
        raise SiteUnreachable("at last")

    b, _ = pair
    vaults = Vaults({"b": lambda: b, "third": hang}, all_needed=False)
    try:
        generations.complete(vaults, claimed(vaults))
        assert now(vaults).active_site == "site-b"
    finally:
        over.set()
