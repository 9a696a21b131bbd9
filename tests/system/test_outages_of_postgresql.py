"""What an outage of PostgreSQL and a step of its clock cost: time, and no attempt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests import servers
from tests.chaos.servers import FAKETIME, Database
from tests.system.stack import LEASE_SECONDS, Stack

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(300)]

# Longer than a lease.
OUTAGE_SECONDS = 3 * LEASE_SECONDS
WAITING = ("tests.wait_and_write", "tests.wait_in_child")


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    own = Database(servers.new_folder("database"))
    try:
        with own:
            yield own
    finally:
        own.destroy()


@pytest.fixture(scope="module")
def running(database: Database) -> Iterator[Stack]:
    with Stack(servers.new_folder("stack") / "data", DATABASE_URL=database.url) as stack:
        yield stack


@pytest.fixture
def under_way(running: Stack) -> list[str]:
    """Jobs of one attempt each that run until after the outage."""
    running.wait_until_ready(120)
    jobs = [running.submit(kind, {"seconds": OUTAGE_SECONDS + 3}, max_attempts=1) for kind in (*WAITING, WAITING[0])]
    for job_id in jobs:
        running.running(job_id)
    return jobs


def charged(stack: Stack, jobs: list[str]) -> list[str]:
    """The outcomes of attempts that the jobs were charged for, once all have completed."""
    ends = [stack.end_of(job_id, 90) for job_id in jobs]
    assert [ended["status"] for ended in ends] == ["COMPLETED"] * len(jobs), ends
    outcomes = [attempt["outcome"] for ended in ends for attempt in ended["attempts"]]
    return [outcome for outcome in outcomes if outcome not in ("UNAVAILABLE", "INTERRUPTED")]


@contextmanager
def paused(database: Database) -> Iterator[None]:
    postmaster = psutil.Process(database.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def test_a_full_disk_is_charged_to_no_job(running: Stack, database: Database, under_way: list[str]) -> None:
    if not database.has_disk:
        pytest.skip("Only root can give PostgreSQL a disk of its own")

    with database.full_disk():
        time.sleep(OUTAGE_SECONDS)

    assert charged(running, under_way) == []


def test_a_pause_of_postgresql_is_charged_to_no_job(running: Stack, database: Database, under_way: list[str]) -> None:
    with paused(database):
        time.sleep(OUTAGE_SECONDS)

    assert charged(running, under_way) == []


@pytest.mark.parametrize("seconds", [300, -300])
def test_a_step_of_the_clock_declares_no_living_worker_dead(
    running: Stack, database: Database, under_way: list[str], seconds: int
) -> None:
    if not FAKETIME:
        pytest.skip("There is no libfaketime: apt-get install faketime")

    database.step_clock(seconds)
    try:
        ends = [running.end_of(job_id, 90) for job_id in under_way]
        meanwhile = running.end_of(running.submit("tests.wait_in_child", {"seconds": 0}))
    finally:
        database.step_clock(0)

    assert [(ended["status"], ended["attempt"], ended["attempts"]) for ended in ends] == [("COMPLETED", 1, [])] * 3
    assert meanwhile["status"] == "COMPLETED"


def test_the_neighbours_of_a_job_that_kills_its_process_lose_no_attempt(running: Stack) -> None:
    running.wait_until_ready(120)
    neighbours = [running.submit("tests.wait_and_write", {"seconds": 3}, max_attempts=1) for _ in range(4)]
    for job_id in neighbours:
        running.running(job_id)

    killer = running.submit("tests.kill_threads", {"seconds": 0.2})

    ended = running.end_of(killer, 120)
    assert (ended["status"], {attempt["outcome"] for attempt in ended["attempts"]}) == ("FAILED", {"LOST"})
    assert 2 <= ended["attempt"] <= 3
    assert [running.end_of(job_id, 120)["status"] for job_id in neighbours] == ["COMPLETED"] * 4
