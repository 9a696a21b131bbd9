"""Live events over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import msgspec
import pytest
from django.db.models.functions import Now
from pytest_django import Settings

from orchestrator import submission
from orchestrator.live import reading
from orchestrator.live.watching import Watching, watching
from orchestrator.models import Job
from orchestrator.submission import submit
from orchestrator.worker.process import WorkerProcess
from tests.api import Api, pointers
from tests.event_streams import Reader, all_of, statuses
from tests.factories import make_job
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, complete, fail, lease, pipeline

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("frequent_looks")]


def test_a_stream_begins_with_the_job_as_it_is(api: Api) -> None:
    job = make_job(owner="ada")

    with closing(api.get(f"/jobs/{job.id}/events")) as response:
        event = Reader.of(response).next()

    assert event.name == "status"
    assert event.id == f"0-CREATED-{int(job.updated_at.timestamp() * 1_000_000)}"
    assert event.data == {
        "job_id": str(job.id), "kind": "demo.slices", "owner": "ada", "parent": None, "name": "", "status": "CREATED",
        "attempt": 0, "outcome": None, "error": "", "ended": False, "at": event.data["at"],
    }  # fmt: skip


def test_a_stream_is_not_held_back_or_kept_by_proxies(api: Api) -> None:
    with closing(api.get(f"/jobs/{make_job().id}/events")) as response:
        assert response["Content-Type"] == "text/event-stream"
        assert response["Cache-Control"] == "no-store, no-transform"
        assert response["X-Accel-Buffering"] == "no"


def test_each_change_is_told_until_the_end_which_ends_the_stream(
    api: Api, kind: DeclareKind, worker: WorkerProcess
) -> None:
    declared = kind(max_attempts=2)
    job = submit(declared)
    reader = Reader.of(api.get(f"/jobs/{job.id}/events"))

    told = [reader.next()]
    first = lease(declared, worker)
    told.append(reader.next())
    fail(first, retryable=True)
    told.append(reader.next())
    Job.objects.filter(id=job.id).update(ready=True)
    second = lease(declared, worker)
    told.append(reader.next())
    complete(second)
    told += reader.events()

    assert statuses(told) == [("CREATED", 0), ("RUNNING", 1), ("CREATED", 1), ("RUNNING", 2), ("COMPLETED", 2)]
    assert [(event.data["outcome"], event.data["error"]) for event in told][2] == ("RAISED", "ValueError: no")
    assert [event.data["ended"] for event in told] == [False] * 4 + [True]
    assert not watching().watches


def test_progress_is_told(api: Api, kind: DeclareKind, worker: WorkerProcess) -> None:
    declared = kind()
    job = submit(declared)
    lease(declared, worker)

    with closing(api.get(f"/jobs/{job.id}/events")) as response:
        reader = Reader.of(response)
        reader.next("status")
        Job.objects.filter(id=job.id).update(
            progress_done=3, progress_total=5, progress_message="three", updated_at=Now()
        )
        event = reader.next("progress")

    assert event.data["progress"] == {"done": 3, "total": 5, "message": "three"}


def test_who_connects_again_is_told_of_all_that_happened_meanwhile(
    api: Api, kind: DeclareKind, worker: WorkerProcess
) -> None:
    declared = kind(max_attempts=2)
    job = submit(declared)
    with closing(api.get(f"/jobs/{job.id}/events")) as response:
        last = Reader.of(response).next().id
    fail(lease(declared, worker), retryable=True)
    Job.objects.filter(id=job.id).update(ready=True)
    fail(lease(declared, worker))
    submission.retry(job.id)
    submission.cancel(job.id)
    submission.retry(job.id)
    complete(lease(declared, worker))

    told = all_of(api.get(f"/jobs/{job.id}/events", Last_Event_ID=last))

    assert statuses(told) == [
        ("RUNNING", 1),
        ("CREATED", 1),
        ("RUNNING", 2),
        ("FAILED", 2),
        ("CREATED", 2),
        ("CANCELLED", 2),
        ("CREATED", 2),
        ("RUNNING", 3),
        ("COMPLETED", 3),
    ]


def test_whatever_was_received_last_the_rest_follows(api: Api, kind: DeclareKind, worker: WorkerProcess) -> None:
    declared = kind(max_attempts=3)
    job = submit(declared)
    reader = Reader.of(first := api.get(f"/jobs/{job.id}/events"))
    begin = reader.next()
    first.close()
    for _ in range(2):
        fail(lease(declared, worker), retryable=True)
        Job.objects.filter(id=job.id).update(ready=True)
    complete(lease(declared, worker))
    told = [begin, *all_of(api.get(f"/jobs/{job.id}/events", Last_Event_ID=begin.id))]

    for position, event in enumerate(told[:-1]):
        rest = all_of(api.get(f"/jobs/{job.id}/events", Last_Event_ID=event.id))

        assert rest == told[position + 1 :]


def test_who_has_seen_the_end_is_told_not_to_come_again(api: Api) -> None:
    job = make_job()
    submission.cancel(job.id)
    [end] = all_of(api.get(f"/jobs/{job.id}/events"))

    response = api.get(f"/jobs/{job.id}/events", Last_Event_ID=end.id)

    assert end.status == ("CANCELLED", 0)
    assert (response.status_code, response.content) == (204, b"")


def test_a_retry_after_the_end_is_told_to_who_has_seen_the_end(api: Api) -> None:
    job = make_job()
    submission.cancel(job.id)
    [end] = all_of(api.get(f"/jobs/{job.id}/events"))
    submission.retry(job.id)

    with closing(api.get(f"/jobs/{job.id}/events", Last_Event_ID=end.id)) as response:
        assert Reader.of(response).next().status == ("CREATED", 0)


def test_something_is_sent_while_nothing_happens(api: Api) -> None:
    with closing(api.get(f"/jobs/{make_job().id}/events")) as response:
        chunks = response.streaming_content  # type: ignore[attr-defined]

        assert any(chunk == b": heartbeat\n\n" for chunk in chunks)


def test_a_stream_is_closed_after_its_time(api: Api, settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, MAX_WATCH_SECONDS=2)

    [event] = all_of(api.get(f"/jobs/{make_job().id}/events"))

    assert event.status == ("CREATED", 0)
    assert not watching().watches


def test_the_end_of_a_job_that_is_deleted_is_told(api: Api) -> None:
    job = make_job()
    reader = Reader.of(api.get(f"/jobs/{job.id}/events"))
    reader.next()

    job.delete()

    assert [event.name for event in reader.events()] == ["gone"]


def test_the_children_of_a_pipeline_are_told(api: Api, kind: DeclareKind, worker: WorkerProcess) -> None:
    parent, step = kind(), kind()
    job, _ = pipeline(parent, step, {"a": (), "b": ("a",)})
    reader = Reader.of(api.get(f"/jobs/{job.id}/events"))

    first = lease(step, worker)
    running = reader.next("children").data["running"]
    complete(first)
    ended = reader.next("children").data["running"]
    complete(lease(step, worker))
    complete(lease(parent, worker))
    [*_, last] = reader.events()

    assert (running, ended) == (1, 0)
    assert last.status == ("COMPLETED", 1)


@pytest.mark.parametrize("path", ["/jobs/{}/events", "/events?owner=ada"])
@pytest.mark.parametrize("id", ["x", "1-RUNNING-x", "-1", "9" * 40])
def test_an_id_that_is_none_is_refused(path: str, id: str, api: Api) -> None:
    response = api.get(path.format(make_job().id), Last_Event_ID=id)

    assert response.status_code == 400
    assert pointers(response) == ["/Last-Event-ID"]


def test_only_headers_open_no_stream(api: Api) -> None:
    response = api.send("HEAD", f"/jobs/{make_job().id}/events")

    assert (response.status_code, response["Content-Type"]) == (200, "text/event-stream")
    assert not watching().watches


def test_another_type_than_a_stream_is_not_there(api: Api) -> None:
    assert api.get(f"/jobs/{make_job().id}/events", Accept="application/json").status_code == 406


# Who may watch, and how many


@pytest.mark.usefixtures("asks_for_tokens")
def test_an_owner_watches_only_their_own(as_user: Callable[..., Api]) -> None:
    ada, bob = as_user("ada"), as_user("bob")
    theirs = make_job(owner="bob")

    with closing(ada.get("/events")) as own:
        assert own.status_code == 200
        assert ada.get("/events?owner=bob").status_code == 403
        assert ada.get(f"/jobs/{theirs.id}/events").status_code == 404
        with closing(bob.get(f"/jobs/{theirs.id}/events")) as response:
            assert Reader.of(response).next().status == ("CREATED", 0)


@pytest.mark.usefixtures("asks_for_tokens")
def test_who_may_see_all_jobs_watches_any_owner(as_user: Callable[..., Api]) -> None:
    as_user("bob")

    with closing(as_user("viewer", permissions=["view_job"]).get("/events?owner=bob")) as response:
        assert response.status_code == 200


@pytest.mark.usefixtures("asks_for_tokens")
def test_nobody_watches_without_a_token(api: Api) -> None:
    assert api.get("/events").status_code == 401
    assert api.get(f"/jobs/{make_job().id}/events").status_code == 401


def test_nobody_in_particular_says_whose_jobs(api: Api) -> None:
    response = api.get("/events")

    assert response.status_code == 400
    assert pointers(response) == ["/owner"]


@pytest.mark.usefixtures("asks_for_tokens")
def test_a_user_has_so_many_streams_and_leaves_others_theirs(as_user: Callable[..., Api], settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, MAX_WATCHERS_PER_USER=2)
    ada, bob = as_user("ada"), as_user("bob")
    ours = [ada.get("/events") for _ in range(2)]

    refused = ada.get("/events")
    theirs = bob.get("/events")
    ours[0].close()
    again = ada.get("/events")

    assert (refused.status_code, refused["Retry-After"]) == (429, "10")
    assert (theirs.status_code, again.status_code) == (200, 200)


def test_a_process_has_so_many_streams(api: Api, settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, MAX_WATCHERS=1)
    first = api.get("/events?owner=ada")

    refused = api.get("/events?owner=bob")

    assert (refused.status_code, refused["Retry-After"]) == (503, "10")
    first.close()
    assert api.get("/events?owner=bob").status_code == 200


def test_one_connection_reads_for_all_and_none_once_they_are_gone(api: Api) -> None:
    mine = Watching()
    job = make_job()
    watches = [mine.watch_job(job.id, user_id=None) for _ in range(20)]

    thread = mine.thread
    for watch in watches:
        watch.close()

    assert thread
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert mine.thread is None


def test_a_database_that_is_away_for_a_while_only_delays(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job()
    reader = Reader.of(api.get(f"/jobs/{job.id}/events"))
    reader.next()
    failures: list[int] = []
    changed_jobs = reading.changed_jobs

    def fail_a_few_times(watched: object) -> object:
        if len(failures) < 3:
            failures.append(1)
            raise OSError("no connection")
        return changed_jobs(watched)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "changed_jobs", fail_a_few_times)
    submission.cancel(job.id)

    assert statuses(list(reader.events())) == [("CANCELLED", 0)]
    assert len(failures) == 3
