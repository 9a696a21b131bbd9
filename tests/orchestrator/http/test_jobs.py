"""/jobs, /jobs/{id}, /jobs/{id}/retry and /kinds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext, override_script_prefix
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from orchestrator import queries, submission
from orchestrator.http import links
from orchestrator.http.job_serializers import JobSerializer, JobWithPayloadSerializer
from orchestrator.models import Attempt, Checkpoint, Job, OwnerShare, Worker
from orchestrator.models import Kind as KindRow
from orchestrator.states import Status
from orchestrator.submission import submit
from tests.api import Api, pointers
from tests.factories import make_attempt, make_job
from tests.moves import put
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, threads

pytestmark = pytest.mark.django_db

UNKNOWN = "01980c5e-7a00-7000-8000-000000000000"
A_JOB = {
    "job_id", "kind", "status", "waiting_for", "priority", "owner", "attempt", "max_attempts", "progress", "result",
    "error", "attempts", "signal", "parent", "name", "children", "schedule", "scheduled_for", "celery_task_id",
    "trace_id", "worker", "run_at", "created_at", "started_at", "finished_at", "updated_at", "links",
}  # fmt: skip


def shown(api: Api, job: Job) -> dict[str, Any]:
    return dict(api.get(f"/jobs/{job.id}").json())


def ids(page: dict[str, Any]) -> list[str]:
    return [job["job_id"] for job in page["results"]]


# Submitting


def test_an_empty_body_submits_the_demo_job(api: Api) -> None:
    response = api.post("/jobs")

    job = Job.objects.get()
    assert response.status_code == 202
    assert response.json()["links"]["self"] == f"/jobs/{job.id}"
    assert response["Location"] == f"http://testserver/jobs/{job.id}"
    assert (job.kind, job.payload, job.owner) == ("demo.slices", {"slices": 5, "seconds_per_slice": 1}, "")


@pytest.mark.parametrize("content_type", ["", "application/x-www-form-urlencoded", "application/json", "text/plain"])
def test_without_a_body_any_content_type_will_do(api: Api, content_type: str) -> None:
    assert api.send("POST", "/jobs", content_type=content_type).status_code == 202


def test_every_field_takes_effect(api: Api) -> None:
    run_at = timezone.now().replace(microsecond=0) + timedelta(hours=1)

    response = api.post(
        "/jobs",
        {
            "kind": "demo.slices",
            "payload": {"slices": 2},
            "priority": 0,
            "run_at": run_at.isoformat(),
            "max_attempts": 7,
            "owner": "ada",
        },
    )

    job = Job.objects.get()
    assert response.status_code == 202
    assert (job.payload["slices"], job.priority, job.run_at, job.max_attempts, job.owner) == (2, 0, run_at, 7, "ada")


def test_null_is_as_good_as_leaving_a_field_out(api: Api) -> None:
    body = {"kind": "demo.slices", "payload": None, "priority": None, "run_at": None, "max_attempts": None}

    assert api.post("/jobs", body).status_code == 202
    assert (Job.objects.get().priority, Job.objects.get().max_attempts) == (5, 3)


def test_submitting_takes_few_statements(
    api: Api, django_assert_num_queries: DjangoAssertNumQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The INSERT, the reads of the job and of the answer, each SAVEPOINT and RELEASE of the request (outside of tests a
    # transaction) and of the submission. A process reads the limits of all kinds three times a second at most.
    monkeypatch.setattr("orchestrator.queue.kind_limits.KNOWN_SECONDS", 60)
    api.post("/jobs")
    with django_assert_num_queries(7):
        api.post("/jobs")


# Reading one


def test_a_job_is_returned_with_all_its_fields(api: Api) -> None:
    job = make_job(
        Status.COMPLETED,
        owner="ada",
        result={"a": 1},
        progress_done=2,
        progress_total=3,
        progress_message="two of three",
    )

    answer = shown(api, job)

    assert answer.keys() == A_JOB | {"payload", "checkpoints", "limit"}
    assert (answer["job_id"], answer["status"], answer["owner"]) == (str(job.id), "COMPLETED", "ada")
    assert answer["progress"] == {"done": 2, "total": 3, "message": "two of three"}
    assert (answer["result"], answer["error"], answer["attempts"], answer["children"]) == ({"a": 1}, "", [], None)


def test_a_job_names_the_trace_that_it_was_submitted_in(api: Api) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"

    assert shown(api, make_job(traceparent=f"00-{trace_id}-00f067aa0ba902b7-01"))["trace_id"] == trace_id
    assert shown(api, make_job())["trace_id"] is None


def test_a_job_is_returned_with_just_the_documented_fields(api: Api) -> None:
    parent = make_job(Status.FAILED, attempt=2)
    make_job(parent=parent, name="child")
    make_attempt(parent, number=1, traceback="Traceback …")
    Checkpoint.objects.create(job=parent, name="charge", seconds=0.5)

    told, listed = shown(api, parent), api.get("/jobs").json()["results"][-1]
    told["limit"] = {"name": "rate", "of": None, "expected_seconds": None}  # It waits for none.

    assert names(told) == declared(JobWithPayloadSerializer())
    assert names(listed) == declared(JobSerializer())


def names(value: Any) -> Any:
    """The keys of an object in order, each with those of the objects in it that are not the client's."""
    if isinstance(value, list):
        return names(value[0])
    if not isinstance(value, dict):
        return None
    return [(name, None if name in ("payload", "result") else names(inner)) for name, inner in value.items()]


def declared(field: Any) -> Any:
    inner = getattr(getattr(field, "child", field), "fields", None)
    return inner and [(name, declared(each)) for name, each in inner.items()]


def test_an_unchanged_job_is_a_304_for_a_client_that_has_its_etag(
    api: Api, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    job = make_job(Status.COMPLETED, result={"a": 1})
    etag = api.get(f"/jobs/{job.id}")["ETag"]

    with django_assert_num_queries(1):
        answer = api.get(f"/jobs/{job.id}", If_None_Match=f'"another", {etag}')

    assert (answer.status_code, answer.content, answer["ETag"]) == (304, b"", etag)
    assert answer["Cache-Control"] == "private, no-cache"


def start(job: Job) -> None:
    Job.objects.filter(id=job.id).update(status=Status.RUNNING, started_at=Now())


def progress(job: Job) -> None:
    Job.objects.filter(id=job.id).update(progress_done=1, updated_at=Now())


def start_a_child(job: Job) -> None:
    job.children.update(status=Status.RUNNING, started_at=Now())


def pause_its_kind(job: Job) -> None:
    KindRow.objects.update_or_create(name=job.kind, defaults={"queue": job.queue, "paused_at": Now()})


def come_due(job: Job) -> None:
    Job.objects.filter(id=job.id).update(run_at=Now() - timedelta(seconds=1))


@pytest.mark.parametrize("change", [start, progress, start_a_child, pause_its_kind, come_due])
def test_every_change_of_a_job_changes_its_etag(api: Api, change: Callable[[Job], None]) -> None:
    job = make_job(run_at=timezone.now() + timedelta(hours=1))
    make_job(parent=job, name="child")
    before = api.get(f"/jobs/{job.id}")

    change(job)

    after = api.get(f"/jobs/{job.id}", If_None_Match=before["ETag"])
    assert (after.status_code, after["ETag"] == before["ETag"]) == (200, False)
    assert after.json() != before.json()


def test_an_etag_is_valid_for_its_viewer_alone(api: Api, as_user: Callable[..., Api], asks_for_tokens: None) -> None:
    job = make_job(Status.FAILED, owner="ada", attempt=1, error="ValueError: again")
    make_attempt(job, number=1, traceback="Traceback …")
    etag = as_user("ada").get(f"/jobs/{job.id}")["ETag"]

    assert as_user("staff", is_superuser=True).get(f"/jobs/{job.id}", If_None_Match=etag).status_code == 200
    assert as_user("eve").get(f"/jobs/{job.id}", If_None_Match=etag).status_code == 404
    assert api.get(f"/jobs/{job.id}", If_None_Match=etag).status_code == 401


def test_times_are_iso_8601_in_utc(api: Api) -> None:
    answer = shown(api, make_job(created_at=datetime(2030, 1, 31, 12, 0, 0, 123_000, UTC)))

    assert answer["created_at"] == "2030-01-31T12:00:00.123000Z"


def test_a_failed_job_is_a_200_with_every_attempt(api: Api) -> None:
    job = make_job(Status.FAILED, attempt=2, error="ValueError: again")
    make_attempt(job, number=1, outcome=Attempt.Outcome.LOST, error="Its worker died.", worker_name="io@here")
    make_attempt(job, number=2, error="ValueError: again", traceback="Traceback …")

    answer = api.get(f"/jobs/{job.id}")

    first, second = answer.json()["attempts"]
    assert (answer.status_code, answer.json()["error"]) == (200, "ValueError: again")
    assert (first["number"], first["outcome"], first["worker"]) == (1, "LOST", "io@here")
    assert (second["error"], second["traceback"]) == ("ValueError: again", "Traceback …")


def test_a_parent_counts_its_children(api: Api) -> None:
    parent = make_job(Status.RUNNING, unfinished_dependencies=2)
    for number, status in enumerate([Status.COMPLETED, Status.COMPLETED, Status.RUNNING, Status.CREATED]):
        make_job(status, parent=parent, name=f"child {number}")

    answer = shown(api, parent)

    assert answer["children"] == {"total": 4, "created": 1, "running": 1, "completed": 2, "failed": 0, "cancelled": 0}
    assert len(api.get(answer["links"]["children"]).json()["results"]) == 4


def test_a_child_names_its_parent(api: Api) -> None:
    parent = make_job()
    child = make_job(parent=parent, name="first draw")

    answer = shown(api, child)

    assert (answer["parent"], answer["name"]) == (str(parent.id), "first draw")
    assert answer["links"]["parent"].endswith(str(parent.id))


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("status", "columns", "reason"),
    [
        (Status.CREATED, {}, "worker"),
        (Status.CREATED, {"unfinished_dependencies": 1}, "dependencies"),
        (Status.CREATED, {"ready": False, "run_at": timezone.now() + HOUR}, "start_time"),
        (Status.CREATED, {"ready": False, "run_at": timezone.now() + HOUR, "attempt": 1, "error": "no"}, "retry"),
        (Status.CREATED, {"ready": False, "run_at": timezone.now() + HOUR, "attempt": 1}, "snooze"),
        (Status.CREATED, {"kind": "paused.kind"}, "paused_kind"),
        (Status.CREATED, {"owner": "paused"}, "paused_owner"),
        (Status.RUNNING, {"unfinished_dependencies": 1}, "dependencies"),
        (Status.RUNNING, {"ready": True}, "worker"),
        (Status.COMPLETED, {}, None),
        (Status.FAILED, {}, None),
        (Status.CANCELLED, {"unfinished_dependencies": 1}, None),
    ],
)
def test_an_unfinished_job_says_what_it_waits_for(
    api: Api, status: Status, columns: dict[str, Any], reason: str | None
) -> None:
    KindRow.objects.create(name="paused.kind", queue="io", paused_at=timezone.now())
    OwnerShare.objects.create(owner="paused", paused_at=timezone.now())
    job = make_job(status, **columns)

    assert shown(api, job)["waiting_for"] == reason


def test_a_running_job_waits_for_nothing(api: Api) -> None:
    worker = Worker.objects.create(name="io@here", host="here", pid=1, process_started="1")
    job = make_job(Status.RUNNING, worker=worker, worker_name="io@here")

    assert (shown(api, job)["waiting_for"], shown(api, job)["worker"]) == (None, "io@here")


@pytest.mark.parametrize(
    ("status", "possible"),
    [
        (Status.CREATED, {"cancel"}),
        (Status.RUNNING, {"cancel"}),
        (Status.COMPLETED, set()),
        (Status.FAILED, {"retry"}),
        (Status.CANCELLED, {"retry"}),
    ],
)
def test_links_say_what_can_be_done(api: Api, status: Status, possible: set[str]) -> None:
    shown_links = shown(api, make_job(status))["links"]

    assert {name for name in ("cancel", "retry") if shown_links[name]} == possible


def test_links_begin_where_muster_is_mounted(api: Api) -> None:
    job = make_job()
    links.pattern.cache_clear()

    for mounted_at in ("/muster/", "/"):
        with override_script_prefix(mounted_at):
            assert shown(api, job)["links"]["self"] == f"{mounted_at}jobs/{job.id}"


def test_reading_a_job_takes_one_statement_and_one_for_its_attempts(
    api: Api, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    fresh, tried, completed = make_job(), make_job(Status.FAILED), make_job(Status.COMPLETED)
    leased = make_job(Status.RUNNING, worker=Worker.objects.create(name="io@here", host="here", pid=1))

    with django_assert_num_queries(1):
        shown(api, fresh)
    with django_assert_num_queries(2):
        shown(api, tried)
    for at_first_attempt in completed, leased:
        with django_assert_num_queries(1):
            shown(api, at_first_attempt)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.RUNNING])
def test_a_job_shows_its_earlier_attempts(api: Api, status: Status) -> None:
    worker = Worker.objects.create(name="io@here", host="here", pid=1) if status == Status.RUNNING else None
    job = make_job(status, attempt=2, worker=worker)
    make_attempt(job, number=1)

    assert [attempt["number"] for attempt in shown(api, job)["attempts"]] == [1]


def test_an_unknown_job_is_not_found(api: Api) -> None:
    for response in (api.get(f"/jobs/{UNKNOWN}"), api.delete(f"/jobs/{UNKNOWN}"), api.post(f"/jobs/{UNKNOWN}/retry")):
        assert (response.status_code, response["Content-Type"]) == (404, "application/problem+json")
        assert response.json()["type"] == "urn:muster:problem:no-such-job"


def test_a_malformed_id_is_refused(api: Api) -> None:
    for response in (api.get("/jobs/7"), api.delete("/jobs/7"), api.post("/jobs/7/retry")):
        assert (response.status_code, pointers(response)) == (400, ["/job_id"])


# Waiting for one


def test_waiting_for_a_job_that_has_ended_takes_no_time(api: Api) -> None:
    job = make_job(Status.FAILED)
    began = time.monotonic()

    assert api.get(f"/jobs/{job.id}?wait=30").json()["status"] == "FAILED"
    assert time.monotonic() - began < 5


def test_waiting_ends_after_the_time_asked_for(api: Api) -> None:
    job = make_job()
    began = time.monotonic()

    assert api.get(f"/jobs/{job.id}?wait=0.3").json()["status"] == "CREATED"
    assert 0.3 <= time.monotonic() - began < 5


def test_waiting_is_bounded_by_the_setting(api: Api, settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, MAX_WAIT_SECONDS=0.1)
    job = make_job()
    began = time.monotonic()

    assert api.get(f"/jobs/{job.id}?wait=1000").status_code == 200
    assert time.monotonic() - began < 5


@contextmanager
def waiting_request(job: Job, monkeypatch: pytest.MonkeyPatch) -> Iterator[Future[Any]]:
    """The response to come to a request that waits for the job, once it has looked at it for the first time."""
    looked_once = _event_at_first_look(monkeypatch)
    with threads(1) as run:
        response = run(Api().get, f"/jobs/{job.id}?wait=60")
        assert looked_once.wait(PATIENCE_SECONDS)
        yield response


@pytest.mark.django_db(transaction=True)
def test_waiting_ends_with_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job()

    with waiting_request(job, monkeypatch) as answer:
        began = time.monotonic()
        submission.cancel(job.id)
        status = answer.result(PATIENCE_SECONDS).json()["status"]

    assert status == "CANCELLED"
    assert time.monotonic() - began < 5


@pytest.mark.django_db(transaction=True)
def test_one_waiter_too_many_is_answered_at_once(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, MAX_WAITERS=1)
    job = make_job()

    with waiting_request(job, monkeypatch) as first:
        began = time.monotonic()
        second = Api().get(f"/jobs/{job.id}?wait=60")
        took = time.monotonic() - began
        submission.cancel(job.id)
        first.result(PATIENCE_SECONDS)

    assert (second.status_code, second.json()["status"]) == (200, "CREATED")
    assert took < 5
    assert not queries.waiting


def test_the_waiting_requests_of_one_user_leave_places_for_others(settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, MAX_WAITERS=8)

    with ExitStack() as waiting:
        ours = [waiting.enter_context(queries.place_to_wait(1)) for _ in range(3)]
        theirs = waiting.enter_context(queries.place_to_wait(2))

        assert ours == [True, True, False]
        assert theirs
    assert not queries.waiting


@pytest.mark.django_db(transaction=True)
def test_nobody_waits_within_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job()
    in_transaction: list[bool] = []
    monkeypatch.setattr("orchestrator.queries.time.sleep", lambda _: in_transaction.append(connection.in_atomic_block))

    Api().get(f"/jobs/{job.id}?wait=0.05")

    assert in_transaction
    assert not any(in_transaction)


def _event_at_first_look(monkeypatch: pytest.MonkeyPatch) -> Any:
    looked, sleep = threading.Event(), time.sleep

    def look_then_sleep(seconds: float) -> None:
        looked.set()
        sleep(seconds)

    monkeypatch.setattr("orchestrator.queries.time.sleep", look_then_sleep)
    return looked


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "1e999", "soon"])
def test_an_invalid_time_to_wait_is_refused(api: Api, wait: str) -> None:
    response = api.get(f"/jobs/{make_job().id}?wait={wait}")

    assert (response.status_code, pointers(response)) == (400, ["/wait"])


# Listing


def test_jobs_are_listed_newest_first_page_by_page(api: Api) -> None:
    jobs = [str(make_job().id) for _ in range(5)]

    first = api.get("/jobs?limit=2").json()
    second = api.get(first["next"]).json()
    third = api.get(second["next"]).json()

    assert ids(first) + ids(second) + ids(third) == jobs[::-1]
    assert third["next"] is None


def test_jobs_that_are_added_meanwhile_shift_no_page(api: Api) -> None:
    old = [str(make_job().id) for _ in range(3)]
    first = api.get("/jobs?limit=2").json()

    make_job()

    assert ids(first) + ids(api.get(first["next"]).json()) == old[::-1]


def test_a_listed_job_has_all_but_its_payload(api: Api) -> None:
    make_job()

    assert api.get("/jobs").json()["results"][0].keys() == A_JOB


def test_a_page_takes_one_statement_and_one_for_all_attempts(
    api: Api, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for _ in range(3):
        make_attempt(make_job(Status.FAILED))

    with django_assert_num_queries(2):
        page = api.get("/jobs").json()
    assert [len(job["attempts"]) for job in page["results"]] == [1, 1, 1]


def test_a_page_deep_down_costs_what_the_first_does(api: Api) -> None:
    middle = submission.submit_many("demo.slices", [{}] * 4_000)[2_000]
    with connection.cursor() as cursor, CaptureQueriesContext(connection) as read:
        cursor.execute("ANALYZE orchestrator_job")
        read.initial_queries = len(connection.queries_log)
        api.get(f"/jobs?cursor={middle}&limit=10")
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {read.captured_queries[0]['sql']}")
        (plan,) = cursor.fetchone()

    (rows,) = [step for step in steps(plan[0]["Plan"]) if step.get("Index Name") == "orchestrator_job_pkey"]
    assert (rows["Node Type"], rows["Scan Direction"]) == ("Index Scan", "Backward")
    assert rows["Actual Rows"] == 11


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("owner=ada", "job_of_owner"),
        ("owner=ada&status=COMPLETED", "job_of_owner"),
        ("kind=rare", "job_by_kind"),
        ("status=FAILED", "job_by_status"),
    ],
)
def test_a_list_that_few_jobs_fit_is_read_from_its_index(query: str, index: str, api: Api) -> None:
    make_job(Status.FAILED, owner="ada", kind="rare")
    submission.submit_many("demo.slices", [{}] * 4_000)
    put(Job.objects.filter(status=Status.CREATED), status="COMPLETED", ready=False, finished_at=Now())
    with connection.cursor() as cursor, CaptureQueriesContext(connection) as read:
        cursor.execute("ANALYZE orchestrator_job")
        read.initial_queries = len(connection.queries_log)
        api.get(f"/jobs?{query}")
        [statement] = [each["sql"] for each in read.captured_queries if 'FROM "orchestrator_job"' in each["sql"]]
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}")
        (plan,) = cursor.fetchone()

    assert index in {step.get("Index Name") for step in steps(plan[0]["Plan"])}


def steps(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from steps(inner)


def test_filters_narrow_the_list(api: Api) -> None:
    parent = make_job(Status.RUNNING, owner="ada", kind="orchestration.two_batches")
    child = make_job(Status.FAILED, owner="ada", parent=parent, name="child")
    other = make_job(Status.COMPLETED, owner="grace")

    def found(query: str) -> set[str]:
        return set(ids(api.get(f"/jobs?{query}").json()))

    assert found("status=FAILED") == {str(child.id)}
    assert found("status=FAILED&status=COMPLETED") == {str(child.id), str(other.id)}
    assert found("kind=orchestration.two_batches") == {str(parent.id)}
    assert found("owner=grace") == {str(other.id)}
    assert found(f"parent={parent.id}") == {str(child.id)}
    assert found("parent=none") == {str(parent.id), str(other.id)}
    assert found("owner=ada&parent=none&status=RUNNING") == {str(parent.id)}


def test_the_created_range_includes_its_beginning_and_not_its_end(api: Api) -> None:
    noon = datetime(2025, 6, 1, 12, tzinfo=UTC)
    jobs = [make_job(created_at=noon + timedelta(hours=hours)) for hours in (-1, 0, 1, 2)]

    page = api.get("/jobs?created_after=2025-06-01T12:00:00Z&created_before=2025-06-01T14:00:00Z").json()

    assert ids(page) == [str(jobs[2].id), str(jobs[1].id)]


def test_the_created_range_forgives_clocks_that_differ(api: Api) -> None:
    noon = datetime(2025, 6, 1, 12, tzinfo=UTC)
    job = make_job(created_at=noon - timedelta(minutes=30))
    Job.objects.filter(id=job.id).update(created_at=noon)

    assert ids(api.get("/jobs?created_after=2025-06-01T12:00:00Z").json()) == [str(job.id)]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/limit"),
        ("limit=201", "/limit"),
        ("limit=ten", "/limit"),
        ("limit=%D9%A3", "/limit"),
        ("cursor=next", "/cursor"),
        ("status=DONE", "/status"),
        ("statsu=FAILED", "/statsu"),
        ("parent=7", "/parent"),
        ("owner=%00", "/owner"),
        ("kind=" + "x" * 101, "/kind"),
        ("created_after=yesterday", "/created_after"),
        ("created_after=2025-06-01T12:00:00", "/created_after"),
        ("created_before=0001-01-01T00:00:00Z", "/created_before"),
        ("created_before=9999-12-31T23:59:59-23:00", "/created_before"),
    ],
)
def test_invalid_filters_are_refused(api: Api, query: str, pointer: str) -> None:
    response = api.get(f"/jobs?{query}")

    assert (response.status_code, pointers(response)) == (400, [pointer])
    assert response.json()["errors"][0]["in"] == "query"


# Cancelling and retrying


def test_a_job_that_has_not_started_is_cancelled_at_once(api: Api) -> None:
    job = make_job()

    response = api.delete(f"/jobs/{job.id}")

    assert (response.status_code, response.json()["status"]) == (200, "CANCELLED")


def test_cancelling_again_changes_nothing(api: Api) -> None:
    job = make_job(Status.CANCELLED)

    assert api.delete(f"/jobs/{job.id}").status_code == 200


def test_a_running_job_is_asked_to_stop(api: Api) -> None:
    worker = Worker.objects.create(name="io@here", host="here", pid=1, process_started="1")
    job = make_job(Status.RUNNING, worker=worker)

    response = api.delete(f"/jobs/{job.id}")

    assert (response.status_code, response.json()["status"]) == (202, "RUNNING")
    assert Job.objects.get(id=job.id).cancel_requested_at


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
def test_a_job_that_ended_another_way_cannot_be_cancelled(api: Api, status: Status) -> None:
    response = api.delete(f"/jobs/{make_job(status).id}")

    assert (response.status_code, response.json()["type"]) == (409, "urn:muster:problem:not-cancellable")
    assert status in response.json()["detail"]


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
def test_a_failed_or_cancelled_job_can_be_retried(api: Api, status: Status) -> None:
    job = make_job(status)

    response = api.post(f"/jobs/{job.id}/retry")

    assert (response.status_code, response.json()["status"]) == (202, "CREATED")
    assert response["Location"].endswith(f"/jobs/{job.id}")


@pytest.mark.parametrize("status", [Status.CREATED, Status.RUNNING, Status.COMPLETED])
def test_other_jobs_cannot_be_retried(api: Api, status: Status) -> None:
    response = api.post(f"/jobs/{make_job(status).id}/retry")

    assert (response.status_code, response.json()["type"]) == (409, "urn:muster:problem:not-retryable")
    assert status in response.json()["detail"]


def test_a_child_is_retried_through_its_parent(api: Api) -> None:
    parent = make_job(Status.FAILED)
    child = make_job(Status.FAILED, parent=parent, name="child")

    response = api.post(f"/jobs/{child.id}/retry")

    assert response.status_code == 409
    assert str(parent.id) in response.json()["detail"]


def test_a_retry_beyond_the_owners_limit_is_refused(api: Api) -> None:
    first = api.post("/orchestrate/ada").json()["job_id"]
    submission.cancel(UUID(first))
    for _ in range(3):
        api.post("/orchestrate/ada")

    response = api.post(f"/jobs/{first}/retry")

    assert response.status_code == 429
    assert "Retry-After" in response


# Kinds


def test_kinds_are_listed_with_the_schema_of_their_payload(api: Api) -> None:
    kinds = {kind["name"]: kind for kind in api.get("/kinds").json()["results"]}

    demo, orchestration = kinds["demo.slices"], kinds["orchestration.two_batches"]
    assert (demo["queue"], demo["execution"], demo["priority"], demo["max_attempts"]) == ("io", "leased", 5, 3)
    assert demo["payload"]["$defs"]["Slices"]["properties"]["slices"]["default"] == 5
    assert (demo["is_pipeline"], demo["timeout_seconds"], demo["paused_at"]) == (False, 3600, None)
    assert demo["kept_days"] == 30
    assert (orchestration["is_pipeline"], orchestration["max_unfinished_per_owner"]) == (True, 3)


def test_kinds_that_clients_do_not_submit_are_listed_as_such(api: Api) -> None:
    internal = {kind["name"] for kind in api.get("/kinds").json()["results"] if kind["internal"]}

    assert {"scheduler.add", "ingestion.ingest", "ingestion.upload", "orchestration.draw"} <= internal
    assert not internal & {"demo.slices", "orchestration.two_batches"}


@pytest.mark.parametrize(("internal", "advice"), [(True, "clients."), ("POST /orders", "clients; use POST /orders")])
def test_an_internal_kind_is_not_open_to_clients(
    api: Api, kind: DeclareKind, internal: bool | str, advice: str
) -> None:
    declared = kind(internal=internal)

    refused = api.post("/jobs", {"kind": declared.name})

    assert refused.status_code == 400
    assert (refused.json()["type"], pointers(refused)) == ("urn:muster:problem:internal-kind", ["/kind"])
    assert advice in refused.json()["detail"]
    assert not Job.objects.exists()
    assert submit(declared)


def test_a_paused_kind_says_since_when(api: Api) -> None:
    KindRow.objects.create(name="demo.slices", queue="io", paused_at=timezone.now())

    kinds = {kind["name"]: kind for kind in api.get("/kinds").json()["results"]}

    assert kinds["demo.slices"]["paused_at"]


# Changing


def patch(api: Api, job: Job, body: Any) -> Any:
    return api.send("PATCH", f"/jobs/{job.id}", msgspec.json.encode(body))


def test_priority_and_start_are_changed(api: Api) -> None:
    job = make_job()

    response = patch(api, job, {"priority": 0, "run_at": "2030-01-31T12:00:00Z"})

    told = response.json()
    assert (response.status_code, told["priority"], told["run_at"]) == (200, 0, "2030-01-31T12:00:00Z")
    assert told["waiting_for"] == "start_time"
    assert patch(api, job, {"run_at": None}).json()["waiting_for"] == "worker"


@pytest.mark.parametrize(
    "body", [{}, {"priority": 10}, {"priority": None}, {"run_at": "soon"}, {"max_attempts": 3}, {"priority": "1"}]
)
def test_a_change_that_is_none_is_refused(api: Api, body: Any) -> None:
    assert patch(api, make_job(), body).status_code == 400


def test_a_job_that_has_started_is_not_changed(api: Api) -> None:
    assert patch(api, make_job(Status.RUNNING, worker_id=1), {"priority": 1}).status_code == 409


def test_only_owners_and_operators_change_a_job(as_user: Callable[..., Api], asks_for_tokens: None) -> None:
    job = make_job(owner="ada")
    ada, grace, viewer, operator = (
        as_user("ada"), as_user("grace"), as_user("vi", group="viewers"), as_user("op", group="operators"),
    )  # fmt: skip

    assert [patch(each, job, {"priority": 4}).status_code for each in (ada, grace, viewer, operator)] == [
        200, 404, 403, 200,
    ]  # fmt: skip
