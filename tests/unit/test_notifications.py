# SPDX-License-Identifier: Apache-2.0
"""Events as notifications of oslo.messaging: what a listener gets of them, and that one which could
not be sent is known.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import oslo_messaging
import pytest
from oslo_config import cfg
from pydantic import ValidationError

from antipode import config, libraries
from antipode.config import EventsConfig, OsloMessaging
from antipode.engine.deployment import Deployment
from antipode.errors import InvalidInput
from antipode.model.event import Event
from antipode.service.courier import PAUSES_S, couriers
from antipode.service.notifications import NotificationReceiver
from antipode.service.receiver import NotDelivered
from tests.unit import samples
from tests.unit.test_events import NOON

WITHIN_S = 60.0


def settings(folder: Path, url: str, **changes: Any) -> OsloMessaging:
    file = folder / "transport-url"
    file.write_text(f"{url}\n")
    return OsloMessaging.model_validate({"transport_url_file": str(file), **changes})


def an_event(kind: str = "dr.failover.error") -> Event:
    return Event("failover-1/failed/1", kind, "vnf/hlr", NOON, {"vnf": "hlr", "rto_s": None})


class Listener:
    """Keeps what comes to its topic, by priority."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, str, Any]] = []
        self.came = threading.Event()

    def _keep(self, priority: str, publisher: str, kind: str, payload: Any) -> None:
        self.got.append((priority, publisher, kind, payload))
        if len(self.got) == 2:
            self.came.set()

    def info(self, _c: Any, publisher: str, kind: str, payload: Any, _m: Any) -> None:
        self._keep("info", publisher, kind, payload)

    def error(self, _c: Any, publisher: str, kind: str, payload: Any, _m: Any) -> None:
        self._keep("error", publisher, kind, payload)


def test_a_listener_gets_events_by_their_priority_as_cloudevents(tmp_path: Path) -> None:
    receiver = NotificationReceiver(settings(tmp_path, "fake://", topic="dr"), "//here/test")
    listener = Listener()
    # the driver `fake` has its queues in the transport
    server = oslo_messaging.get_notification_listener(
        receiver._transport, [oslo_messaging.Target(topic="dr")], [listener], executor="threading"
    )
    server.start()
    try:
        receiver.give(an_event(), NOON)
        receiver.give(an_event("dr.failover.end"), NOON)
        assert listener.came.wait(WITHIN_S)
    finally:
        server.stop()
        server.wait()
    assert sorted((priority, kind) for priority, _, kind, _ in listener.got) == [
        ("error", "dr.failover.error"),
        ("info", "dr.failover.end"),
    ]
    payloads = {kind: payload for _, _, kind, payload in listener.got}
    assert payloads["dr.failover.error"] == an_event().document("//here/test")
    assert {publisher for _, publisher, _, _ in listener.got} == {"//here/test"}


def test_a_bus_that_does_not_take_it_is_known_and_it_comes_later_from_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment(config.load(str(samples.write_config(tmp_path))))
    bus = settings(tmp_path, "fake://").model_dump(mode="json")
    made = EventsConfig.model_validate({"oslo_messaging": {"bus": bus}})
    (courier,) = couriers(deployment, made)
    now = NOON
    courier._now = lambda: now
    receiver = courier._receiver
    assert isinstance(receiver, NotificationReceiver)
    driver, real = receiver._transport._driver, receiver._transport._driver.send_notification

    def away(*_: Any, **__: Any) -> None:
        raise oslo_messaging.MessageDeliveryFailure("rabbit://user:secret@host is away")

    monkeypatch.setattr(driver, "send_notification", away)
    deployment.events.note(an_event(), ["bus"])
    assert courier.deliver() == PAUSES_S[0]
    assert courier.trouble is not None and "secret" not in courier.trouble
    monkeypatch.setattr(driver, "send_notification", real)
    now += PAUSES_S[0]
    assert courier.deliver() == 0
    assert deployment.events.pending() == {}


def test_a_rabbitmq_that_is_not_there_is_given_up_at_once(tmp_path: Path) -> None:
    url = "rabbit://user:secret@127.0.0.1:1/"
    with pytest.raises(NotDelivered) as error:
        NotificationReceiver(settings(tmp_path, url), "here").give(an_event(), NOON)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["", "nonsense://secret@host", "no url at all"])
def test_a_url_that_is_wrong_is_an_error_at_the_start_and_is_not_repeated(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        NotificationReceiver(settings(tmp_path, url), "here")
    assert "secret" not in str(error.value)


def test_a_missing_file_or_package_is_an_error_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = OsloMessaging.model_validate({"transport_url_file": str(tmp_path / "gone")})
    with pytest.raises(InvalidInput):
        NotificationReceiver(gone, "here")
    monkeypatch.setattr(libraries, "find_spec", lambda _: None)
    with pytest.raises(InvalidInput, match=r"antipode\[oslo-messaging\]"):
        NotificationReceiver(settings(tmp_path, "fake://"), "here")


def test_paths_are_whole_and_the_configuration_of_the_host_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        OsloMessaging.model_validate({"transport_url_file": "relative"})
    receiver = NotificationReceiver(settings(tmp_path, "fake://"), "here")
    assert isinstance(receiver._transport.conf, cfg.ConfigOpts)
    assert receiver._transport.conf.config_file == []


def test_what_oslo_messaging_brings_along_writes_nothing_to_the_screen() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import antipode.cli.app, taskflow.engines"],
        capture_output=True,
        text=True,
        check=True,
        timeout=WITHIN_S,
    )
    assert (done.stdout, done.stderr) == ("", "")
