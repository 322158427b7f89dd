# SPDX-License-Identifier: Apache-2.0
"""The servers of the tests: started once, each test with a database and a board of its own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from tests import keys
from tests.distributed import servers

keys.share()
_names = count(1)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[servers.DatabaseServer]:
    with servers.postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[servers.DatabaseServer]:
    with servers.mariadb() as server:
        yield server


@pytest.fixture(scope="session")
def etcd() -> Iterator[str]:
    with servers.etcd() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def redis() -> Iterator[int]:
    with servers.redis() as port:
        yield port


@pytest.fixture(params=["postgresql", "mariadb"])
def new_database(request: pytest.FixtureRequest) -> str:
    """The URL of a new database, on each of the servers."""
    server: servers.DatabaseServer = request.getfixturevalue(request.param)
    return server.new_database()


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return f"test-{next(_names)}"
