"""PostgreSQL and Valkey for one test session, on free ports in a temporary folder, gone with it.

A pytest plugin (see pyproject.toml), since the servers' addresses must be known before Django reads its settings.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.local.ports import free_port
from config.local.postgres import Postgres
from config.local.valkey import Valkey

# Whoever pulls the plug on a test server has lost nothing, so it need not wait for the disk.
FORGETFUL = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

folder: Path
postgres: Postgres
valkey: Valkey


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Iterator[None]:
    """Comes before pytest-django, which reads the settings here."""
    global folder, postgres, valkey
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ends like Ctrl-C, and cleans up.
    folder = Path(tempfile.mkdtemp(prefix="muster-tests-"))
    folder.chmod(0o711)  # PostgreSQL, another user when root runs the tests, must pass through.
    postgres = Postgres(folder / "postgres", free_port(), settings=FORGETFUL)
    valkey = Valkey(folder / "valkey", free_port())
    try:
        postgres.start()
        valkey.start()
        set_environment()
        return (yield)
    except BaseException:
        remove_servers()
        raise


def pytest_unconfigure() -> None:
    remove_servers()


def new_folder(purpose: str) -> Path:
    """A folder that servers may work in, also PostgreSQL as another user than root; gone with the session.

    (pytest's own temporary folders are closed to others: PostgreSQL's data would have to be kept elsewhere.)
    """
    made = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=folder))
    made.chmod(0o711)
    return made


def set_environment() -> None:
    """The settings of every test, whatever the developer's shell has set."""
    os.environ.update(
        SECRET_KEY="only-for-tests-0123456789-abcdefghijklmnopqrstuvwxyz",
        DATABASE_URL=postgres.url,
        BROKER_URL=valkey.url,
        DATA_DIR=str(folder / "data"),
        DEBUG="false",
        REQUIRE_AUTH="false",
        ALLOW_UNAUTHENTICATED="true",
        SECURE_COOKIES="false",
        ORCHESTRATION_STEP_SECONDS="0.2",
    )


def remove_servers() -> None:
    for server in (valkey, postgres):
        server.stop()
    postgres.destroy()
    shutil.rmtree(folder, ignore_errors=True)
