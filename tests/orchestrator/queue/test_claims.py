"""Which job a claim yields, and what the claim costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orchestrator import submission
from orchestrator.claimed import Claimed
from orchestrator.kinds import Kind
from orchestrator.models import Attempt, Job, Worker
from orchestrator.models import Kind as KindRow
from orchestrator.queue import claims, endings, pipelines, transitions, turns
from orchestrator.queue.endings import Ended
from orchestrator.queue.recovery import declare_dead
from orchestrator.running import RunningJob
from orchestrator.submission import submit, submit_many
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, MakeWorker, again, claim, lease, make_due, pipeline, run


def test_a_claim_leases_the_job_to_the_worker(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind(timeout_seconds=100)
    job = submit(waiting)

    claimed = claim(waiting, worker)

    assert claimed is not None
    assert claimed.id == job.id
    assert (claimed.attempt, claimed.worker_id, claimed.worker_name) == (1, worker.row_id, worker.name)
    row = again(job)
    assert (row.status, row.attempt, row.ready) == ("RUNNING", 1, False)
    assert (row.worker_id, row.worker_name, row.celery_task_id) == (worker.row_id, worker.name, str(row.id))
    assert row.deadline_at is not None
    assert row.started_at is not None
    assert row.deadline_at - row.started_at == pytest.approx(timedelta(seconds=100), abs=timedelta(seconds=1))


def test_a_kind_without_a_timeout_has_no_deadline(kind: DeclareKind, worker: WorkerProcess) -> None:
    endless = kind(timeout_seconds=None)
    job = submit(endless)

    lease(endless, worker)

    assert again(job).deadline_at is None


def test_nothing_is_claimed_where_nothing_is_ready(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting, other = kind(), kind()
    submit(other)

    assert claim(waiting, worker) is None


def test_a_burst_is_served_by_priority(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    for priority in (5, 9, 0, 7, 1):
        submit(waiting, priority=priority)

    served = [lease(waiting, worker).priority for _ in range(5)]

    assert served == [0, 1, 5, 7, 9]


@pytest.mark.parametrize(("seconds_earlier", "first"), [(59, 4), (61, 5)])
def test_a_step_of_priority_is_a_minutes_head_start(
    seconds_earlier: int, first: int, kind: DeclareKind, worker: WorkerProcess
) -> None:
    waiting, now = kind(), timezone.now()
    submit(waiting, priority=4, run_at=now)
    submit(waiting, priority=5, run_at=now - timedelta(seconds=seconds_earlier))

    assert lease(waiting, worker).priority == first


def test_jobs_of_equal_priority_are_served_in_the_order_of_acceptance(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waiting = kind()
    ids = submit_many(waiting, [{}] * 20)

    served = [lease(waiting, worker).id for _ in ids]

    assert served == ids


def test_a_batch_is_claimed_in_the_same_order(kind: DeclareKind, worker: WorkerProcess) -> None:
    seen: list[int] = []

    def see(jobs: list[RunningJob]) -> list[None]:
        seen.extend(job.row.priority for job in jobs)
        return [None] * len(jobs)

    batching = kind(see, execution="transactional", takes_batch=True, batch_size=3)
    for priority in (5, 9, 0, 7, 1):
        submit(batching, priority=priority)

    run(batching, worker)

    assert seen == [0, 1, 5]


def test_a_future_job_is_claimed_once_its_time_has_come(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    job = submit(waiting, run_at=timezone.now() + timedelta(hours=1))
    before = claim(waiting, worker)

    make_due(job)
    tick.make_due_ready()

    assert before is None
    assert lease(waiting, worker).id == job.id


@pytest.mark.parametrize("execution", ["leased", "transactional"])
def test_a_paused_kind_is_not_claimed_until_it_is_resumed(
    execution: str, kind: DeclareKind, worker: WorkerProcess
) -> None:
    paused = kind(execution=execution)
    job = submit(paused)
    KindRow.objects.create(name=paused.name, paused_at=Now())

    ran_while_paused = run(paused, worker)
    KindRow.objects.update(paused_at=None)

    assert not ran_while_paused
    assert run(paused, worker)
    assert again(job).status == "COMPLETED"


def test_a_worker_that_was_declared_dead_claims_nothing(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    job = submit(waiting)
    declare_dead(worker.row_id)

    claimed = claim(waiting, worker)

    assert claimed is None
    assert again(job).attempt == 0


def test_a_worker_without_a_row_claims_nothing(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    submit(waiting)
    Worker.objects.all().delete()

    assert claim(waiting, worker) is None


def test_each_claim_yields_another_job(kind: DeclareKind, make_worker: MakeWorker) -> None:
    waiting = kind()
    submit_many(waiting, [{}] * 4)
    one, two = make_worker("one@here"), make_worker("two@here")

    claimed = [lease(waiting, worker).id for worker in (one, two, one, two)]

    assert len(set(claimed)) == 4
    assert claim(waiting, one) is None


BACKLOG = """
INSERT INTO orchestrator_job
    (id, kind, queue, status, payload, run_at, rank, ready, finished_at, unfinished_dependencies)
SELECT gen_random_uuid(), %(kind)s, 'default', status, '{}', run_at, run_at, ready, finished_at, unfinished
FROM generate_series(1, 5000) AS n,
LATERAL (VALUES
    ('COMPLETED', now(), false, now(), 0),
    ('CREATED', now() + n * interval '1 s', false, NULL, 0),
    ('CREATED', now(), false, NULL, 1),
    ('CREATED', now() + n * interval '1 ms', true, NULL, 0)
) AS kinds_of_rows (status, run_at, ready, finished_at, unfinished)
"""


NEW, OLD, NONE = "statistics are new", "they are of a time when no job was ready", "there are none yet"


@pytest.fixture
def backlog(request: pytest.FixtureRequest, kind: DeclareKind, db: None) -> Kind:
    """A kind with thousands of jobs that are ready, and as many in each state in which they are not."""
    waiting = kind()
    with connection.cursor() as cursor:
        cursor.execute(BACKLOG, {"kind": waiting.name})
        if request.param == NEW:
            cursor.execute("ANALYZE orchestrator_job")
        elif request.param == NONE:
            cursor.execute("DELETE FROM pg_statistic WHERE starelid = 'orchestrator_job'::regclass")
        else:
            cursor.execute("UPDATE orchestrator_job SET ready = false WHERE ready RETURNING id")
            were_ready = [id for (id,) in cursor.fetchall()]
            cursor.execute("ANALYZE orchestrator_job")
            cursor.execute("UPDATE orchestrator_job SET ready = true WHERE id = ANY(%s)", [were_ready])
    return waiting


@pytest.mark.parametrize("backlog", [NEW, OLD, NONE], indirect=True)
@pytest.mark.parametrize("how", ["leased", "transactional"])
def test_a_claim_costs_the_same_however_many_jobs_wait(how: str, backlog: Kind, worker: WorkerProcess) -> None:
    ways = {
        "leased": lambda: claim(backlog, worker),
        "transactional": lambda: claims.lock_ready(replace(backlog, batch_size=200), worker_id=worker.row_id),
    }

    turns.absorb(backlog.name)
    nodes, blocks = explained(ways[how])

    on_jobs = [node for node in nodes if node.get("Relation Name") == "orchestrator_job"]
    assert {"job_ready_by_owner"} <= {node.get("Index Name") for node in on_jobs}
    assert "Seq Scan" not in {node["Node Type"] for node in on_jobs}
    assert "Sort" not in {node["Node Type"] for node in nodes}
    assert blocks < 2_000


# Without statistics PostgreSQL reads the whole of a table as short as this one.
@pytest.mark.parametrize("backlog", [NEW, OLD], indirect=True)
@pytest.mark.parametrize("what", ["the jobs of a batch", "what waits for them"])
def test_completing_a_batch_costs_the_same_however_many_jobs_wait(
    what: str, backlog: Kind, worker: WorkerProcess
) -> None:
    def batch() -> list[Claimed]:
        return claims.lock_ready(replace(backlog, batch_size=200), worker_id=worker.row_id)

    moves_on = {
        "the jobs of a batch": lambda: transitions.complete_locked(batch(), ["1"] * 200, worker_name=""),
        "what waits for them": lambda: pipelines.count_down([job.id for job in batch()]),
    }

    nodes, _ = explained(moves_on[what])

    on_jobs = [node for node in nodes if node.get("Relation Name") == "orchestrator_job"]
    assert "Seq Scan" not in {node["Node Type"] for node in on_jobs}
    assert "job_ready_by_owner" not in {node.get("Index Name") for node in nodes}


def test_a_batch_is_planned_as_usual_once_it_is_claimed(kind: DeclareKind, worker: WorkerProcess) -> None:
    def ask(running: RunningJob) -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW enable_sort")
            return str(cursor.fetchone()[0])

    asking = kind(ask, execution="transactional")
    job = submit(asking)

    run(asking, worker)

    assert again(job).result == "on"


def explained(move: Callable[[], object]) -> tuple[list[dict[str, Any]], int]:
    """The nodes of the plan by which the move's main statement is run, and how many blocks it touches."""
    with transaction.atomic(), CaptureQueriesContext(connection) as asked:
        move()
        transaction.set_rollback(True)
    on_jobs = [query["sql"] for query in asked.captured_queries if "orchestrator_job" in query["sql"]]
    settings, _, statement = max(on_jobs, key=len).rpartition(";")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"{settings or 'SELECT'}; EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")
        [[[answer]]] = cursor.fetchall()
    plan = answer["Plan"]
    return list(nodes_of(plan)), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


@pytest.mark.parametrize("asks", ["the worker", "the tick"])
def test_whether_jobs_wait_is_read_from_the_index_though_statistics_are_old(
    asks: str, kind: DeclareKind, worker: WorkerProcess
) -> None:
    drained = kind()
    KindRow.objects.get_or_create(name=drained.name, defaults={"queue": drained.queue})
    with connection.cursor() as cursor:
        cursor.execute(BACKLOG, {"kind": drained.name})
        cursor.execute("UPDATE orchestrator_job SET ready = unfinished_dependencies = 0 WHERE status = 'CREATED'")
        cursor.execute("ANALYZE orchestrator_job")
        cursor.execute("UPDATE orchestrator_job SET ready = false")
    with CaptureQueriesContext(connection) as asked:
        assert not claims.has_ready(drained) if asks == "the worker" else tick.ring_for_ready() is None

    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {asked.captured_queries[0]['sql']}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "job_ready_by_owner" in plan
    assert "Seq Scan on orchestrator_job" not in plan


def nodes_of(plan: dict[str, Any]) -> Any:
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes_of(below)


# Groups


def test_a_group_is_claimed_in_the_order_of_rank(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    jobs = [submit(waiting, priority=priority) for priority in (9, 0, 5, 5)]

    claim = transitions.claim(waiting, worker_id=worker.row_id, worker_name=worker.name, at_most=3)

    assert [job.id for job in claim.jobs] == [jobs[1].id, jobs[2].id, jobs[3].id]
    assert {again(job).status for job in claim.jobs} == {"RUNNING"}
    assert again(jobs[0]).attempt == 0


@pytest.mark.parametrize(("at_most", "has_more"), [(2, True), (3, False), (4, False)])
def test_a_claim_tells_whether_more_are_ready(
    at_most: int, has_more: bool, kind: DeclareKind, worker: WorkerProcess
) -> None:
    waiting = kind()
    submit_many(waiting, [{}] * 3)

    claim = transitions.claim(waiting, worker_id=worker.row_id, worker_name=worker.name, at_most=at_most)

    assert (len(claim.jobs), claim.has_more) == (min(at_most, 3), has_more)


def test_a_job_that_runs_alone_is_claimed_alone_and_never_beside_others(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waiting = kind()
    isolated, first, second = [submit(waiting) for _ in range(3)]
    third = submit(waiting)
    Job.objects.filter(id__in=[isolated.id, second.id]).update(runs_alone=True)

    claims = [
        transitions.claim(waiting, worker_id=worker.row_id, worker_name=worker.name, at_most=4).jobs for _ in range(4)
    ]

    assert [[job.id for job in claimed] for claimed in claims] == [
        [isolated.id],
        [first.id, third.id],
        [second.id],
        [],
    ]


def test_a_group_handed_back_is_as_if_it_had_never_been_claimed(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    submit_many(waiting, [{}] * 2)
    before = list(Job.objects.order_by("id").values(*COLUMNS_OF_THE_QUEUE))
    claim = transitions.claim(waiting, worker_id=worker.row_id, worker_name=worker.name, at_most=2)

    handed_back = transitions.hand_back_unstarted(claim.jobs)

    assert handed_back == {job.id for job in claim.jobs}
    assert list(Job.objects.order_by("id").values(*COLUMNS_OF_THE_QUEUE)) == before


def test_what_was_taken_back_or_is_to_be_cancelled_is_not_handed_back(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waiting = kind(backoff_seconds=0)
    submit_many(waiting, [{}] * 3)
    claim = transitions.claim(waiting, worker_id=worker.row_id, worker_name=worker.name, at_most=3)
    taken_back, cancelled, left = claim.jobs
    endings.end_attempt(taken_back, Ended(Attempt.Outcome.LOST))
    submission.cancel(cancelled.id)

    handed_back = transitions.hand_back_unstarted(claim.jobs)

    assert handed_back == {left.id}
    assert [again(job).attempt for job in claim.jobs] == [1, 1, 0]


COLUMNS_OF_THE_QUEUE = ("status", "ready", "attempt", "max_attempts", "rank", "run_at", "worker", "deadline_at")


def test_a_pipeline_is_started_once_by_the_first_claim_of_its_children(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    step, last = kind(), kind()
    parent, _ = pipeline(last, step, {"a": (), "b": (), "c": ()})

    with CaptureQueriesContext(connection) as of_first:
        transitions.claim(step, worker_id=worker.row_id, worker_name=worker.name, at_most=2)
    with CaptureQueriesContext(connection) as of_second:
        transitions.claim(step, worker_id=worker.row_id, worker_name=worker.name)

    assert again(parent).status == "RUNNING"
    start = "UPDATE orchestrator_job SET status = 'RUNNING'"
    assert [sum(start in query["sql"] for query in of.captured_queries) for of in (of_first, of_second)] == [1, 0]
