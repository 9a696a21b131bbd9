"""Live events of an owner's jobs over HTTP."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction

from orchestrator import submission
from orchestrator.live import reading
from orchestrator.models import Job
from orchestrator.running import RunningJob
from orchestrator.submission import submit
from orchestrator.worker.process import WorkerProcess
from tests.api import Api, Response
from tests.concurrency import in_thread
from tests.event_streams import Reader, statuses
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, claim, complete, fail, lease, run

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("frequent_looks")]


def test_the_moves_of_an_owners_jobs_are_told_and_no_others(
    api: Api, kind: DeclareKind, worker: WorkerProcess
) -> None:
    declared = kind(max_attempts=2)
    with closing(api.get("/events?owner=ada")) as response:
        reader = begun(response)
        submit(declared, owner="bob")
        job = submit(declared, owner="ada")

        told = [reader.next()]
        while (leased := claim(declared, worker)) is not None:
            if leased.id == job.id:
                told.append(reader.next())
                complete(leased)
                told.append(reader.next())

    assert statuses(told) == [("CREATED", 0), ("RUNNING", 1), ("COMPLETED", 1)]
    assert {event.data["job_id"] for event in told} == {str(job.id)}


def test_who_watches_an_owner_and_connects_again_misses_nothing(
    api: Api, kind: DeclareKind, worker: WorkerProcess
) -> None:
    declared = kind(max_attempts=2)
    waiting = submit(declared, owner="ada")
    with closing(api.get("/events?owner=ada")) as response:
        last = begun(response).last_id
    fail(lease(declared, worker), retryable=True)
    Job.objects.filter(id=waiting.id).update(ready=True)
    complete(lease(declared, worker))
    cancelled = submit(declared, owner="ada")
    submission.cancel(cancelled.id)
    submission.retry(cancelled.id)

    with closing(api.get("/events?owner=ada", Last_Event_ID=last)) as response:
        reader = Reader.of(response)
        told = [reader.next() for _ in range(7)]

    of = {str(waiting.id): "first", str(cancelled.id): "second"}
    by_job: dict[str, list[tuple[str, int]]] = {"first": [], "second": []}
    for event in told:
        by_job[of[event.data["job_id"]]].append(event.status)
    assert by_job["first"] == [("RUNNING", 1), ("CREATED", 1), ("RUNNING", 2), ("COMPLETED", 2)]
    assert by_job["second"] == [("CREATED", 0), ("CANCELLED", 0), ("CREATED", 0)]


def test_a_child_that_a_running_job_adds_is_told_though_its_id_is_as_old_as_the_jobs(
    api: Api, kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.live.reading.CLOCKS_AGREE_WITHIN_SECONDS", -0.01)
    child = kind()

    def add_child(running: RunningJob) -> Any:
        running.spawn(child)
        return running.after_children()

    parent = submit(adding := kind(add_child), owner="ada")
    with closing(api.get("/events?owner=ada")) as response:
        reader = begun(response)

        run(adding, worker)
        told = [reader.next() for _ in range(2)]

    by_status = {event.status: event.data for event in told}
    assert by_status["RUNNING", 1]["job_id"] == str(parent.id)
    assert by_status["CREATED", 0]["parent"] == str(parent.id)


def test_what_was_committed_late_is_told(api: Api, kind: DeclareKind) -> None:
    declared = kind()
    with closing(api.get("/events?owner=ada")) as response:
        reader = begun(response)
        with transaction.atomic():
            job = submit(declared, owner="ada")
            late = in_thread(lambda: submit(declared, owner="ada")).result(PATIENCE_SECONDS)
            first = reader.next()
        second = reader.next()

    assert [first.data["job_id"], second.data["job_id"]] == [str(late.id), str(job.id)]


def test_many_jobs_at_once_are_told_part_by_part(api: Api, kind: DeclareKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.live.reading.MAX_FOUND", 3)
    declared = kind()
    with closing(api.get("/events?owner=ada")) as response:
        last = begun(response).last_id
    jobs = [submit(declared, owner="ada") for _ in range(10)]

    with closing(api.get("/events?owner=ada", Last_Event_ID=last)) as response:
        reader = Reader.of(response)
        told = {reader.next().data["job_id"] for _ in jobs}

    assert told == {str(job.id) for job in jobs}


def test_after_a_part_the_next_is_not_searched_for_in_all_of_the_time(
    api: Api, kind: DeclareKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.live.reading.MAX_FOUND", 3)
    declared, spans = kind(), list[tuple[timedelta, timedelta]]()
    jobs = [submit(declared, owner="ada") for _ in range(10)]
    changed_of_owners = reading.changed_of_owners

    def record(owners: list[str], since: datetime, until: datetime, running: list[UUID]) -> reading.Window:
        window = changed_of_owners(owners, since, until, running)
        spans.append((until - since, window.until - since))
        return window

    monkeypatch.setattr(reading, "changed_of_owners", record)
    with closing(api.get("/events?owner=ada", Last_Event_ID="0.0")) as response:
        reader = Reader.of(response)
        told = {reader.next().data["job_id"] for _ in jobs}

    assert told == {str(job.id) for job in jobs}
    parts = [(found, searched) for (asked, found), (searched, _) in pairwise(spans) if found < asked]
    assert parts
    assert all(searched <= 2 * found for found, searched in parts)


def begun(response: Response) -> Reader:
    """The reader of a stream that has begun: it says since when."""
    reader = Reader.of(response)
    reader.wait_for_id()
    return reader
