"""What Flower and OpenTelemetry show of attempts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import Queue
from typing import Any

import pytest
from django.conf import settings
from opentelemetry import trace
from opentelemetry.sdk.trace import Event as SpanEvent
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from config.celery import app
from orchestrator.kinds import Kind, kind_named
from orchestrator.models import Job
from orchestrator.queue.pipelines import unwind
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import Cancelled, Interrupted, RunningJob, TimedOut
from orchestrator.stops import Stop
from orchestrator.submission import cancel, submit, submit_many
from orchestrator.telemetry import attempts, task_events, tracing
from orchestrator.telemetry.task_events import Event, Sender
from orchestrator.worker.process import WorkerProcess
from orchestrator.worker.remote_control import active_jobs
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, lease, pipeline, run, threads

BOTH = pytest.mark.parametrize("execution", ["leased", "transactional"])


class Recorder:
    """What would be sent, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def send(self, events: Sequence[Event]) -> None:
        self.events += events

    def of(self, job: Job) -> list[Event]:
        return [event for event in self.events if event["uuid"] == str(job.id)]

    def types_of(self, job: Job) -> list[str]:
        return [event["type"].removeprefix("task-") for event in self.of(job)]


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(attempts, "sender", recorder)
    monkeypatch.setattr(attempts, "flower_budget", attempts.Budget("FLOWER_BATCH_JOBS_PER_SECOND"))
    return recorder


def kind_of(job: Job) -> Kind:
    return kind_named(job.kind)


def run_one(job: Job, worker: WorkerProcess) -> None:
    run(kind_of(job), worker)


def fails(running: RunningJob) -> None:
    raise ValueError("no such number")


def stops_for(reason: type[Stop]) -> Callable[[RunningJob], None]:
    """Somebody else asks for it while the handler runs."""

    def handler(running: RunningJob) -> None:
        if reason is Cancelled:
            with threads(1) as other:
                other(cancel, running.row.id).result(PATIENCE_SECONDS)
        running.stop(reason)
        running.check()

    return handler


@BOTH
def test_a_completed_job_is_a_task_that_has_succeeded(
    kind: DeclareKind, worker: WorkerProcess, flower: Recorder, execution: str
) -> None:
    def handler(running: RunningJob) -> dict[str, int]:
        time.sleep(0.05)
        return {"sum": 3}

    job = submit(kind(handler, execution=execution), {"a": 1, "b": 2})

    run_one(job, worker)

    received, started, succeeded = flower.of(job)
    assert [received["type"], started["type"], succeeded["type"]] == [
        "task-received",
        "task-started",
        "task-succeeded",
    ]
    assert {event["name"] for event in flower.of(job)} == {job.kind}
    assert (received["args"], received["retries"], received["parent_id"]) == ('{"a": 1, "b": 2}', 0, None)
    assert succeeded["result"] == '{"sum":3}'
    assert 0.05 <= succeeded["runtime"] < 1
    assert received["timestamp"] <= started["timestamp"] <= succeeded["timestamp"] <= time.time()


@BOTH
def test_a_failed_job_is_a_task_that_has_failed_with_its_traceback(
    kind: DeclareKind, worker: WorkerProcess, flower: Recorder, execution: str
) -> None:
    job = submit(kind(fails, execution=execution, max_attempts=1))

    run_one(job, worker)

    assert flower.types_of(job) == ["received", "started", "failed"]
    failed = flower.of(job)[-1]
    assert (failed["exception"], failed["hostname"]) == ("ValueError: no such number", worker.name)
    assert 'raise ValueError("no such number")' in failed["traceback"]


@BOTH
def test_a_job_that_is_tried_again_is_a_task_that_is_retried(
    kind: DeclareKind, worker: WorkerProcess, flower: Recorder, execution: str
) -> None:
    job = submit(kind(fails, execution=execution, max_attempts=2, backoff_seconds=0))

    run_one(job, worker)
    run_one(job, worker)

    assert flower.types_of(job) == ["received", "started", "retried", "received", "started", "failed"]
    assert [event["retries"] for event in flower.of(job) if "retries" in event] == [0, 1]


@pytest.mark.parametrize("on_cancel", ["rollback", "keep"])
def test_a_job_cancelled_while_it_runs_is_a_revoked_task(
    kind: DeclareKind, worker: WorkerProcess, flower: Recorder, on_cancel: str
) -> None:
    job = submit(kind(stops_for(Cancelled), on_cancel=on_cancel))

    run_one(job, worker)

    assert flower.types_of(job) == ["received", "started", "revoked"]
    assert flower.of(job)[-1]["terminated"]


def test_a_job_cancelled_before_it_started_is_a_revoked_task(
    kind: DeclareKind, worker: WorkerProcess, flower: Recorder
) -> None:
    job = submit(kind())

    cancel(job.id)
    cancel(job.id)

    assert flower.types_of(job) == ["revoked"]
    assert (flower.of(job)[0]["name"], flower.of(job)[0]["terminated"]) == (job.kind, False)


def test_a_job_cancelled_while_it_waits_for_its_next_attempt_is_revoked_under_its_last_workers_name(
    kind: DeclareKind, worker: WorkerProcess, flower: Recorder
) -> None:
    job = submit(kind(fails, max_attempts=2, backoff_seconds=3_600))
    run_one(job, worker)

    cancel(job.id)

    assert flower.types_of(job) == ["received", "started", "retried", "revoked"]
    assert flower.of(job)[-1]["hostname"] == worker.name


def test_a_cancelled_pipeline_is_revoked_with_its_unstarted_children(
    kind: DeclareKind, worker: WorkerProcess, flower: Recorder
) -> None:
    step = kind()
    parent, children = pipeline(kind(), step, {"first": [], "second": ["first"]})
    run(step, worker)

    cancel(parent.id)

    assert flower.types_of(children["first"])[-1] == "succeeded"
    assert flower.types_of(children["second"]) == flower.types_of(parent) == ["revoked"]


def test_a_process_that_is_no_worker_reports_what_it_cancels_in_the_name_of_one_that_is_alive(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: Queue[list[Event]] = Queue()
    monkeypatch.setattr(Sender, "publish", lambda self, events: sent.put(events))
    job = submit(kind())

    cancel(job.id)

    [event] = sent.get(timeout=PATIENCE_SECONDS)
    assert (event["type"], event["uuid"], event["hostname"]) == ("task-revoked", str(job.id), worker.name)


def test_a_cancellation_that_cannot_be_reported_has_happened(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sender, "send", lambda self, events: 1 / 0)

    assert cancel(submit(kind()).id).status == "CANCELLED"


@pytest.mark.parametrize(
    ("reason", "end", "expected"),
    [(TimedOut, "failed", "It took longer than 1:00:00."), (Interrupted, "retried", "The worker was shut down.")],
)
def test_a_stopped_job_shows_why(
    kind: DeclareKind, worker: WorkerProcess, flower: Recorder, reason: type[Stop], end: str, expected: str
) -> None:
    job = submit(kind(stops_for(reason), max_attempts=1))

    run_one(job, worker)

    assert flower.types_of(job) == ["received", "started", end]
    assert flower.of(job)[-1]["exception"] == expected


def test_a_dead_workers_job_is_reported_under_that_workers_name(
    kind: DeclareKind, worker: WorkerProcess, flower: Recorder
) -> None:
    job = submit(kind(max_attempts=1))
    lease(kind_of(job), worker)

    declare_dead(worker.row_id)
    take_back_from_ended()

    assert flower.types_of(job) == ["failed"]
    assert (flower.of(job)[0]["hostname"], flower.of(job)[0]["name"]) == (worker.name, job.kind)


def test_a_child_is_a_child_in_flower_and_its_pipeline_fails_with_it(
    kind: DeclareKind, worker: WorkerProcess, flower: Recorder
) -> None:
    step = kind(fails, max_attempts=1)
    parent, children = pipeline(kind(), step, {"first": []})

    run(step, worker)
    unwind(parent.id)

    assert flower.of(children["first"])[0]["parent_id"] == str(parent.id)
    assert flower.types_of(parent) == ["received", "started", "failed"]
    assert "'first'" in flower.of(parent)[-1]["exception"]


def test_a_sample_of_the_jobs_in_batches_and_every_failure_are_reported(
    kind: DeclareKind, worker: WorkerProcess, flower: Recorder
) -> None:
    def handler(running: RunningJob) -> None:
        if running.payload == {"bad": True}:
            fails(running)

    batch = kind(handler, execution="transactional", max_attempts=1)
    submit_many(batch, [{"bad": number >= 97} for number in range(100)])

    run(batch, worker)

    ends = [flower.types_of(job)[-1:] for job in Job.objects.filter(kind=batch.name)]
    assert ends.count(["failed"]) == 3
    assert ends.count(["succeeded"]) == settings.ENV.FLOWER_BATCH_JOBS_PER_SECOND
    assert ends.count([]) == 97 - settings.ENV.FLOWER_BATCH_JOBS_PER_SECOND


def test_the_budget_is_of_each_second_and_is_not_saved_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("orchestrator.telemetry.attempts.time.monotonic", lambda: now[0])
    budget = attempts.Budget("FLOWER_BATCH_JOBS_PER_SECOND")
    per_second = settings.ENV.FLOWER_BATCH_JOBS_PER_SECOND

    granted = [budget.take(5), budget.take(1_000), budget.take(1)]
    now[0] += 0.5
    granted.append(budget.take(1_000))
    now[0] += 3_600
    granted.append(budget.take(1_000))

    assert granted == [5, per_second - 5, 0, per_second // 2, per_second]


def test_a_long_payload_result_or_traceback_is_shortened() -> None:
    [received, _] = task_events.begun("id", "kind", 1.0, payload="x" * 10_000, parent_id=None, attempt=1)
    succeeded = task_events.succeeded("id", "kind", result="y" * 10_000, runtime_seconds=1)
    failed = task_events.failed("id", "kind", error="e", traceback="first" + "z" * 20_000 + "last", again=False)

    assert len(received["args"]) == len(succeeded["result"]) == task_events.MAX_VALUE_CHARACTERS + 1
    assert len(failed["traceback"]) == task_events.MAX_TRACEBACK_CHARACTERS + 1
    assert failed["traceback"].startswith("first")
    assert failed["traceback"].endswith("last")


def test_while_the_broker_hangs_nobody_waits_and_a_bounded_number_of_events_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached, goes_on = threading.Event(), threading.Event()
    sent: list[int] = []

    def publish(self: Sender, events: list[Event]) -> None:
        reached.set()
        goes_on.wait(PATIENCE_SECONDS)
        sent.extend(event["number"] for event in events)

    monkeypatch.setattr(Sender, "publish", publish)
    sender = Sender(app, "tester@here").start()
    sender.send([{"number": -1}])
    assert reached.wait(PATIENCE_SECONDS)

    for number in range(task_events.MAX_BUFFERED + 1_000):
        sender.send([{"number": number}])
    goes_on.set()
    sender.stop()

    assert sent == [-1, *range(1_000, task_events.MAX_BUFFERED + 1_000)]


def test_the_last_events_are_sent_although_the_thread_runs_only_when_the_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class LateThread(threading.Thread):
        def start(self) -> None:
            """It gets no time before somebody waits for it."""

        def join(self, timeout: float | None = None) -> None:
            super().start()
            super().join(timeout)

    sent: list[int] = []
    monkeypatch.setattr(Sender, "publish", lambda self, events: sent.extend(event["number"] for event in events))
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Thread", LateThread)
        sender = Sender(app, "tester@here").start()

    sender.send([{"number": 1}])
    sender.stop()

    assert sent == [1]


def test_events_that_a_broker_refuses_are_dropped_and_later_ones_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_events, "RETRY_SECONDS", 0)
    refused, sent = threading.Event(), threading.Event()

    def publish(self: Sender, events: list[Event]) -> None:
        if not refused.is_set():
            refused.set()
            raise OSError("the broker is away")
        sent.set()

    monkeypatch.setattr(Sender, "publish", publish)
    sender = Sender(app, "tester@here").start()

    sender.send([{"number": 1}])
    assert refused.wait(PATIENCE_SECONDS)
    sender.send([{"number": 2}])

    assert sent.wait(PATIENCE_SECONDS)
    sender.stop()


def test_inspect_active_lists_leased_jobs_and_those_in_a_batch(kind: DeclareKind, worker: WorkerProcess) -> None:
    seen: list[dict[str, Any]] = []

    def handler(running: RunningJob) -> None:
        look = threading.Thread(target=lambda: seen.extend(active_jobs(worker.name)))
        look.start()
        look.join(PATIENCE_SECONDS)

    leased = submit(kind(handler), {"text": "x" * 1_000})
    in_batch = submit(kind(handler, execution="transactional"))

    run_one(leased, worker)
    run_one(in_batch, worker)

    assert [(each["id"], each["name"], each["hostname"]) for each in seen] == [
        (str(job.id), job.kind, worker.name) for job in (leased, in_batch)
    ]
    assert len(seen[0]["args"]) == task_events.MAX_VALUE_CHARACTERS
    assert active_jobs(worker.name) == []


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Those of a process that somebody has set OpenTelemetry up in."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def attributes(reported: ReadableSpan | SpanEvent) -> Mapping[str, Any]:
    return reported.attributes or {}


def attempts_of(spans: InMemorySpanExporter, job: Job) -> list[ReadableSpan]:
    """The spans of a job's attempts, and of what they have traced; not of its submission and its waits."""
    return [
        span
        for span in spans.get_finished_spans()
        if attributes(span)["muster.job.id"] == str(job.id) and not span.name.startswith(("submit ", "wait "))
    ]


@BOTH
def test_each_attempt_has_a_span_and_a_failed_one_its_error(
    kind: DeclareKind, worker: WorkerProcess, spans: InMemorySpanExporter, execution: str
) -> None:
    def handler(running: RunningJob) -> None:
        if running.attempt == 1:
            fails(running)

    job = submit(kind(handler, execution=execution, max_attempts=2, backoff_seconds=0), owner="ada")

    run_one(job, worker)
    run_one(job, worker)

    first, second = attempts_of(spans, job)
    assert first.name == second.name == job.kind
    assert [attributes(span)["muster.job.attempt"] for span in (first, second)] == [1, 2]
    assert [attributes(span)["muster.job.outcome"] for span in (first, second)] == ["RAISED", "COMPLETED"]
    assert attributes(first)["muster.job.owner"] == "ada"
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert first.status.description == "ValueError: no such number"
    [exception] = first.events
    assert attributes(exception)["exception.type"] == "ValueError"
    assert 'raise ValueError("no such number")' in str(attributes(exception)["exception.stacktrace"])
    assert not tracing.open_spans


def test_what_a_handler_traces_is_part_of_its_attempt(
    kind: DeclareKind, worker: WorkerProcess, spans: InMemorySpanExporter
) -> None:
    def handler(running: RunningJob) -> None:
        with trace.get_tracer("mine").start_as_current_span("inner", attributes={"muster.job.id": running.id}):
            pass

    job = submit(kind(handler))

    run_one(job, worker)

    inner, attempt = attempts_of(spans, job)
    assert inner.parent is not None
    assert inner.parent.span_id == attempt.context.span_id
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize(("reason", "outcome"), [(Cancelled, "CANCELLED"), (Interrupted, "INTERRUPTED")])
def test_an_attempt_that_was_stopped_has_not_failed(
    kind: DeclareKind,
    worker: WorkerProcess,
    spans: InMemorySpanExporter,
    reason: type[Stop],
    outcome: str,
) -> None:
    job = submit(kind(stops_for(reason)))

    run_one(job, worker)

    [span] = attempts_of(spans, job)
    assert (attributes(span)["muster.job.outcome"], span.status.status_code) == (outcome, StatusCode.UNSET)


def test_a_tracer_that_fails_fails_no_job(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "is_on", lambda: True)
    monkeypatch.setattr(trace, "get_tracer", lambda name: 1 / 0)
    jobs = [submit(kind(execution=execution)) for execution in ("leased", "transactional")]

    for job in jobs:
        run_one(job, worker)

    assert set(Job.objects.values_list("status", flat=True)) == {"COMPLETED"}
