"""What every test may use."""

import gc
import re
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.conf import settings
from xdist.scheduler import LoadFileScheduling

from config.local.postgres import Postgres
from config.local.valkey import Valkey
from tests import servers
from tests.documented import answers_are_documented
from tests.emptying import Emptying
from tests.moves import watch_moves

ROOT = Path(__file__).parent.parent

__all__ = ["answers_are_documented"]

# The last file with slow tests is dealt out when so much of the others has been.
LAST_SLOW = 0.8

pytest_plugins = ["orchestrator.testing.plugin"]

# A busy machine is no reason to fail.
hypothesis.settings.register_profile("muster", deadline=None)
hypothesis.settings.load_profile("muster")


def pytest_configure() -> None:
    # Static files are looked up when they are asked for, not all of them by each new Client, which takes 70 ms.
    settings.WHITENOISE_AUTOREFRESH = True
    # A password takes half a second of processor time to be hashed, as it should elsewhere.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """Deals out files, those that share a running stack as one: it takes seconds to start, and some of a processor."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "with the stack" if uses_the_stack(file) else str(file)


@cache
def uses_the_stack(file: str) -> bool:
    """Whether its tests use `running_stack`, and start none of their own."""
    text = (ROOT / file).read_text() if file.startswith("tests/system/") else ""
    return "stack: Stack" in text and not re.search(r"\bStack\(", text)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests, which mostly wait for processes, are spread evenly among the others, which compute.

    `make test` deals files out in this order: so the processors are busy all the time, and no worker has a long file
    left when the others have nothing to do.
    """
    files = list(dict.fromkeys(item.path for item in items))
    slow_ones = {item.path for item in items if item.get_closest_marker("slow") or item.path.parent.name == "system"}
    slow, quick = [path for path in files if path in slow_ones], [path for path in files if path not in slow_ones]
    places = {path: LAST_SLOW * place / len(slow) for place, path in enumerate(slow)}
    places |= {path: place / len(quick) for place, path in enumerate(quick)}
    items.sort(key=lambda item: places[item.path])


def pytest_collection_finish() -> None:
    """What has been imported and collected stays: it is not looked through again and again for garbage, which would
    take a sixth of the processor time of quick tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Half a surrogate pair that a test has logged or printed cannot be sent from one process of the suite to another,
    which would end all of them.
    """
    report = yield
    report.sections = [(name, text.encode(errors="replace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    """The test database, in which no job moves otherwise than `states.MOVES` says; it is emptied quickly."""
    with django_db_blocker.unblock():
        watch_moves()
        Emptying().replace_djangos()


@pytest.fixture(autouse=True)
def closed_event_streams() -> Iterator[None]:
    """Of those that a test has opened and not read to their end, nothing is read any more."""
    yield
    from orchestrator.live.watching import watching

    for watch in watching().watches:
        watch.close()


@pytest.fixture
def measures_anew() -> Iterator[None]:
    """What was measured of stored bytes for other tests is not known any more."""
    from orchestrator import stored_bytes

    stored_bytes.forget()
    yield
    stored_bytes.forget()


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
