# SPDX-License-Identifier: Apache-2.0
"""A writer of a vault decides nothing about where a VNF is active without a trusted key."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from antipode.errors import Busy, KeyMissing, VaultCorrupt
from antipode.model.state import HIGHEST_GENERATION, Claim, Outcome, ProtectedVnf, VnfState
from antipode.vault import Vault, encryption, generations, keys, signing, statements
from antipode.vault.directory import DirectoryVault
from antipode.vault.ensemble import Vaults
from antipode.vault.generations import CLAIM, OUTCOME, GivenUp
from antipode.vault.keys import Keyring
from antipode.vault.statements import Kind
from tests.keys import VARIABLES

MOMENT = "2026-11-22T16:05:01+00:00"
STRANGER = Ed25519PrivateKey.generate()


def keyring(folder: Path, identity: str | None = None) -> Keyring:
    """The keys of a host of its own, with an identity that others may have, too."""
    ring = Keyring(folder)
    if identity is not None:
        ring.take_over({}, [identity])
    ring.prepare()
    return ring


@pytest.fixture
def no_keys_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come from files only."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def vault(tmp_path: Path, no_keys_around: None) -> Vault:
    return on_host(tmp_path, keyring(tmp_path / "keys"))


def on_host(tmp_path: Path, ring: Keyring) -> DirectoryVault:
    """The vault as a host with these keys has it."""
    (tmp_path / "vault").mkdir(exist_ok=True)
    found = DirectoryVault(tmp_path / "vault")
    found.keys = ring
    return found


def now(vault: Vault, vnf: str = "hlr") -> ProtectedVnf:
    return generations.present(vault, vnf, "site-a")


def claimed(vault: Vault, run: str = "failover-1", to: str = "site-b", vnf: str = "hlr") -> Claim:
    return generations.claim(vault, now(vault, vnf), to, run)


def claim(generation: int = 2, **changes: Any) -> Claim:
    fields = {
        "vnf": "hlr",
        "generation": generation,
        "site": "site-x",
        "former_site": "site-a",
        "run": "failover-666",
        "host": "evil",
        "since": MOMENT,
        **changes,
    }
    return Claim.model_validate(fields)


def ended(of: Claim, outcome: str = "active") -> Outcome:
    return Outcome.model_validate({"claim": of, "outcome": outcome, "since": MOMENT})


def unsigned(_kind: Kind[Any], statement: Any) -> bytes:
    return bytes(statement.model_dump_json().encode())


def signed_by_a_stranger(kind: Kind[Any], statement: Any) -> bytes:
    return signing.sign(kind.payload_type, unsigned(kind, statement), STRANGER)


def in_the_name_of_the_host(vault: Vault) -> Callable[[Kind[Any], Any], bytes]:
    """An envelope that names the key of the host, whose signature it cannot make."""

    def forge(kind: Kind[Any], statement: Any) -> bytes:
        envelope = json.loads(signed_by_a_stranger(kind, statement))
        own = signing.key_id(vault.keys.signing_key().public_key())
        envelope["signatures"][0]["keyid"] = own
        return json.dumps(envelope).encode()

    return forge


def of_another_type(vault: Vault) -> Callable[[Kind[Any], Any], bytes]:
    """A claim that the host has signed as something else."""
    return lambda kind, statement: vault.keys.sign_statement("text/x", unsigned(kind, statement))


def junk(_kind: Kind[Any], _statement: Any) -> bytes:
    return b'{"payloadType": "\xff'


def nothing(_kind: Kind[Any], _statement: Any) -> bytes:
    return b""


FORGERS: list[Callable[[Vault], Callable[[Kind[Any], Any], bytes]]] = [
    lambda _: unsigned,
    lambda _: signed_by_a_stranger,
    in_the_name_of_the_host,
    of_another_type,
    lambda _: junk,
    lambda _: nothing,
]
forged = pytest.mark.parametrize(
    "forger", FORGERS, ids=["unsigned", "stranger", "named", "type", "junk", "empty"]
)


def put_forged(vault: Vault, forge: Callable[[Kind[Any], Any], bytes], of: Claim) -> None:
    """A failover that has succeeded, as somebody without a key writes it."""
    vault.put(CLAIM.name_of(of), forge(CLAIM, of))
    vault.put(OUTCOME.name_of(ended(of)), forge(OUTCOME, ended(of)))


@forged
@pytest.mark.parametrize("generation", [2, 3, 1000, HIGHEST_GENERATION])
def test_a_forged_claim_takes_over_no_vnf_and_blocks_none(
    vault: Vault, forger: Any, generation: int
) -> None:
    put_forged(vault, forger(vault), claim(generation))
    assert (now(vault).active_site, now(vault).generation) == ("site-a", 1)
    assert now(vault).state is VnfState.ACTIVE
    mine = claimed(vault)
    assert mine.generation == 2
    generations.confirm(vault, mine)
    generations.complete(vault, mine)
    assert generations.has_succeeded(vault, "hlr", mine.run)
    assert (now(vault).active_site, now(vault).claim) == ("site-b", mine)
    back = claimed(vault, "failover-2", "site-a")
    assert back.generation == 3
    generations.release(vault, back)
    assert now(vault).active_site == "site-b"


@forged
def test_a_forged_claim_of_a_high_number_hides_no_claim_that_a_listing_lacks_yet(
    vault: Vault, forger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    generations.complete(vault, claimed(vault))
    vault.put(CLAIM.name_of(claim(1000)), forger(vault)(CLAIM, claim(1000)))
    complete = vault.list("")
    third = claimed(vault, "failover-3", "site-a")
    monkeypatch.setattr(vault, "list", lambda begin: [n for n in complete if n.startswith(begin)])
    found = now(vault)
    assert (found.state, found.claim) == (VnfState.FAILING_OVER, third)


@pytest.mark.parametrize("form", ["folder", "pipe", "dangling link", "loop", "zeros"])
@pytest.mark.parametrize("part", ["claim", "outcome"])
def test_what_is_no_file_under_the_name_of_a_statement_blocks_nothing(
    vault: Vault, tmp_path: Path, form: str, part: str
) -> None:
    vault.largest = 1 << 20
    path = tmp_path / "vault" / "hlr" / f"generation-0000000002.{part}"
    path.parent.mkdir()
    if form == "folder":
        path.mkdir()
    elif form == "pipe":
        os.mkfifo(path)
    else:
        to = {"dangling link": "nowhere", "loop": path.name, "zeros": "/dev/zero"}[form]
        path.symlink_to(to)
    assert now(vault).state is VnfState.ACTIVE
    generations.complete(vault, claimed(vault))
    assert now(vault).active_site == "site-b"


@forged
@pytest.mark.parametrize("outcome", ["active", "released"])
def test_a_forged_outcome_ends_no_failover(vault: Vault, forger: Any, outcome: str) -> None:
    mine = claimed(vault)
    of = ended(mine, outcome)
    vault.put(OUTCOME.name_of(of), forger(vault)(OUTCOME, of))
    assert now(vault).state is VnfState.FAILING_OVER
    generations.confirm(vault, mine)
    generations.complete(vault, mine)
    assert now(vault).active_site == "site-b"
    with pytest.raises(Busy):
        generations.release(vault, mine)


def test_a_statement_stands_when_the_forgery_in_its_way_is_removed(vault: Vault) -> None:
    put_forged(vault, unsigned, claim())
    mine = claimed(vault)
    vault.delete(CLAIM.name_of(mine))
    assert now(vault).claim == mine
    generations.confirm(vault, mine)
    with pytest.raises(Busy):
        generations.claim(vault, generations.present(vault, "hlr", "site-a"), "site-c", "other")
    generations.complete(vault, mine)
    vault.delete(f"hlr/generation-{2:010d}.outcome")
    assert (now(vault).active_site, now(vault).state) == ("site-b", VnfState.ACTIVE)
    generations.complete(vault, mine)
    assert len([n for n in vault.list("hlr/") if ".outcome" in n]) == 1


def test_a_signed_claim_of_another_vnf_or_generation_counts_for_nothing(vault: Vault) -> None:
    other = claimed(vault, vnf="other")
    generations.complete(vault, other)
    theirs = {n: vault.get(n) for n in vault.list("other/")}
    for number in (2, 5):
        for name, document in theirs.items():
            part = name.rpartition(".")[2]
            vault.put(f"hlr/generation-{number:010d}.{part}", document)
    assert (now(vault).active_site, now(vault).state) == ("site-a", VnfState.ACTIVE)
    mine = claimed(vault)
    generations.complete(vault, mine)
    assert now(vault).claim == mine


def test_an_old_failover_that_is_put_back_changes_nothing(vault: Vault) -> None:
    first = claimed(vault)
    generations.complete(vault, first)
    old = {n: vault.get(n) for n in vault.list("hlr/")}
    back = claimed(vault, "failover-2", "site-a")
    generations.complete(vault, back)
    for name, document in old.items():
        vault.put(name, document)
        vault.put(f"{name}.1", document)
        vault.put(name.replace("02.", "09."), document)
    assert now(vault).claim == back
    assert claimed(vault, "failover-3", "site-c").generation == 4


def test_an_outcome_of_one_failover_does_not_end_another_one(vault: Vault) -> None:
    released = claimed(vault)
    generations.release(vault, released)
    mine = claimed(vault, "failover-2")
    document = vault.get(OUTCOME.name_of(ended(released)))
    vault.put(OUTCOME.name_of(ended(mine)), document)
    generations.confirm(vault, mine)
    generations.complete(vault, mine)
    assert now(vault).claim == mine


def test_a_succeeded_failover_outlives_the_loss_of_either_document(vault: Vault) -> None:
    mine = claimed(vault)
    generations.complete(vault, mine)
    kept = vault.get(CLAIM.name_of(mine))
    vault.put(CLAIM.name_of(mine), kept[:40])
    assert (now(vault).active_site, now(vault).state) == ("site-b", VnfState.ACTIVE)
    vault.put(CLAIM.name_of(mine), kept)
    vault.put(OUTCOME.name_of(ended(mine)), b"")
    assert now(vault).state is VnfState.FAILING_OVER  # which keeps all others from it


@settings(max_examples=150)
@given(data=st.data())
def test_a_changed_document_says_what_was_signed_or_nothing(vault: Vault, data: Any) -> None:
    whole = statements.sealed(vault.keys, CLAIM, claim())
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = data.draw(
        st.sampled_from(
            [
                whole[:at],
                whole[at:],
                whole[:at]
                + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))])
                + whole[at + 1 :],
                whole[:at] + data.draw(st.binary(min_size=1, max_size=9)) + whole[at:],
            ]
        )
    )
    try:
        found = statements.opened(vault.keys, CLAIM, CLAIM.name_of(claim()), changed)
    except VaultCorrupt:
        return
    assert found == claim()


@settings(max_examples=60)
@given(
    changes=st.dictionaries(
        st.sampled_from(["site", "former_site", "run", "host", "vnf"]),
        st.text("abcxyz-", min_size=1, max_size=8),
        min_size=1,
    )
)
def test_a_changed_payload_counts_for_nothing(vault: Vault, changes: dict[str, str]) -> None:
    envelope = json.loads(statements.sealed(vault.keys, CLAIM, claim()))
    payload = json.loads(base64.b64decode(envelope["payload"])) | changes
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    with pytest.raises(VaultCorrupt):
        statements.opened(vault.keys, CLAIM, CLAIM.name_of(claim()), json.dumps(envelope).encode())


def test_a_host_without_any_key_takes_signed_claims_neither_for_true_nor_for_none(
    vault: Vault, tmp_path: Path
) -> None:
    generations.complete(vault, claimed(vault))
    with pytest.raises(KeyMissing):
        now(on_host(tmp_path, Keyring(tmp_path / "empty")))


def test_hosts_that_share_an_identity_believe_each_others_claims(
    vault: Vault, tmp_path: Path
) -> None:
    """A host that has nothing but the recovery kit signs with a key that no other one trusts."""
    [identity] = vault.keys.identities()
    from_kit = on_host(tmp_path, Keyring(tmp_path / "kit"))
    from_kit.keys.take_over(vault.keys.trusted(), [identity])
    generations.complete(from_kit, claimed(from_kit))
    theirs = signing.key_id(from_kit.keys.signing_key().public_key())
    assert theirs not in vault.keys.trusted()
    assert now(vault) == now(from_kit)
    assert now(vault).active_site == "site-b"
    vault.keys.rotate()
    generations.complete(vault, claimed(vault, "failover-2", "site-a"))
    assert now(from_kit).active_site == "site-a"


def test_a_retired_identity_opens_and_what_it_alone_has_signed_does_not_count(
    vault: Vault, tmp_path: Path
) -> None:
    [leaked] = vault.keys.identities()
    thief = on_host(tmp_path, keyring(tmp_path / "thief", leaked))
    sealed = vault.keys.encrypt(b"secret")
    stolen = claimed(thief, "failover-666")
    assert now(vault).claim == stolen
    vault.keys.rotate(retire=True)
    assert vault.keys.decrypt(sealed) == b"secret"
    assert now(vault).state is VnfState.ACTIVE
    assert leaked not in vault.keys.identities()[:1]
    assert encryption.recipient_of(leaked) not in vault.keys.recipients()
    # nor does one count that has rotated since
    vault.keys.rotate()
    assert now(vault).state is VnfState.ACTIVE


def test_a_host_that_takes_over_a_retired_identity_retires_it(vault: Vault, tmp_path: Path) -> None:
    [leaked] = vault.keys.identities()
    other = on_host(tmp_path, keyring(tmp_path / "other", leaked))
    vault.keys.rotate(retire=True)
    ours = vault.keys
    other.keys.take_over(ours.trusted(), ours.identities(), ours.retired())
    assert other.keys.retired() == {leaked}
    assert set(other.keys.identities()) == set(ours.identities())
    claimed(on_host(tmp_path, keyring(tmp_path / "thief", leaked)), "failover-666")
    assert now(other).state is VnfState.ACTIVE
    assert now(vault, "hlr") == now(other, "hlr")
    assert claimed(vault) == now(other).claim


def test_hosts_that_share_nothing_do_not(vault: Vault, tmp_path: Path) -> None:
    generations.complete(vault, claimed(vault))
    assert now(on_host(tmp_path, keyring(tmp_path / "others"))).active_site == "site-a"


def test_what_identities_sign_is_no_recovery_point(vault: Vault) -> None:
    """A holder of an identity opens recovery points, and makes none."""
    [identity] = vault.keys.identities()
    key = signing.derived_key(identity, keys.STATEMENTS)
    document = signing.sign("application/x", b"{}", key)
    assert vault.keys.open_statement(document, "a statement", "application/x") == b"{}"
    with pytest.raises(VaultCorrupt):
        vault.keys.open_envelope(document, "a point", "application/x")


def test_a_key_that_is_derived_depends_on_the_secret_and_on_the_purpose() -> None:
    one, other = encryption.new_identity(), encryption.new_identity()
    made = {
        signing.private_pem(signing.derived_key(secret, purpose))
        for secret in (one, other)
        for purpose in (b"a", b"b")
    }
    assert len(made) == 4


def old_outcome(run: str, outcome: str) -> bytes:
    return json.dumps({"format": 1, "run": run, "outcome": outcome, "since": MOMENT}).encode()


def test_what_unreleased_versions_left_unsigned_counts_once_the_operator_has_it_signed(
    vault: Vault,
) -> None:
    first, second = claim(), claim(3, site="site-a", former_site="site-x", run="failover-7")
    vault.put(CLAIM.name_of(first), unsigned(CLAIM, first))
    vault.put(OUTCOME.name_of(ended(first)), old_outcome(first.run, "active"))
    vault.put(CLAIM.name_of(second), unsigned(CLAIM, second))
    assert now(vault).generation == 1
    assert len(generations.adopt(vault, "hlr")) == 3
    assert (now(vault).active_site, now(vault).claim) == ("site-x", second)
    assert now(vault).state is VnfState.FAILING_OVER
    assert generations.adopt(vault, "hlr") == []
    generations.complete(vault, second)
    assert (now(vault).active_site, now(vault).generation) == ("site-a", 3)


def test_what_is_not_signed_is_not_adopted_against_a_signed_claim(vault: Vault) -> None:
    mine = claimed(vault)
    vault.put(OUTCOME.name_of(ended(mine)), old_outcome("failover-666", "released"))
    with pytest.raises(VaultCorrupt):
        generations.adopt(vault, "hlr")
    assert now(vault).claim == mine


def test_a_forgery_in_one_of_several_vaults_decides_nothing(
    tmp_path: Path, no_keys_around: None
) -> None:
    for name in ("b", "third"):
        (tmp_path / name).mkdir()
    places = {name: DirectoryVault(tmp_path / name) for name in ("b", "third")}
    members = {name: (lambda v=v: v) for name, v in places.items()}
    vaults = Vaults(members, all_needed=True, keys=keyring(tmp_path / "keys"))
    put_forged(places["b"], unsigned, claim())
    mine = claimed(vaults)
    assert mine.generation == 2
    generations.complete(vaults, mine)
    assert now(vaults).claim == mine
    lost = claimed(vaults, "failover-2", "site-a")
    again = generations.claim(vaults, now(vaults), "site-a", "failover-3", GivenUp(lost=lost.run))
    assert now(vaults).claim == again
