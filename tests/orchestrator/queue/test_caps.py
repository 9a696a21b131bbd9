"""How an owner's unfinished jobs are counted."""

from __future__ import annotations

import pytest
from django.db import connection

from orchestrator.states import Status
from tests.factories import make_job

pytestmark = pytest.mark.django_db

COUNT = "SELECT * FROM orchestrator_count_unfinished('test.a', %s)"


def counted(owner: str) -> tuple[int, bool]:
    """How many, and whether the oldest is known."""
    with connection.cursor() as cursor:
        cursor.execute(COUNT, [owner])
        count, oldest = cursor.fetchone()
    return count, oldest is not None


def pages_of_a_count(owner: str) -> int:
    """Those that PostgreSQL looks at."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {COUNT}", [owner])
        [[[answer]]] = cursor.fetchall()
    return int(answer["Plan"]["Shared Hit Blocks"] + answer["Plan"]["Shared Read Blocks"])


def test_the_unfinished_jobs_of_an_owner_and_kind_are_counted() -> None:
    for owner in ("ada", "ada", "ben", ""):
        make_job(kind="test.a", owner=owner, limited=True)
    make_job(kind="test.a", owner="")
    make_job(kind="test.b", owner="ada")
    make_job(Status.COMPLETED, kind="test.a", owner="ada")

    assert [counted(owner) for owner in ("ada", "ben", "", "eve")] == [(2, True), (1, True), (1, True), (0, False)]


@pytest.mark.parametrize("owner", ["ada", ""])
def test_a_count_reads_no_other_jobs_with_a_plan_from_a_quiet_time(owner: str) -> None:
    make_job(kind="test.a", owner=owner, limited=True)
    before = [pages_of_a_count(owner) for _ in range(3)]

    for _ in range(1_000):
        make_job(kind="test.a", owner="ben", limited=True)

    assert pages_of_a_count(owner) < before[-1] + 20
