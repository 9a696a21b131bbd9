"""Some attempts have spans, the others only the trace of their job, which costs them next to nothing."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.db.models.functions import Now
from opentelemetry import trace

from orchestrator.models import Job
from orchestrator.queue import transitions
from orchestrator.queue.claims import lock_ready
from orchestrator.running import RunningJob
from orchestrator.submission import submit, submit_many
from orchestrator.telemetry import attempts, tracing
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.telemetry.traced import BOTH, TRACE_ID, TRACEPARENT, Traced, traced
from tests.orchestrator.workbench import DeclareKind, lease, run

__all__ = ["traced"]


@BOTH
def test_of_many_attempts_some_have_spans_and_all_that_fail(
    execution: str,
    kind: DeclareKind,
    worker: WorkerProcess,
    traced: Traced,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempts.trace_budget, "take", lambda wanted: 0)
    inner = kind()

    def handler(running: RunningJob, payload: bool) -> None:
        if payload:
            raise ValueError("no")
        submit(inner)

    outer = kind(handler, payload=bool, execution=execution, max_attempts=1)
    submit_many(outer, [False, True, False])
    Job.objects.filter(kind=outer.name).update(traceparent=TRACEPARENT)

    while run(outer, worker):
        pass

    [failed] = traced.named(outer.name)
    assert (failed.attributes["muster.job.outcome"], failed.trace_id) == ("RAISED", TRACE_ID)
    assert [job.traceparent for job in Job.objects.filter(kind=inner.name)] == [TRACEPARENT] * 2
    assert not tracing.open_spans


def test_an_attempt_without_a_span_costs_nothing_at_its_end(
    kind: DeclareKind, worker: WorkerProcess, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = kind()
    job = submit(plain)
    monkeypatch.setattr(attempts.trace_budget, "take", lambda wanted: 0)
    monkeypatch.setitem(
        tracing.open_spans, ("of another job", 1), (trace.INVALID_SPAN, tracing.Attempt("", 1, "", ""))
    )
    made: list[Any] = []
    monkeypatch.setattr(tracing, "Attempt", lambda *values: made.append(values))

    run(plain, worker)

    job.refresh_from_db()
    assert (job.status, made) == ("COMPLETED", [])


def test_a_job_whose_trace_cannot_be_entered_runs_all_the_same(
    kind: DeclareKind, worker: WorkerProcess, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = kind()
    job = submit(plain)
    monkeypatch.setattr(attempts.trace_budget, "take", lambda wanted: 0)
    monkeypatch.setattr(tracing.context, "attach", lambda entered: 1 / 0)

    run(plain, worker)

    job.refresh_from_db()
    assert job.status == "COMPLETED"


def test_what_a_thread_does_after_an_attempt_without_a_span_is_not_in_its_trace(
    kind: DeclareKind, worker: WorkerProcess, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    plain = kind(lambda running: seen.append(tracing.ids()))
    job = submit(plain)
    monkeypatch.setattr(attempts.trace_budget, "take", lambda wanted: 0)

    run(plain, worker)

    assert [trace_id for trace_id, _ in seen] == [job.trace_id]
    assert tracing.ids() is None


@pytest.mark.parametrize("options", [{}, {"max_running": 5}, {"execution": "transactional"}], ids=str)
def test_a_job_waits_from_when_its_row_was_changed_before_the_claim(
    kind: DeclareKind, worker: WorkerProcess, options: dict[str, Any]
) -> None:
    some = kind(**options)
    job = submit(some)
    Job.objects.filter(id=job.id).update(traceparent=TRACEPARENT, updated_at=Now())
    job.refresh_from_db()

    if some.execution == "leased":
        claimed = lease(some, worker)
    else:
        with transaction.atomic():
            [claimed] = lock_ready(some, worker_id=worker.row_id)

    assert claimed.waited_since == max(job.run_at, job.updated_at)


def test_a_job_that_is_claimed_by_its_id_waits_from_then_too(kind: DeclareKind, worker: WorkerProcess) -> None:
    some = kind()
    job = submit(some)
    Job.objects.filter(id=job.id).update(traceparent=TRACEPARENT)
    job.refresh_from_db()

    [claimed] = transitions.claim(some, worker_id=worker.row_id, worker_name=worker.name, id=job.id).jobs

    assert claimed.waited_since == max(job.run_at, job.updated_at)


def test_of_many_jobs_in_one_call_some_have_spans(
    kind: DeclareKind, worker: WorkerProcess, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    batching = kind(lambda batch: [None for _ in batch], execution="transactional", takes_batch=True)
    submit_many(batching, [{}] * 5)
    monkeypatch.setattr(attempts.trace_budget, "take", lambda wanted: min(wanted, 2))

    while run(batching, worker):
        pass

    [batch] = traced.named(f"batch {batching.name}")
    assert batch.attributes["muster.batch.jobs"] == 5
    assert len(batch.links) == len(traced.named(batching.name)) == 2
    assert not tracing.batches


def test_no_more_traces_begin_than_are_granted(
    db: None, kind: DeclareKind, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts.trace_budget, "take", lambda wanted: min(wanted, 2))
    some = kind()

    submit_many(some, [{}] * 5)

    assert len(traced.named(f"submit {some.name}")) == 2
    assert Job.objects.filter(kind=some.name, traceparent=None).count() == 3
