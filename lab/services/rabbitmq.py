# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ: the site's own message broker, on its loopback."""

from __future__ import annotations

from collections.abc import Sequence

from lab import inside
from lab.service import NotReady, Program, Service
from lab.site import Site

USER = "lab"
PASSWORD = "lab"
PORT = 5672

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"


class RabbitMQ(Service):
    name = "rabbitmq"

    def configure(self, site: Site) -> None:
        etc = site.etc / "rabbitmq"
        etc.mkdir(parents=True, exist_ok=True)
        (etc / "rabbitmq.conf").write_text(f"""\
listeners.tcp.1 = 127.0.0.1:{PORT}
default_user = {USER}
default_pass = {PASSWORD}
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
log.console = true
log.console.level = warning
log.file = false
""")
        (etc / "plugins").write_text("[].\n")
        cookie = site.data / "rabbitmq" / ".erlang.cookie"
        if not cookie.exists():
            cookie.parent.mkdir(parents=True, exist_ok=True)
            cookie.touch(mode=0o600)
            cookie.write_text("antipode-lab")
            cookie.chmod(0o400)

    def programs(self, site: Site) -> Sequence[Program]:
        data = site.data / "rabbitmq"
        etc = site.etc / "rabbitmq"
        return [
            Program(
                "rabbitmq",
                ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
                {
                    "HOME": str(data),
                    "RABBITMQ_NODENAME": "rabbit@localhost",
                    "RABBITMQ_MNESIA_BASE": str(data / "mnesia"),
                    "RABBITMQ_LOG_BASE": str(site.log),
                    "RABBITMQ_CONFIG_FILE": str(etc / "rabbitmq.conf"),
                    "RABBITMQ_ENABLED_PLUGINS_FILE": str(etc / "plugins"),
                    "RABBITMQ_CONF_ENV_FILE": "/dev/null",
                    "RABBITMQ_PID_FILE": str(site.run / "rabbitmq.pid"),
                    "ERL_EPMD_ADDRESS": "127.0.0.1",
                    # the broker replaces its shell: else it would outlive it when that is killed,
                    # in the way of every next start
                    "RUNNING_UNDER_SYSTEMD": "true",
                    # one scheduler that does not spin: two brokers share two cores with everything
                    # else
                    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface "
                    "{127,0,0,1} +S 1:1 "
                    "+sbwt none +sbwtdcpu none +sbwtdio none",
                },
            )
        ]

    def check_ready(self, site: Site) -> None:
        try:
            with inside.connect(site, PORT) as connection:
                connection.sendall(PROTOCOL_HEADER)
                greeting = connection.recv(8)
        except OSError as e:
            raise NotReady(f"no AMQP on port {PORT}: {e}") from e
        if not greeting.startswith(b"\x01"):  # a method frame: connection.start
            raise NotReady(f"port {PORT} does not greet as AMQP: {greeting!r}")
