# SPDX-License-Identifier: Apache-2.0
"""The states of VNFs on real database servers: hosts that first keep one at once do not fail."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from antipode.model.state import ProtectedVnf
from antipode.store.database import open_database
from antipode.store.states import States
from tests.distributed import servers

ROUNDS = 50


@pytest.fixture
def hosts(new_database: str) -> list[States]:
    return [States(open_database(new_database)) for _ in range(4)]


def test_of_hosts_that_first_keep_a_state_at_once_none_fails(hosts: list[States]) -> None:
    for number in range(ROUNDS):
        together = threading.Barrier(len(hosts))
        states = [
            ProtectedVnf(vnf=f"w{number}", active_site="site-a", generation=generation)
            for generation in range(1, len(hosts) + 1)
        ]

        def keep(host: States, state: ProtectedVnf, together: threading.Barrier = together) -> None:
            together.wait(servers.WITHIN_S)
            host.keep(state)

        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(keep, hosts, states))
        assert hosts[0].find(f"w{number}") == states[-1]
