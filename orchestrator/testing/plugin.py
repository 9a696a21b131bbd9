"""Fixtures for pytest: `pytest_plugins = ["orchestrator.testing.plugin"]` in the topmost conftest.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.testing.engine import worker_process
from orchestrator.testing.submitted import Jobs
from orchestrator.worker.process import WorkerProcess


@pytest.fixture
def jobs(db: None) -> Jobs:
    """What was submitted in this test, and its clock."""
    return Jobs()


@pytest.fixture
def worker(transactional_db: None) -> Iterator[WorkerProcess]:
    """This process as a worker, whose heartbeat is the test's to call: `worker.heartbeat.beat()`."""
    with worker_process() as process:
        yield process
