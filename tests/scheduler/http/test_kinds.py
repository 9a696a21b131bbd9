"""/task-schedules/ of any kind of job: what is taken, shown and refused, and the jobs that come of them."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.models import Job
from scheduler.models import TaskSchedule
from scheduler.services.firing import fire_due
from tests.api import Api, pointers
from tests.scheduler.factories import MINUTE, MONDAY, again, make_job_schedule, make_schedule
from tests.scheduler.http.test_schedules import PATH, patch, path, put

pytestmark = pytest.mark.django_db

NIGHTLY = {"kind": "demo.slices", "payload": {"slices": 2, "seconds_per_slice": 0.5}, "cron": "0 3 * * *"}


def test_a_schedule_of_jobs_is_created_and_shown_as_it_was_given(api: Api) -> None:
    body = NIGHTLY | {
        "name": "nightly", "description": "For the morning.", "jitter_seconds": 60, "overlap": "queue",
        "max_running": 2,
    }  # fmt: skip

    shown = api.post(PATH, body).json()

    assert {name: shown[name] for name in body} == body
    assert (shown["a"], shown["b"], shown["operation"], shown["tasks"]) == (None, None, None, None)
    assert shown["jobs"] == f"/jobs?schedule={shown['id']}"
    assert put(api, TaskSchedule.objects.get(), body).json()["payload"] == body["payload"]


def test_its_jobs_are_listed_and_say_whose_they_are(api: Api) -> None:
    schedule = make_job_schedule()
    fire_due(now=MONDAY)

    shown = api.get(api.get(path(schedule)).json()["jobs"]).json()["results"]

    assert [(each["schedule"], each["scheduled_for"]) for each in shown] == [
        (str(schedule.id), "2096-04-02T12:00:00Z")
    ]


def test_running_it_now_answers_with_the_job(api: Api) -> None:
    schedule = make_job_schedule()

    response = api.post(path(schedule, "run-now/"))

    job = Job.objects.get(schedule_id=schedule.id)
    assert (response.status_code, response.json()["job_id"]) == (202, str(job.id))
    assert response["Location"] == f"http://testserver/jobs/{job.id}"


def test_a_backfill_submits_jobs_once(api: Api) -> None:
    schedule = make_past_schedule(api)
    body = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:09:00Z"}

    first = api.post(path(schedule, "backfill/"), body).json()
    second = api.post(path(schedule, "backfill/"), body).json()

    assert (first["created"], first["already_submitted"], first["tasks"]) == (10, 0, None)
    assert (second["created"], second["already_submitted"]) == (0, 10)
    assert len(api.get(first["jobs"]).json()["results"]) == 10


def make_past_schedule(api: Api) -> TaskSchedule:
    api.post(PATH, NIGHTLY | {"cron": None, "interval": 60, "scheduled_at": "2026-01-01T00:00:00Z"})
    return TaskSchedule.objects.get()


BAD_WORK = [
    ({"kind": "demo.slice"}, ["/kind"]),
    ({"kind": "ingestion.records"}, ["/kind"]),
    ({"kind": 7}, ["/kind"]),
    ({"kind": "scheduler.add"}, ["/a", "/b"]),
    ({"kind": None}, ["/a", "/b"]),
    ({"kind": "scheduler.add", "a": 1, "b": 2}, ["/payload"]),
    ({"a": 1}, ["/a"]),
    ({"operation": "1+2"}, ["/operation"]),
    ({"payload": {"slices": "two"}}, ["/payload/slices"]),
    ({"payload": [1]}, ["/payload"]),
    ({"payload": {"slices": 2, "colour": "red"}}, ["/payload"]),
    ({"name": "x" * 101}, ["/name"]),
    ({"name": None}, ["/name"]),
    ({"description": "x" * 2_001}, ["/description"]),
    ({"overlap": "queue", "max_running": 0}, ["/max_running"]),
    ({"overlap": "queue", "max_running": 10_001}, ["/max_running"]),
    ({"overlap": "allow", "max_running": 2}, ["/max_running"]),
    ({"jitter_seconds": -1}, ["/jitter_seconds"]),
    ({"jitter_seconds": 86_401}, ["/jitter_seconds"]),
    ({"jitter_seconds": 0.5}, ["/jitter_seconds"]),
]


@pytest.mark.parametrize(("fields", "expected"), BAD_WORK)
def test_bad_work_is_refused_by_its_fields_and_stores_nothing(
    api: Api, fields: dict[str, Any], expected: list[str]
) -> None:
    response = api.post(PATH, NIGHTLY | fields)

    assert response.status_code == 400, response.content
    assert pointers(response) == expected
    assert not TaskSchedule.objects.exists()


def test_an_owner_has_a_name_once_and_others_may_have_it_too(api: Api) -> None:
    make_job_schedule(name="nightly", owner="ada")
    named = NIGHTLY | {"name": "nightly"}

    assert api.post(PATH, named).status_code == 201
    again_named = api.post(PATH, named)
    assert (again_named.status_code, pointers(again_named)) == (400, ["/name"])
    other = make_job_schedule()
    assert pointers(patch(api, other, {"name": "nightly"})) == ["/name"]
    assert again(other).name == ""


def test_a_change_of_work_takes_the_place_of_the_other_work(api: Api) -> None:
    schedule = make_schedule(operation="1+2")

    to_jobs = patch(api, schedule, {"kind": "demo.slices"}).json()
    assert (to_jobs["kind"], to_jobs["payload"], to_jobs["a"], to_jobs["operation"]) == ("demo.slices", {}, None, None)
    assert patch(api, schedule, {"payload": {"slices": 3}}).json()["payload"] == {"slices": 3}
    assert patch(api, schedule, {"priority": 1}).json()["payload"] == {"slices": 3}

    to_numbers = patch(api, schedule, {"operation": "3+4"}).json()
    assert (to_numbers["kind"], to_numbers["payload"], to_numbers["b"]) == ("scheduler.add", None, 4)


def test_a_change_that_leaves_half_of_the_work_is_refused(api: Api) -> None:
    of_jobs, of_numbers = make_job_schedule(), make_schedule()

    assert pointers(patch(api, of_jobs, {"a": 1})) == ["/b"]
    assert pointers(patch(api, of_jobs, {"payload": {"slices": None}})) == ["/payload/slices"]
    assert pointers(patch(api, of_numbers, {"payload": {}})) == ["/payload"]
    assert pointers(patch(api, of_jobs, {"kind": "demo.slice"})) == ["/kind"]
    assert again(of_jobs).payload == {"slices": 1}


def test_a_preview_needs_no_work(api: Api) -> None:
    assert api.post(f"{PATH}preview/", {"cron": "0 3 * * *"}).status_code == 200
    assert api.post(f"{PATH}preview/", NIGHTLY).status_code == 200


def test_what_waits_for_earlier_jobs_is_shown(api: Api) -> None:
    schedule = make_job_schedule(overlap="queue")
    fire_due(now=MONDAY)
    fire_due(now=MONDAY + MINUTE)

    assert api.get(path(schedule)).json()["queued"] == ["2096-04-02T12:01:00Z"]


def test_a_schedule_names_the_notifications_that_tell_of_failures(api: Api) -> None:
    body = {"name": "on call", "via": "webhook", "target": "https://example.org/hook", "automatic": False}
    notification = api.post("/notifications", body).json()["id"]

    made = api.post(PATH, NIGHTLY | {"on_failure": [notification]}).json()
    changed = patch(api, TaskSchedule.objects.get(), {"on_failure": []}).json()

    assert (made["on_failure"], changed["on_failure"]) == ([notification], [])


def test_a_schedule_cannot_name_a_notification_that_there_is_not(api: Api) -> None:
    refused = api.post(PATH, NIGHTLY | {"on_failure": ["01980c5e-7a00-7000-8000-000000000000"]})

    assert (refused.status_code, pointers(refused)) == (400, ["/on_failure/0"])
