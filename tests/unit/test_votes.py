# SPDX-License-Identifier: Apache-2.0
"""Of failovers that reach different vaults at most one has the VNF, whatever fails and when."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from antipode.errors import AntipodeError, Busy, NotFound, SiteUnreachable, VaultError
from antipode.model.state import Claim, ProtectedVnf, VnfState
from antipode.vault import Vault, generations
from antipode.vault.directory import DirectoryVault
from antipode.vault.ensemble import Vaults

OUTCOME = "hlr/generation-0000000002.outcome"
EXPECTED = ProtectedVnf(vnf="hlr", active_site="site-a", generation=1)


class MemoryVault(Vault):
    """A vault that loses nothing and takes one call at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        return self.name

    def put(self, name: str, document: bytes) -> None:
        with self._lock:
            self.held[name] = document

    def create(self, name: str, document: bytes) -> bool:
        with self._lock:
            return self.held.setdefault(name, document) is document

    def get(self, name: str) -> bytes:
        if (found := self.held.get(name)) is None:
            raise NotFound(name)
        return found

    def list(self, prefix: str) -> list[str]:
        with self._lock:
            return sorted(name for name in self.held if name.startswith(prefix))

    def delete(self, name: str) -> None:
        with self._lock:
            self.held.pop(name, None)


class Line(Vault):
    """How one host reaches a vault: calls fail before their effect, or after it, and wait for their
    turn.
    """

    def __init__(self, vault: Vault, fails: Callable[[], str], turn: Callable[[], None]) -> None:
        self._vault, self._fails, self._turn = vault, fails, turn

    @property
    def place(self) -> str:
        return self._vault.place

    def _call(self, do: Callable[[], object]) -> object:
        self._turn()
        if (when := self._fails()) == "before":
            raise VaultError("no answer")
        done = do()
        if when == "after":
            raise VaultError("the answer was lost")
        return done

    def put(self, name: str, document: bytes) -> None:
        self._call(lambda: self._vault.put(name, document))

    def create(self, name: str, document: bytes) -> bool:
        return bool(self._call(lambda: self._vault.create(name, document)))

    def get(self, name: str) -> bytes:
        found = self._call(lambda: self._vault.get(name))
        assert isinstance(found, bytes)
        return found

    def list(self, prefix: str) -> list[str]:
        found = self._call(lambda: self._vault.list(prefix))
        assert isinstance(found, list)
        return found

    def delete(self, name: str) -> None:
        self._call(lambda: self._vault.delete(name))


class Turns:
    """Whose call is next: a host that ends gives its turns to the others."""

    def __init__(self, hosts: int, chance: random.Random) -> None:
        self._chance = chance
        self._living = list(range(hosts))
        self._next = chance.choice(self._living)
        self._changed = threading.Condition()

    def take(self, host: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._next == host)
            self._pass_on()

    def leave(self, host: int) -> None:
        with self._changed:
            self._living.remove(host)
            if self._living and self._next == host:
                self._pass_on()

    def _pass_on(self) -> None:
        self._next = self._chance.choice(self._living)
        self._changed.notify_all()


class Ending(NamedTuple):
    """What one host's failover came to."""

    claim: Claim | None
    is_active: bool


def fail_over(vaults: Vaults, host: int, chance: random.Random) -> Ending:
    """A failover as a host does it, which may be killed or aborted on its way."""
    mine: Claim | None = None
    try:
        mine = generations.claim(vaults, EXPECTED, f"site-{'bc'[host % 2]}", f"failover-{host}")
        generations.confirm(vaults, mine)
        if (end := chance.choice(["complete", "complete", "release", "killed"])) == "release":
            generations.release(vaults, mine)
        if end != "complete":
            return Ending(None, False)
        generations.confirm(vaults, mine)
        generations.complete(vaults, mine)
        return Ending(mine, True)
    except (Busy, VaultError, SiteUnreachable):
        return Ending(mine, False)


def race(seed: int) -> tuple[list[MemoryVault], list[Ending]]:
    chance = random.Random(seed)
    stores = [MemoryVault(f"v{number}") for number in range(chance.randint(1, 5))]
    hosts = chance.randint(2, 4)
    turns = Turns(hosts, chance)
    share_dead, share_failing = chance.choice([0, 0.2, 0.5]), chance.choice([0, 0.05, 0.2])

    def line(host: int, store: MemoryVault) -> Callable[[], Vault]:
        own = random.Random(f"{seed} {host} {store.name}")
        dead = own.random() < share_dead

        def fails() -> str:
            if dead:
                return "before"
            return own.choice(["before", "after"]) if own.random() < share_failing else ""

        made = Line(store, fails, lambda: turns.take(host))
        return lambda: made

    def run(host: int) -> Ending:
        members = {store.name: line(host, store) for store in stores}
        try:
            vaults = Vaults(members, all_needed=False)
            return fail_over(vaults, host, random.Random(f"{seed} {host}"))
        finally:
            turns.leave(host)

    with ThreadPoolExecutor(hosts) as pool:
        return stores, list(pool.map(run, range(hosts)))


def always(vault: Vault) -> Callable[[], Vault]:
    return lambda: vault


def whole(stores: Sequence[Vault]) -> Vaults:
    return Vaults({store.place: always(store) for store in stores}, all_needed=True)


@pytest.mark.parametrize("block", range(10))
def test_of_failovers_that_race_and_fail_at_most_one_ends_with_the_vnf(block: int) -> None:
    won = 0
    for seed in range(block * 40, block * 40 + 40):
        stores, endings = race(seed)
        active = [ending for ending in endings if ending.is_active]
        assert len(active) <= 1, f"seed {seed}"
        if active:
            won += 1
            state = generations.present(whole(stores), "hlr", "site-a")
            assert active[0].claim is not None
            assert state.claim is not None
            assert (state.claim.run, state.state) == (active[0].claim.run, VnfState.ACTIVE), (
                f"seed {seed}"
            )
    assert won, "no failover has succeeded: nothing was tested"


@pytest.fixture
def five(tmp_path: Path) -> list[DirectoryVault]:
    for number in range(5):
        (tmp_path / f"v{number}").mkdir()
    return [DirectoryVault(tmp_path / f"v{number}") for number in range(5)]


def reaching(vaults: Sequence[Vault], numbers: Sequence[int]) -> Vaults:
    """The vaults as a host has them that reaches some of them only."""

    def dead() -> Vault:
        raise SiteUnreachable("no answer")

    return Vaults(
        {
            f"v{number}": always(vault) if number in numbers else dead
            for number, vault in enumerate(vaults)
        },
        all_needed=False,
    )


@pytest.mark.parametrize("size", range(1, 6))
def test_of_a_set_of_vaults_and_the_others_exactly_one_decides(
    five: list[DirectoryVault], size: int
) -> None:
    vaults = whole(five[:size])
    vaults.copies()
    places = [vault.place for vault in five[:size]]
    for length in range(size + 1):
        for part in itertools.combinations(places, length):
            rest = [place for place in places if place not in part]
            assert vaults.decides(part) is not vaults.decides(rest)


def test_vaults_at_the_site_that_may_have_failed_have_no_say(five: list[DirectoryVault]) -> None:
    sites = {"v0": "site-a", "v1": "site-a", "v2": "site-b", "v3": None}
    vaults = Vaults(
        {f"v{n}": always(five[n]) for n in range(4)},
        all_needed=True,
        sites=sites,
    )
    vaults.copies()
    two, third = five[2].place, five[3].place
    assert vaults.decides([two], "site-a")
    assert not vaults.decides([five[0].place, five[1].place, third], "site-a")
    assert not vaults.decides([two, third])


def test_a_host_that_reaches_a_minority_has_nothing_and_leaves_nothing(
    five: list[DirectoryVault],
) -> None:
    with pytest.raises(VaultError, match="--lost-vault"):
        generations.claim(reaching(five, [3, 4]), EXPECTED, "site-b", "failover-1")
    assert [vault.list("") for vault in five] == [[]] * 5
    claim = generations.claim(reaching(five, [0, 1, 2]), EXPECTED, "site-b", "failover-2")
    assert claim.generation == 2


def test_a_claim_that_a_dead_run_left_in_a_minority_comes_to_nothing(
    five: list[DirectoryVault], caplog: pytest.LogCaptureFixture
) -> None:
    for vault in five[:2]:
        generations.claim(vault, EXPECTED, "site-c", "failover-1")  # killed then
    mine = generations.claim(reaching(five, [2, 3, 4]), EXPECTED, "site-b", "failover-2")
    everywhere = reaching(five, range(5))
    generations.confirm(everywhere, mine)
    generations.complete(everywhere, mine)
    state = generations.present(everywhere, "hlr", "site-a")
    assert (state.active_site, state.generation) == ("site-b", 2)
    with pytest.raises(Busy):
        generations.claim(everywhere, EXPECTED, "site-c", "failover-1")


def test_a_claim_that_nobody_has_for_certain_is_not_spread(five: list[DirectoryVault]) -> None:
    generations.claim(five[1], EXPECTED, "site-b", "failover-1")
    generations.spread(whole(five), "hlr")
    assert [bool(vault.list("")) for vault in five] == [False, True, False, False, False]
    for vault in five[2:4]:
        generations.claim(vault, EXPECTED, "site-b", "failover-1")
    generations.spread(whole(five), "hlr")
    assert all(vault.list("") for vault in five)


def test_an_outcome_in_a_minority_is_none(five: list[DirectoryVault]) -> None:
    mine = generations.claim(whole(five), EXPECTED, "site-b", "failover-1")
    with pytest.raises(VaultError):
        generations.complete(reaching(five, [0, 4]), mine)
    generations.complete(reaching(five, [0, 1, 2]), mine)


def test_a_run_is_not_both_completed_and_released(five: list[DirectoryVault]) -> None:
    mine = generations.claim(whole(five), EXPECTED, "site-b", "failover-1")
    generations.complete(reaching(five, [0, 1, 2]), mine)
    with pytest.raises(AntipodeError):
        generations.release(reaching(five, [2, 3, 4]), mine)
    assert generations.present(reaching(five, [0, 1, 2]), "hlr", "site-a").active_site == "site-b"


def test_a_claim_that_a_minority_still_has_does_not_stand(five: list[DirectoryVault]) -> None:
    """Its host was cut off from the vaults in which another one has released it."""
    three = five[:3]
    mine = generations.claim(whole(three), EXPECTED, "site-b", "failover-1")
    generations.confirm(reaching(three, [1, 2]), mine)
    generations.release(reaching(three, [1, 2]), mine)
    with pytest.raises(VaultError):
        generations.confirm(reaching(three, [0]), mine)
    with pytest.raises(Busy):
        generations.confirm(reaching(three, [0, 1]), mine)


def test_a_failover_has_not_succeeded_by_a_minority_that_says_so(
    five: list[DirectoryVault],
) -> None:
    three = five[:3]
    mine = generations.claim(whole(three), EXPECTED, "site-b", "failover-1")
    everywhere = reaching(three, range(3))
    assert not generations.has_succeeded(everywhere, "hlr", mine.run)
    generations.complete(five[0], mine)  # killed before it wrote to the others
    with pytest.raises(VaultError):
        generations.has_succeeded(everywhere, "hlr", mine.run)
    generations.complete(everywhere, mine)
    assert generations.has_succeeded(everywhere, "hlr", mine.run)
    with pytest.raises(VaultError):
        generations.has_succeeded(reaching(three, [0]), "hlr", mine.run)


def note(vault: Vault, claim: Claim, outcome: str) -> None:
    """Have one vault alone learn how a failover ended."""
    end = {"active": generations.complete, "released": generations.release}[outcome]
    end(vault, claim)


OTHER = {"active": "released", "released": "active"}


@pytest.mark.parametrize("decided", ["active", "released"])
@pytest.mark.parametrize("wrong", range(3))
def test_an_outcome_that_a_minority_contradicts_counts(
    five: list[DirectoryVault],
    caplog: pytest.LogCaptureFixture,
    decided: str,
    wrong: int,
) -> None:
    three, everywhere = five[:3], reaching(five[:3], range(3))
    mine = generations.claim(everywhere, EXPECTED, "site-b", "failover-1")
    for number, vault in enumerate(three):
        note(vault, mine, OTHER[decided] if number == wrong else decided)
    active_site = "site-b" if decided == "active" else "site-a"
    state = generations.present(everywhere, "hlr", "site-a")
    assert (state.active_site, state.state) == (active_site, VnfState.ACTIVE)
    assert all(any(v.place in r.getMessage() for r in caplog.records) for v in three)
    assert generations.has_succeeded(everywhere, "hlr", mine.run) is (decided == "active")
    assert [place for place, *_ in generations.contradictions(everywhere, "hlr")] == [
        three[wrong].place
    ]
    note(everywhere, mine, decided)  # again is fine
    with pytest.raises(Busy):
        note(everywhere, mine, OTHER[decided])
    to = "site-c"
    following = generations.claim(everywhere, state, to, "failover-2")
    generations.complete(everywhere, following)
    assert generations.present(everywhere, "hlr", "site-a").active_site == to


@pytest.mark.parametrize("end", ["active", "released"])
def test_contradicting_minorities_leave_the_claim_to_its_run(
    five: list[DirectoryVault], end: str
) -> None:
    three, everywhere = five[:3], reaching(five[:3], range(3))
    mine = generations.claim(everywhere, EXPECTED, "site-b", "failover-1")
    note(three[0], mine, "active")
    note(three[1], mine, "released")
    for reached in ([0, 1], [0, 1, 2]):
        state = generations.present(reaching(three, reached), "hlr", "site-a")
        assert (state.state, state.claim) == (VnfState.FAILING_OVER, mine)
        with pytest.raises(Busy):
            generations.claim(reaching(three, reached), EXPECTED, "site-c", "failover-2")
    generations.spread(everywhere, "hlr")
    assert OUTCOME not in three[2].list("")
    assert len(list(generations.contradictions(everywhere, "hlr"))) == 2
    # the silent vault may have it as active
    with pytest.raises(VaultError):
        generations.has_succeeded(reaching(three, [0, 1]), "hlr", mine.run)
    assert not generations.has_succeeded(everywhere, "hlr", mine.run)
    # its run is resumed, or aborted, when more vaults answer
    for reached in ([0, 1], [0, 1, 2]):
        found = generations.claim(reaching(three, [0, 1, 2]), EXPECTED, "site-b", mine.run)
        if len(reached) < 3:
            with pytest.raises((Busy, VaultError)):
                note(reaching(three, reached), found, end)
        else:
            note(reaching(three, reached), found, end)
    active_site = "site-b" if end == "active" else "site-a"
    assert generations.present(everywhere, "hlr", "site-a").active_site == active_site
