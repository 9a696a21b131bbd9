"""How ready jobs are found by those who claim none: a worker that looks for more, the poller, the tick, readiness."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from orchestrator.diagnostics import queries
from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.models import Kind as KindRow
from orchestrator.queue import claims
from orchestrator.queue.waits import READY_AHEAD, limit_wait
from orchestrator.ready_jobs import heads
from orchestrator.rollups import writing
from orchestrator.submission import submit, submit_many
from orchestrator.upkeep import tick
from orchestrator.worker.poller import WAITING_KINDS
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, lease

# Forty owners have fifty ready jobs each.
READY = """
INSERT INTO orchestrator_job (id, kind, queue, owner, payload, run_at, rank, ready)
SELECT gen_random_uuid(), %(kind)s, 'default', 'owner ' || n %% 40, '{}', now() - interval '1 hour',
       now() - interval '1 hour' + n * interval '1 ms', false
FROM generate_series(1, 2000) AS n
"""


@pytest.fixture
def backlog(kind: DeclareKind, db: None) -> Kind:
    """A kind with thousands of ready jobs, in a table whose statistics are of a time when none was ready."""
    waiting = kind()
    KindRow.objects.get_or_create(name=waiting.name, defaults={"queue": waiting.queue})
    with connection.cursor() as cursor:
        cursor.execute(READY, {"kind": waiting.name})
        cursor.execute("ANALYZE orchestrator_job; UPDATE orchestrator_job SET ready = true")
    return waiting


def asked_by(asker: str, backlog: Kind) -> str:
    """The statement that is sent for it."""
    urgent = Job.objects.filter(owner="owner 7").order_by("rank")[10]
    sent: dict[str, tuple[str, Any]] = {
        "a worker that looks for more": (claims.NEXT_READY, [backlog.name]),
        "the poller": (WAITING_KINDS, {"queues": ["default"], "seconds": 1}),
        "readiness": (queries.WAITING, None),
        "who waits for a limit": (
            READY_AHEAD,
            {"kind": backlog.name, "owner": "owner 7", "rank": urgent.rank, "id": urgent.id, "at_most": 10_000},
        ),
    }
    with CaptureQueriesContext(connection) as asked, connection.cursor() as cursor:
        if asker == "the tick":
            tick.ring_for_ready()
        else:
            cursor.execute(*sent[asker])
    return str(asked.captured_queries[-1]["sql"])


# Pages of the table that are read at most: one or two for each owner, or for each of the jobs that are counted.
@pytest.mark.parametrize(
    ("asker", "most"),
    [
        ("a worker that looks for more", 10),
        ("the tick", 10),
        ("the poller", 400),
        ("readiness", 400),
        ("who waits for a limit", 1_500),
    ],
)
def test_what_is_asked_of_ready_jobs_reads_few_of_them(asker: str, most: int, backlog: Kind) -> None:
    sql = asked_by(asker, backlog)

    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}")
        [[[answer]]] = cursor.fetchall()

    on_jobs = [node for node in nodes_of(answer["Plan"]) if node.get("Relation Name") == "orchestrator_job"]
    assert {node.get("Index Name") for node in on_jobs} == {"job_ready_by_owner"}
    assert answer["Plan"]["Shared Hit Blocks"] + answer["Plan"]["Shared Read Blocks"] < most


def test_the_oldest_of_a_kind_is_looked_for_in_the_index(backlog: Kind) -> None:
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + writing.COUNT, {"max_waiting": 9, "max_running": 9})
        [[[answer]]] = cursor.fetchall()

    on_jobs = [node for node in nodes_of(answer["Plan"]) if node.get("Relation Name") == "orchestrator_job"]
    used = {node.get("Index Name") for node in on_jobs}
    # What is leased is found by either of two.
    assert used - {"job_leased_by_owner", "job_leased_by_worker"} == {"job_ready_by_owner"}


def nodes_of(plan: dict[str, Any]) -> Any:
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes_of(below)


def test_of_each_owner_the_most_urgent_job_is_found(kind: DeclareKind, db: None) -> None:
    waiting, other = kind(), kind()
    submit(other, owner="b")
    of_a, _, of_c = submit(waiting, owner="a"), submit(waiting, owner="a"), submit(waiting, owner="c", priority=9)
    urgent = submit(waiting, owner="c", priority=0)

    with connection.cursor() as cursor:
        cursor.execute(f"SELECT owner, id FROM {heads('%(kind)s')} AS head", {"kind": waiting.name})
        found = cursor.fetchall()

    assert found == [("a", of_a.id), ("c", urgent.id)]
    assert of_c.id not in dict(found).values()


def test_a_kind_has_waited_as_long_as_its_most_urgent_job_of_any_owner(kind: DeclareKind, db: None) -> None:
    waiting = kind()
    submit(waiting, owner="a")
    urgent = submit(waiting, owner="b", priority=0)
    long_ago = Now() - timedelta(minutes=5)
    Job.objects.filter(id=urgent.id).update(run_at=long_ago, updated_at=long_ago)

    [found] = queries.waiting()

    assert found.kind == waiting.name
    assert found.seconds == pytest.approx(300, abs=60)


def test_a_job_of_a_full_kind_waits_for_its_owners_jobs_and_as_many_of_each_other_owner(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    full = kind(max_running=1)
    running = submit(full, owner="d")
    assert lease(full, worker).id == running.id
    submit_many(full, [{}] * 2, owner="a")
    last = submit(full, owner="a")
    submit_many(full, [{}] * 5, owner="b")
    submit(full, owner="c")

    wait = limit_wait(again(last))

    assert wait is not None
    assert wait.rounds == 2 + 3 + 1 + 1
