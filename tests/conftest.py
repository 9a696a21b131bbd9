"""What every test may use."""

from collections.abc import Iterator

import pytest

from config.embedded import Postgres, Valkey
from tests import servers


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """The session's PostgreSQL, to be killed and started at will; it runs again for the next test."""
    yield servers.postgres
    servers.postgres.start()


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """The session's Valkey, to be killed and started at will; it runs again for the next test."""
    yield servers.valkey
    servers.valkey.start()
