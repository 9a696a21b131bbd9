"""The tick: its parts may run at any time, by many at once, or not for an hour."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from orchestrator.models import IdempotencyKey, Job, Upkeep, Worker
from orchestrator.models import Kind as KindRow
from orchestrator.queue.recovery import declare_dead
from orchestrator.states import Status
from orchestrator.submission import submit
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import (
    LONG_OVERDUE,
    PATIENCE_SECONDS,
    DeclareKind,
    MakeWorker,
    again,
    lease,
    make_due,
    pipeline,
    threads,
)

PARTS = {part.__name__: part for part in tick.parts()}


@pytest.fixture
def trouble(kind: DeclareKind, make_worker: MakeWorker) -> dict[str, Job]:
    """Something to do for every part."""
    waiting, patient = kind(backoff_seconds=0), kind(max_attempts=3, backoff_seconds=0)
    orphan, overdue, future = submit(waiting), submit(patient), submit(waiting, run_at=in_an_hour())
    dead, hanging = make_worker("dead@here"), make_worker("hanging@here")
    lease(waiting, dead)
    declare_dead(dead.row_id)
    lease(patient, hanging)
    Job.objects.filter(id=overdue.id).update(deadline_at=Now() - LONG_OVERDUE)
    parent, children = pipeline(waiting, waiting, {"a": ()})
    Job.objects.filter(id=parent.id).update(status="RUNNING", unwinding=True, error="The child 'z' failed: no")
    make_due(future)
    return {"orphan": orphan, "overdue": overdue, "future": future, "parent": parent, "child": children["a"]}


def in_an_hour() -> datetime:
    return timezone.now() + timedelta(hours=1)


def picture() -> list[tuple[object, ...]]:
    """Everything a part could change, but for the times."""
    return list(
        Job.objects.order_by("id").values_list("id", "status", "ready", "attempt", "error", "worker_id", "unwinding")
    )


def test_one_tick_puts_everything_right(trouble: dict[str, Job]) -> None:
    tick.run_parts()

    now = {name: again(job) for name, job in trouble.items()}
    assert {name: (job.status, job.ready) for name, job in now.items()} == {
        "orphan": ("CREATED", True),
        "overdue": ("CREATED", True),
        "future": ("CREATED", True),
        "parent": ("FAILED", False),
        "child": ("CANCELLED", False),
    }


@pytest.mark.parametrize("name", PARTS)
def test_doing_a_part_again_changes_nothing(name: str, trouble: dict[str, Job]) -> None:
    PARTS[name]()
    once, attempts = picture(), again(trouble["orphan"]).attempts.count()

    PARTS[name]()

    assert picture() == once
    assert again(trouble["orphan"]).attempts.count() == attempts


def test_two_ticks_at_once_do_everything_once(trouble: dict[str, Job]) -> None:
    together = threading.Barrier(2, timeout=PATIENCE_SECONDS)

    def run_side_by_side() -> None:
        for part in tick.parts():
            together.wait()
            part()
        tick.run_parts()

    with threads(2) as call:
        for ticking in [call(run_side_by_side), call(run_side_by_side)]:
            ticking.result(PATIENCE_SECONDS)

    assert [again(trouble[name]).attempts.count() for name in ("orphan", "overdue")] == [1, 1]
    assert [again(trouble[name]).attempt for name in ("orphan", "overdue")] == [1, 1]
    assert again(trouble["parent"]).status == "FAILED"


@pytest.mark.parametrize("broken", range(len(tick.parts())))
def test_a_part_that_fails_does_not_hold_up_the_others(
    broken: int, trouble: dict[str, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def recorded(part: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            part()
            done.append(part.__name__)

        return run

    def explode() -> None:
        raise ValueError

    parts = [recorded(part) for part in tick.parts()]
    parts[broken] = explode
    failpoints = tick.parts().values()
    monkeypatch.setattr(tick, "parts", lambda: dict(zip(parts, failpoints, strict=True)))

    tick.run_parts()

    assert done == [name for position, name in enumerate(PARTS) if position != broken]
    assert Upkeep.objects.filter(part="tick").exists()


@pytest.mark.parametrize(
    ("part", "held"),
    [("end_overdue_attempts", "overdue"), ("make_due_ready", "future"), ("unwind_pipelines", "child")],
)
def test_a_part_waits_for_no_job_that_someone_holds(part: str, held: str, trouble: dict[str, Job]) -> None:
    before = again(trouble[held])

    with transaction.atomic():
        Job.objects.select_for_update().get(id=before.id)
        with threads(1) as call:
            call(PARTS[part]).result(PATIENCE_SECONDS)

    assert again(before).updated_at == before.updated_at


def test_the_tick_rings_for_kinds_with_ready_jobs_only(
    kind: DeclareKind, make_worker: MakeWorker, rung: list[str]
) -> None:
    ready, idle, future, paused = kind(), kind(), kind(), kind()
    make_worker()
    submit(ready)
    submit(paused)
    submit(future, run_at=timezone.now() + timedelta(hours=1))
    KindRow.objects.filter(name=paused.name).update(paused_at=Now())
    rung.clear()

    tick.ring_for_ready()

    assert rung == [ready.name]
    assert idle.name not in rung


def test_more_due_jobs_than_a_statement_takes_are_ready_after_a_few(
    kind: DeclareKind, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tick, "DUE_BATCH", 2)
    waiting = kind()
    jobs = [submit(waiting, run_at=timezone.now() + timedelta(hours=1)) for _ in range(5)]
    make_due(*jobs)

    counts = []
    for _ in range(3):
        tick.make_due_ready()
        counts.append(Job.objects.filter(ready=True).count())

    assert counts == [2, 4, 5]


def test_what_waits_for_others_or_has_ended_is_not_made_ready(kind: DeclareKind, worker: WorkerProcess) -> None:
    step = kind()
    pipeline(step, step, {"a": (), "b": ("a",)})
    lease(step, worker)

    tick.make_due_ready()

    assert not Job.objects.filter(ready=True).exists()


@pytest.mark.django_db
def test_idempotency_keys_are_forgotten_after_their_time() -> None:
    old = IdempotencyKey.objects.create(key="old", fingerprint="")
    IdempotencyKey.objects.filter(id=old.id).update(created_at=timezone.now() - timedelta(hours=25))
    IdempotencyKey.objects.create(key="young", fingerprint="")

    tick.prune()

    assert list(IdempotencyKey.objects.values_list("key", flat=True)) == ["young"]


@pytest.mark.django_db
def test_rows_of_workers_are_kept_for_a_week_and_as_long_as_they_hold_a_job(kind: DeclareKind) -> None:
    ended = [
        Worker.objects.create(
            name=name, host="", pid=1, process_started="", ended_at=timezone.now() - timedelta(days=age)
        )
        for name, age in (("old", 8), ("holding", 8), ("young", 6))
    ]
    held = submit(kind())
    Job.objects.filter(id=held.id).update(status=Status.RUNNING, ready=False, worker=ended[1].id)

    tick.prune()

    assert set(Worker.objects.values_list("name", flat=True)) == {"holding", "young"}


@pytest.mark.django_db
def test_pruning_rests_for_a_minute() -> None:
    tick.prune()
    old = IdempotencyKey.objects.create(key="old", fingerprint="")
    IdempotencyKey.objects.filter(id=old.id).update(created_at=timezone.now() - timedelta(hours=25))

    tick.prune()

    assert IdempotencyKey.objects.exists()


# As if all jobs were leased, overdue, and to be unwound.
BUSY = """
INSERT INTO orchestrator_job (id, kind, queue, payload, status, worker_id, deadline_at, unwinding)
SELECT gen_random_uuid(), 'test.busy', 'default', '{}', 'RUNNING', %s, now() - interval '1 year', true
FROM generate_series(1, 2000)
"""
AT_REST = "UPDATE orchestrator_job SET worker_id = NULL, deadline_at = NULL, unwinding = false"
READ_WHOLE = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'orchestrator_job'"


@pytest.mark.parametrize(
    "part",
    [tick.take_back_from_dead_workers, tick.end_overdue_attempts, tick.unwind_pipelines, tick.let_blocked_go],
)
def test_a_tick_does_not_read_the_whole_table_by_statistics_of_another_time(
    part: tick.Part, make_worker: MakeWorker
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(BUSY, [make_worker().row_id])
        cursor.execute("ANALYZE orchestrator_job")
        cursor.execute(AT_REST)
        cursor.execute(READ_WHOLE)
        [before] = cursor.fetchone()

        part()

        cursor.execute(READ_WHOLE)
        assert cursor.fetchone() == (before,)
