# SPDX-License-Identifier: Apache-2.0
"""Records in DNS, switched at a real BIND: compared and changed in one step, read back, awaited at
secondaries, and refused in words that help.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from antipode.config import Config
from antipode.errors import (
    Aborted,
    DnsRecordChanged,
    DnsRefused,
    DnsUnreachable,
    KeyUnusable,
)
from antipode.model.dns import DnsChange, RecordSet
from antipode.model.steps import Unrecorded
from antipode.recover import dns
from antipode.recover.dns import DnsProvider, switching
from antipode.recover.dns.switching import Switched
from tests.distributed import bind
from tests.distributed.bind import ZONE, Bind
from tests.ports import free_port

NAME = f"hlr.{ZONE}"


def records(*values: str, kind: Any = "A", ttl: int = 60, name: str = NAME) -> RecordSet:
    return RecordSet(name=name, type=kind, ttl=ttl, values=tuple(sorted(values)))


OLD, NEW = records("10.0.0.1"), records("10.0.0.2", ttl=30)


@pytest.fixture(scope="module")
def served() -> Iterator[Bind]:
    with bind.primary() as server:
        yield server


@pytest.fixture
def server(served: Bind, tmp_path: Path) -> Bind:
    """The server, with the old record and no other."""
    there = provider(served, tmp_path)
    for kind in ("A", "AAAA", "CNAME"):
        if found := there.read(NAME, kind) if served.values(NAME, kind) else None:
            there.replace(found, None)
    there.replace(None, OLD)
    return served


def provider(server: Bind, folder: Path, **more: Any) -> DnsProvider:
    return dns.connect("core", bind.configuration(server, server.key_file(folder), **more))


def change(new: RecordSet, old: RecordSet | None, **more: Any) -> DnsChange:
    return DnsChange(provider="core", new=new, old=old, **{"is_known": True, **more})


def switched(there: DnsProvider, *changes: DnsChange) -> list[Switched]:
    return switching.switch(changes, lambda _: there, Unrecorded(), lambda: None)


def test_a_record_is_switched_and_read_back_with_its_ttl(server: Bind, tmp_path: Path) -> None:
    there = provider(server, tmp_path)
    [outcome] = switched(there, change(NEW, OLD))
    assert (outcome.done, outcome.changed, outcome.problem, outcome.old) == (True, True, "", OLD)
    assert there.read(NAME, "A") == NEW
    assert switching.kept_by_resolvers([outcome]) == OLD.ttl


def test_a_switch_that_is_repeated_changes_nothing(server: Bind, tmp_path: Path) -> None:
    there = provider(server, tmp_path)
    switched(there, change(NEW, OLD))
    serial = server.serial
    [again] = switched(there, change(NEW, OLD))
    assert (again.done, again.changed, server.serial) == (True, False, serial)


def test_what_somebody_else_has_written_since_the_plan_stays(server: Bind, tmp_path: Path) -> None:
    there = provider(server, tmp_path)
    theirs = records("192.0.2.77")
    there.replace(OLD, theirs)
    [outcome] = switched(there, change(NEW, OLD))
    assert not outcome.done and outcome.problem
    assert there.read(NAME, "A") == theirs


def test_a_change_between_the_look_and_the_update_is_seen_by_the_server(
    server: Bind, tmp_path: Path
) -> None:
    there = provider(server, tmp_path)
    for stale in (records("192.0.2.77"), records("10.0.0.1", "10.0.0.9"), None):
        with pytest.raises(DnsRecordChanged):
            there.replace(stale, NEW)
    assert there.read(NAME, "A") == OLD


def test_a_record_that_is_missing_is_made_once(server: Bind, tmp_path: Path) -> None:
    there = provider(server, tmp_path)
    there.replace(OLD, None)
    [outcome] = switched(there, change(NEW, None))
    assert outcome.changed and there.read(NAME, "A") == NEW
    with pytest.raises(DnsRecordChanged):
        there.replace(None, OLD)


def test_addresses_of_both_families_and_of_several_members_are_switched(
    server: Bind, tmp_path: Path
) -> None:
    there = provider(server, tmp_path)
    six = records("2001:db8::2", "2001:db8::3", kind="AAAA")
    outcomes = switched(there, change(records("10.0.0.3", "10.0.0.2"), OLD), change(six, None))
    assert all(o.done for o in outcomes)
    assert server.values(NAME) == ["10.0.0.2", "10.0.0.3"]
    assert server.values(NAME, "AAAA") == ["2001:db8::2", "2001:db8::3"]


def test_an_alias_leads_to_the_other_site(server: Bind, tmp_path: Path) -> None:
    there = provider(server, tmp_path)
    there.replace(OLD, None)
    here = records("hlr.site-a.example", kind="CNAME")
    other = records("hlr.site-b.example", kind="CNAME")
    outcomes = switched(there, change(here, None), change(other, here))
    assert all(o.done for o in outcomes)
    assert there.read(NAME, "CNAME") == other


def test_an_alias_beside_addresses_is_refused_and_not_silently_ignored(
    server: Bind, tmp_path: Path
) -> None:
    there = provider(server, tmp_path)
    alias = records("hlr.site-b.example", kind="CNAME")
    [outcome] = switched(there, change(alias, None))
    assert not outcome.done and there.read(NAME, "A") == OLD
    there.replace(OLD, None)
    there.replace(None, alias)
    [outcome] = switched(there, change(NEW, None))
    assert not outcome.done and there.read(NAME, "CNAME") == alias


@pytest.mark.parametrize(
    ("name", "secret"), [("antipode", "d3Jvbmc="), ("another", None)], ids=["secret", "name"]
)
def test_a_wrong_key_is_refused_and_its_secret_is_in_no_message(
    server: Bind, tmp_path: Path, name: str, secret: str | None
) -> None:
    key = server.key_file(tmp_path, secret, name)
    there = dns.connect("core", bind.configuration(server, key))
    with pytest.raises(DnsRefused) as caught:
        there.read(NAME, "A")
    assert "key" in str(caught.value) and (secret or server.secret) not in str(caught.value)


def test_a_key_file_that_others_can_read_or_that_has_no_key_is_not_used(
    server: Bind, tmp_path: Path
) -> None:
    key = server.key_file(tmp_path)
    there = dns.connect("core", bind.configuration(server, key))
    key.chmod(0o640)
    with pytest.raises(KeyUnusable):
        there.read(NAME, "A")
    key.chmod(0o600)
    for content in ("", "secret", 'key "a" { algorithm hmac-sha256; secret "not base64!"; };'):
        key.write_text(content)
        with pytest.raises(KeyUnusable):
            there.read(NAME, "A")


def test_a_key_may_come_from_the_environment(
    server: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bind.configuration(server, tmp_path / "none").model_dump(mode="json")
    settings["dns"]["core"]["rfc2136"] |= {"key_file": None, "key_variable": "ANTIPODE_TSIG"}
    there = dns.connect("core", Config.model_validate(settings))
    monkeypatch.setenv("ANTIPODE_TSIG", "nonsense")
    with pytest.raises(KeyUnusable):
        there.read(NAME, "A")
    monkeypatch.setenv("ANTIPODE_TSIG", f"hmac-sha256:{bind.KEY}:{server.secret}")
    assert there.read(NAME, "A") == OLD


def test_a_zone_that_the_server_does_not_have_is_refused(server: Bind, tmp_path: Path) -> None:
    settings = bind.configuration(server, server.key_file(tmp_path)).model_dump(mode="json")
    settings["dns"]["core"]["rfc2136"]["zone"] = "other.example"
    there = dns.connect("core", Config.model_validate(settings))
    with pytest.raises(DnsRefused):
        there.read("hlr.other.example", "A")
    with pytest.raises(DnsRefused):
        there.replace(None, records("10.0.0.1", name="hlr.other.example"))


def test_rights_are_tried_without_a_change(server: Bind, tmp_path: Path) -> None:
    there, serial = provider(server, tmp_path), server.serial
    there.try_rights(OLD, NEW)
    there.try_rights(None, records("2001:db8::1", kind="AAAA"))
    there.try_rights(None, records("x.example", kind="CNAME", name=f"other.{ZONE}"))
    assert (server.serial, there.read(NAME, "A")) == (serial, OLD)


def test_rights_that_are_lacking_are_found_by_name_and_type(tmp_path: Path) -> None:
    with bind.primary(f"name {NAME}. A") as server:
        there = provider(server, tmp_path)
        there.try_rights(None, NEW)
        for denied in (records("2001:db8::1", kind="AAAA"), records("10.0.0.1", name=f"b.{ZONE}")):
            with pytest.raises(DnsRefused):
                there.try_rights(None, denied)
            [outcome] = switched(there, change(denied, None))
            assert not outcome.done and "refuse" in outcome.problem


def test_a_server_that_is_dead_is_a_problem_and_holds_up_no_other_record(
    server: Bind, tmp_path: Path
) -> None:
    settings = bind.configuration(server, server.key_file(tmp_path), within=0.1)
    alive = dns.connect("core", settings)
    nowhere = settings.model_dump(mode="json")
    nowhere["dns"]["core"]["rfc2136"]["server"] = f"127.0.0.1:{free_port()}"
    dead = dns.connect("core", Config.model_validate(nowhere))
    with pytest.raises(DnsUnreachable):
        dead.read(NAME, "A")
    changes = [change(NEW, OLD).model_copy(update={"provider": "dead"}), change(NEW, OLD)]
    first, second = switching.switch(
        changes, lambda name: dead if name == "dead" else alive, Unrecorded(), lambda: None
    )
    assert not first.done and first.problem
    assert second.done


def test_a_server_that_is_restarted_meanwhile_is_waited_for(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(bind.primary())
        there = provider(server, tmp_path, within=300)
        there.replace(None, OLD)
        with bind.restarted(server, stack):
            found: list[Switched] = []
            work = threading.Thread(target=lambda: found.extend(switched(there, change(NEW, OLD))))
            work.start()
        work.join(300)
        assert [o.done for o in found] == [True]
        assert there.read(NAME, "A") == NEW


def test_a_server_that_hangs_is_given_up_after_its_time(server: Bind, tmp_path: Path) -> None:
    there = provider(server, tmp_path, timeout=0.5, within=0.1)
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        [outcome] = switched(there, change(NEW, OLD))
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert not outcome.done and outcome.problem


def test_a_run_that_must_stop_changes_nothing(server: Bind, tmp_path: Path) -> None:
    def stop() -> None:
        raise Aborted("enough")

    there = provider(server, tmp_path)
    with pytest.raises(Aborted):
        switching.switch([change(NEW, OLD)], lambda _: there, Unrecorded(), stop)
    assert there.read(NAME, "A") == OLD


def test_secondaries_are_awaited_and_those_that_lag_are_named(server: Bind, tmp_path: Path) -> None:
    with bind.secondary(server) as follows, bind.primary() as apart:
        there = provider(server, tmp_path, secondaries=[follows.address], within=300)
        [outcome] = switched(there, change(NEW, OLD))
        assert (outcome.done, outcome.problem) == (True, "")
        assert follows.values(NAME) == ["10.0.0.2"]
        there = provider(server, tmp_path, secondaries=[follows.address, apart.address], within=0.1)
        [outcome] = switched(there, change(NEW, OLD))
        assert outcome.done and apart.address in outcome.problem
        assert follows.address not in outcome.problem


def test_a_change_is_put_back_only_where_it_is_still_ours(server: Bind, tmp_path: Path) -> None:
    there = provider(server, tmp_path)
    made = change(NEW, OLD)
    switched(there, made)
    assert switching.put_back([made], lambda _: there, Unrecorded(), lambda: None) == []
    assert there.read(NAME, "A") == OLD
    assert switching.put_back([made], lambda _: there, Unrecorded(), lambda: None) == []
    theirs = records("192.0.2.77")
    there.replace(OLD, theirs)
    assert switching.put_back([made], lambda _: there, Unrecorded(), lambda: None)
    assert there.read(NAME, "A") == theirs
