"""A trace goes from a request through its jobs' waits to their attempts, and what a collector is sent of it."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import pytest

from config.environment_variables import exports_traces
from orchestrator import jobs
from orchestrator.kinds import kind_named
from orchestrator.models import Job
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import RunningJob
from orchestrator.submission import Child, Occurrence, retry, submit, submit_many
from orchestrator.telemetry import exporting, tracing
from orchestrator.worker.process import WorkerProcess
from tests.api import Api, api
from tests.orchestrator.telemetry.collector import Span, collecting
from tests.orchestrator.telemetry.traced import BOTH, SPAN_ID, TRACE_ID, TRACEPARENT, Traced, traced
from tests.orchestrator.workbench import DeclareKind, lease, make_due, run
from tests.system.test_start import start

__all__ = ["api", "traced"]


def waits_before(wait: Span, attempt: Span) -> bool:
    return wait.began_at <= wait.ended_at <= attempt.began_at and wait.parent_id == attempt.parent_id


def test_an_orchestration_is_one_trace_from_its_request_to_its_jobs_with_their_waits(
    api: Api, worker: WorkerProcess, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "STEP_SECONDS", 0)
    draw, aggregate, combine = (kind_named(f"orchestration.{name}") for name in ("draw", "aggregate", "two_batches"))

    job_id = api.post("/orchestrate/ada", traceparent=TRACEPARENT).json()["job_id"]
    for kind in (draw, aggregate, draw, aggregate, combine):
        while run(kind, worker):
            pass

    assert Job.objects.get(id=job_id).status == "COMPLETED"
    spans = traced.spans()
    [request] = [span for span in spans if span.name.startswith("POST /orchestrate/")]
    assert (request.trace_id, request.parent_id, request.service) == (TRACE_ID, SPAN_ID, "muster")
    assert request.attributes["http.response.status_code"] == 202
    kinds = {draw.name: 10, aggregate.name: 2, combine.name: 1}
    for name, count in kinds.items():
        runs, waits = traced.named(name), traced.named(f"wait {name}")
        assert len(runs) == len(waits) == count
        assert all((span.trace_id, span.parent_id) == (TRACE_ID, request.id) for span in [*runs, *waits])
        assert {span.attributes["muster.job.outcome"] for span in runs} == {"COMPLETED"}
        wait_of = {span.attributes["muster.job.id"]: span for span in waits}
        assert all(waits_before(wait_of[span.attributes["muster.job.id"]], span) for span in runs)
        assert {span.attributes["muster.job.owner"] for span in runs} == {"ada"}
    ids = {str(id) for id in Job.objects.values_list("id", flat=True)}
    assert {span.attributes["muster.job.id"] for span in spans if span is not request} == ids
    assert len(ids) == 12 + 1


@BOTH
def test_retries_are_part_of_the_trace_and_the_last_one_that_fails_says_so(
    execution: Any, kind: DeclareKind, worker: WorkerProcess, traced: Traced
) -> None:
    def fails(running: RunningJob) -> None:
        raise ValueError("no")

    failing = kind(fails, execution=execution, max_attempts=2, backoff_seconds=60)
    job = submit(failing, run_at=None)

    run(failing, worker)
    make_due(job)
    Job.objects.update(ready=True)
    run(failing, worker)
    retry(job.id)
    run(failing, worker)

    [submission] = traced.named(f"submit {failing.name}")
    spans, waits = traced.named(failing.name), traced.named(f"wait {failing.name}")
    assert [span.attributes["muster.job.attempt"] for span in spans] == [1, 2, 3]
    assert [span.attributes["muster.job.attempt"] for span in waits] == [1, 2, 3]
    assert all(span.failed for span in spans)
    assert {span.parent_id for span in [*spans, *waits]} == {submission.id}
    for before, wait, after in zip(spans, waits[1:], spans[1:], strict=False):
        assert before.began_at <= wait.began_at <= wait.ended_at <= after.began_at


def test_jobs_that_a_handler_submits_are_part_of_its_attempt(
    kind: DeclareKind, worker: WorkerProcess, traced: Traced
) -> None:
    inner = kind()
    outer = [kind(lambda running: str(submit(inner).id), execution=each) for each in ("leased", "transactional")]

    for each in outer:
        submit(each)
        run(each, worker)
        run(inner, worker)

    for each, child in zip(outer, traced.named(inner.name), strict=True):
        [attempt] = traced.named(each.name)
        assert (child.trace_id, child.parent_id) == (attempt.trace_id, attempt.id)


def test_the_jobs_for_each_value_of_a_list_are_in_the_trace_of_their_pipeline(
    kind: DeclareKind, worker: WorkerProcess, traced: Traced
) -> None:
    rows, each, last = kind(lambda running: [1, 2]), kind(), kind()
    steps = [Child(name="rows", kind=rows.name), Child(name="each", kind=each.name, each={"$from": "rows"})]
    parent = submit(last, children=steps)

    run(rows, worker)
    while run(each, worker):
        pass

    assert [span.trace_id for span in traced.named(each.name)] == [str(parent.traceparent)[3:35]] * 2


def test_each_job_that_is_submitted_by_itself_has_a_trace_of_its_own(
    db: None, kind: DeclareKind, traced: Traced
) -> None:
    many, parent = kind(), kind()
    schedule_id = submit(many).id

    submit_many(many, [None, None])
    submit(many, occurrence=Occurrence(schedule_id))
    submit(parent, children=[Child(name="a", kind=many.name)])

    roots = traced.named(f"submit {many.name}", f"submit {parent.name}")
    assert len({span.trace_id for span in roots}) == len(roots) == 5
    assert [span.attributes.get("muster.schedule.id") for span in roots if span.attributes.get("muster.schedule.id")]
    assert len(set(Job.objects.values_list("traceparent", flat=True))) == 5
    [child] = Job.objects.filter(name="a")
    assert child.parent is not None
    assert child.traceparent == child.parent.traceparent


def test_an_attempt_that_died_with_its_worker_is_in_the_trace(
    kind: DeclareKind, worker: WorkerProcess, traced: Traced
) -> None:
    dying = kind(max_attempts=2, backoff_seconds=0)
    submit(dying)
    lease(dying, worker)

    declare_dead(worker.row_id)
    take_back_from_ended()

    [attempt] = traced.named(dying.name)
    assert (attempt.attributes["muster.job.outcome"], attempt.failed) == ("LOST", True)
    assert attempt.ended_at - attempt.began_at < timedelta(hours=1).total_seconds() * 1e9


def test_jobs_of_a_batch_that_failed_have_one_span_each(
    kind: DeclareKind, worker: WorkerProcess, traced: Traced
) -> None:
    def handler(running: RunningJob, payload: bool) -> None:
        if payload:
            raise ValueError("no")

    batching = kind(handler, payload=bool, execution="transactional", max_attempts=1)
    submit_many(batching, [False, True, False])

    while run(batching, worker):
        pass

    spans = traced.named(batching.name)
    assert sorted(span.attributes["muster.job.outcome"] for span in spans) == ["COMPLETED", "COMPLETED", "RAISED"]
    assert len(traced.named(f"wait {batching.name}")) == 3


def test_a_call_for_several_jobs_has_a_span_with_links_to_their_traces(
    kind: DeclareKind, worker: WorkerProcess, traced: Traced
) -> None:
    inner = kind()

    def handler(batch: list[RunningJob]) -> list[None]:
        submit(inner)
        return [None for _ in batch]

    batching = kind(handler, execution="transactional", takes_batch=True)
    submit_many(batching, [{}, {}])

    while run(batching, worker):
        pass

    submissions, spans = traced.named(f"submit {batching.name}"), traced.named(batching.name)
    [batch] = traced.named(f"batch {batching.name}")
    assert sorted(batch.links) == sorted(each.id for each in submissions)
    assert (batch.attributes["muster.batch.jobs"], batch.failed) == (2, False)
    assert [(each.links, each.attributes["muster.job.outcome"]) for each in spans] == [([batch.id], "COMPLETED")] * 2
    assert {each.trace_id for each in spans} == {each.trace_id for each in submissions}
    inner_job = Job.objects.get(kind=inner.name)
    assert inner_job.traceparent
    assert inner_job.traceparent.split("-")[1:3] == [batch.trace_id, batch.id]
    assert not tracing.batches


def test_a_call_for_several_jobs_that_failed_says_so_and_each_attempt_has_its_own_span(
    kind: DeclareKind, worker: WorkerProcess, traced: Traced
) -> None:
    def handler(batch: list[RunningJob]) -> list[None]:
        if any(each.payload for each in batch):
            raise ValueError("no")
        return [None for _ in batch]

    batching = kind(handler, payload=bool, execution="transactional", takes_batch=True, max_attempts=1)
    submit_many(batching, [False, True])

    while run(batching, worker):
        pass

    [batch] = traced.named(f"batch {batching.name}")
    assert batch.failed
    assert sorted(each.attributes["muster.job.outcome"] for each in traced.named(batching.name)) == [
        "COMPLETED",
        "RAISED",
    ]
    assert not tracing.batches


def test_what_was_submitted_without_a_trace_is_waited_for_unseen(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = kind()
    job = submit(plain)
    assert job.traceparent is None

    assert lease(plain, worker).waited_since is None


def test_health_checks_are_not_traced_and_a_bad_traceparent_begins_a_trace(db: None, api: Api, traced: Traced) -> None:
    api.get("/api/health/")
    api.get("/kinds", traceparent="00-nonsense")

    [request] = traced.spans()
    assert (request.name, request.parent_id) == ("GET /kinds", "")


@pytest.mark.parametrize(
    ("variables", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_opentelemetrys_own_variables_turn_traces_on(variables: dict[str, str], on: bool) -> None:
    assert exports_traces(variables) is on


def test_missing_packages_are_logged_once_and_nothing_is_traced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    assert exporting.make_provider() is None

    assert "install opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http" in caplog.text


SPAN = """
from config.start import start; start()
from orchestrator.telemetry import tracing
assert tracing.is_on()
with tracing.request_span("GET", {}):
    pass
"""


def test_a_process_that_ends_sends_its_last_spans() -> None:
    with collecting() as collector:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "mine"}
        ended = start(sys.executable, "-c", SPAN, DJANGO_SETTINGS_MODULE="config.settings", **variables)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert [(span.name, span.service) for span in collector.spans] == [("GET", "mine")]
