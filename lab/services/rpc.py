# SPDX-License-Identifier: Apache-2.0
"""Whether the RPC servers of a site listen: a call sent before its queue has a consumer is lost and
costs a whole time-out.
"""

from __future__ import annotations

from lab import inside
from lab.errors import LabError
from lab.service import NotReady
from lab.services.openstack_conf import executable
from lab.site import Site

_COUNT_CONSUMERS = """
import sys, amqp
connection = amqp.Connection("127.0.0.1:5672", userid="lab", password="lab")
connection.connect()
for queue in sys.argv[1:]:
    try:
        consumers = connection.channel().queue_declare(queue, passive=True).consumer_count
    except amqp.exceptions.NotFound:
        consumers = 0
    if not consumers:
        print(queue)
connection.close()
"""


def check_served(site: Site, *queues: str) -> None:
    """Raise `NotReady` with the names of the queues without a consumer."""
    try:
        answer = inside.run(
            site, [executable("python"), "-c", _COUNT_CONSUMERS, *queues], timeout=30
        )
    except LabError as failure:
        raise NotReady(
            f"RabbitMQ does not list its queues: {str(failure).splitlines()[-1]}"
        ) from failure
    if idle := answer.stdout.split():
        raise NotReady(f"no process serves {', '.join(idle)}")
