"""Inputs of jobs that were claimed together: read for all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from orchestrator import handler_inputs
from orchestrator.handler_inputs import of_group
from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.running import RunningJob
from orchestrator.worker import group_inputs, groups
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, again, pipeline, run

PIPELINES = 4


@pytest.fixture(autouse=True)
def in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No group takes longer than it should, however busy the machine is."""
    monkeypatch.setattr(groups, "WAIT_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many jobs each statement read the inputs."""
    counts: list[int] = []

    def count_and_read(ids: Sequence[UUID], **options: Any) -> list[tuple[Any, ...]]:
        counts.append(len(ids))
        return of_group(ids, **options)

    monkeypatch.setattr(handler_inputs, "of_group", count_and_read)
    return counts


def known_to_be_short(kind: Kind, worker: WorkerProcess) -> None:
    """As if the process had run many of its jobs, so that it claims as many at once as it may."""
    for _ in range(64):
        worker.pace.measured(kind.name, 0)


def group_of_parents(
    worker: WorkerProcess, step: Kind, last: Kind, after: dict[str, list[str]] | None = None
) -> list[Job]:
    """The last steps of pipelines, which the next claim of that kind finds together."""
    parents = [pipeline(last, step, after or {"a": [], "b": []})[0] for _ in range(PIPELINES)]
    while run(step, worker):
        pass
    known_to_be_short(last, worker)
    return parents


def results(jobs: Sequence[Job]) -> list[Any]:
    return [again(job).result for job in jobs]


def test_the_inputs_of_a_group_are_read_by_one_statement(
    kind: DeclareKind, worker: WorkerProcess, read: list[int]
) -> None:
    step, last = kind(lambda running: f"{running.row.parent_id} {running.row.name}"), kind(lambda run: run.inputs)
    parents = group_of_parents(worker, step, last)

    run(last, worker)

    assert read == [PIPELINES]
    assert results(parents) == [{"a": f"{parent.id} a", "b": f"{parent.id} b"} for parent in parents]


def test_children_of_a_group_are_given_the_results_of_what_they_came_after(
    kind: DeclareKind, worker: WorkerProcess, read: list[int]
) -> None:
    step = kind(lambda running: running.inputs or running.row.name)
    children = [pipeline(kind(), step, {"a": [], "b": [], "c": ["a"]})[1] for _ in range(PIPELINES)]

    for _ in range(2):
        known_to_be_short(step, worker)
        run(step, worker)

    assert read == [2 * PIPELINES, PIPELINES]
    assert results([each["b"] for each in children]) == ["b"] * PIPELINES
    assert results([each["c"] for each in children]) == [{"a": "a"}] * PIPELINES


def test_no_inputs_are_read_for_handlers_that_do_not_ask(
    kind: DeclareKind, worker: WorkerProcess, read: list[int]
) -> None:
    parents = group_of_parents(worker, kind(), last := kind(lambda running: "done"))

    run(last, worker)

    assert (read, results(parents)) == ([], ["done"] * PIPELINES)


def test_inputs_that_are_large_are_read_in_parts(
    kind: DeclareKind, worker: WorkerProcess, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, last = kind(lambda running: running.row.name), kind(lambda running: running.inputs)
    parents = group_of_parents(worker, step, last)
    monkeypatch.setattr(group_inputs, "MAX_BYTES", 2.5 * 2 * handler_inputs.ROW_BYTES)  # Those of two jobs.

    run(last, worker)

    assert read == [4, 2]
    assert results(parents) == [{"a": "a", "b": "b"}] * PIPELINES


def test_inputs_that_are_too_large_are_read_one_job_at_a_time(
    kind: DeclareKind, worker: WorkerProcess, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, last = kind(lambda running: running.row.name), kind(lambda running: running.inputs)
    parents = group_of_parents(worker, step, last)
    monkeypatch.setattr(group_inputs, "MAX_BYTES", 0)

    run(last, worker)

    assert results(parents) == [{"a": "a", "b": "b"}] * PIPELINES


def test_a_handler_that_has_changed_its_session_reads_nothing_for_others(
    kind: DeclareKind, worker: WorkerProcess, read: list[int]
) -> None:
    def handler(running: RunningJob) -> dict[str, Any]:
        if running.id == str(parents[0].id):
            with connection.cursor() as cursor:
                cursor.execute(
                    "CREATE TEMPORARY TABLE orchestrator_job (parent_id uuid, id int, name text, result jsonb)"
                )
        return running.inputs

    parents: list[Job] = []
    step, last = kind(lambda running: running.row.name), kind(handler)
    parents += group_of_parents(worker, step, last)

    run(last, worker)

    assert read == [PIPELINES - 1]
    assert results(parents)[1:] == [{"a": "a", "b": "b"}] * (PIPELINES - 1)


def test_a_group_goes_on_when_the_first_to_ask_does_not_get_its_inputs(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError("no answer")]

    def fail_once(ids: Sequence[UUID], **options: Any) -> list[tuple[Any, ...]]:
        if failures:
            raise failures.pop()
        return of_group(ids, **options)

    step, last = kind(lambda running: running.row.name), kind(lambda running: running.inputs, max_attempts=1)
    parents = group_of_parents(worker, step, last)
    monkeypatch.setattr(handler_inputs, "of_group", fail_once)

    run(last, worker)

    assert [again(parent).status for parent in parents] == ["FAILED"] + ["COMPLETED"] * (PIPELINES - 1)
    assert results(parents)[1:] == [{"a": "a", "b": "b"}] * (PIPELINES - 1)
