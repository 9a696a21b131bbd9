"""/tasks/batch-request/: many tasks at once, all or none or all that are good, and the order in which they run."""

from __future__ import annotations

import json
import random
import time
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from orchestrator.models import Job
from orchestrator.queue import claims
from scheduler.http import examples
from scheduler.jobs import add
from scheduler.models import Task, TaskResult
from scheduler.services.tasks import NewTask, create_tasks
from tests.api import Api, pointers
from tests.scheduler.factories import make_task, run_all

pytestmark = pytest.mark.django_db

SAMPLE = Path(__file__).parents[3] / "create_tasks_in_batch_example.json"
PATH = "/tasks/batch-request/"


def good(count: int) -> list[Any]:
    return [{"a": number, "b": 1} for number in range(count)]


@pytest.mark.parametrize("path", [PATH, "/tasks/batch-request", "/batch-request/", "/batch-request"])
@pytest.mark.parametrize("body", [good(3), {"tasks": good(3)}])
def test_a_batch_is_accepted_bare_or_named_under_either_path(api: Api, path: str, body: Any) -> None:
    response = api.post(path, body)

    shown = response.json()
    tasks = Task.objects.order_by("a")
    assert response.status_code == 202
    assert shown.keys() == examples.ACCEPTED_BATCH.keys()
    assert [each["id"] for each in shown["tasks"]] == [str(task.id) for task in tasks]
    assert shown["tasks"][1] == {
        "index": 1,
        "id": str(tasks[1].id),
        "url": f"/tasks/{tasks[1].id}/",
        "status": "PENDING",
    }
    assert api.get(shown["tasks"][1]["url"]).json()["a"] == 1


def test_one_bad_task_refuses_the_batch_with_one_error_for_each(api: Api) -> None:
    body = [*good(2), {"a": "x", "b": "y"}, {"operation": "1-2"}, 7, *good(1)]

    response = api.post(PATH, {"tasks": body})

    assert response.status_code == 400
    assert pointers(response) == ["/tasks/2/a", "/tasks/3/operation", "/tasks/4"]
    assert not Task.objects.exists()
    assert pointers(api.post(PATH, body))[0] == "/2/a"


def test_of_very_many_invalid_tasks_a_thousand_are_listed_and_the_others_counted(api: Api) -> None:
    response = api.post(PATH, [{"a": 1}] * 1_500)

    errors = response.json()["errors"]
    assert len(errors) == 1_001
    assert errors[-1]["detail"].startswith("1,500 of 1,500")


def test_the_bad_ones_can_be_skipped(api: Api) -> None:
    response = api.post(f"{PATH}?on_error=skip", [{"a": 1}, {"a": 1, "b": 2}, {"a": [], "b": 2}, {"operation": "3+4"}])

    shown = response.json()
    assert response.status_code == 202
    assert (shown["accepted"], shown["rejected"]) == (2, 2)
    assert [each["index"] for each in shown["tasks"]] == [1, 3]
    assert [each["pointer"] for each in shown["errors"]] == ["/0/b", "/2/a"]
    assert Task.objects.count() == 2


def test_a_batch_without_one_good_task_is_refused_also_if_bad_ones_are_skipped(api: Api) -> None:
    assert api.post(f"{PATH}?on_error=skip", [{"a": 1}]).status_code == 400


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ([], ""),
        ({"tasks": []}, "/tasks"),
        ({}, "/tasks"),
        ({"tasks": 7}, "/tasks"),
        (7, "/tasks"),
        ({"tasks": good(1), "x": 1}, "/x"),
        (good(10_001), ""),
    ],
)
def test_an_invalid_batch_is_refused(api: Api, body: Any, pointer: str) -> None:
    response = api.post(PATH, body)

    assert response.status_code == 400
    assert pointers(response) == [pointer]


def test_an_unknown_on_error_is_refused(api: Api) -> None:
    assert pointers(api.post(f"{PATH}?on_error=panic", good(1))) == ["/on_error"]


def test_numbers_in_a_batch_are_exact(api: Api) -> None:
    api.send("POST", PATH, b'[{"a": 0.1000000001, "b": 12345678901234567890.123}]')

    task = Task.objects.get()
    assert (task.a, task.b) == (Decimal("0.1000000001"), Decimal("12345678901234567890.123"))


def test_ten_thousand_are_accepted_in_as_few_statements_as_it_takes_pages(api: Api) -> None:
    began = time.process_time()
    with CaptureQueriesContext(connection) as captured:
        response = api.post(PATH, good(10_000))

    assert response.json()["accepted"] == Task.objects.count() == 10_000
    assert len(captured) <= 20
    # Measured: 0.8 s of this process on a busy machine.
    assert time.process_time() - began < 3


def test_a_batch_that_is_sent_again_is_answered_alike_and_not_done_twice(api: Api) -> None:
    first = api.post(PATH, good(100), Idempotency_Key="k")
    second = api.post(PATH, good(100), Idempotency_Key="k")

    assert second.json() == first.json()
    assert Task.objects.count() == 100


def test_a_text_that_copy_could_misread_is_kept_as_it_is() -> None:
    for owner in ("tab\there", "line\nhere", "back\\slash", "\\N", "carriage\rreturn", "quote'\"", "ünïcödé"):
        assert make_task(owner=owner).owner == owner


# Order


def finished_in_order() -> list[Task]:
    return list(Task.objects.select_related("job").order_by("job__finished_at"))


def test_of_the_sample_the_14_urgent_ones_finish_first(api: Api) -> None:
    sample = json.loads(SAMPLE.read_text())
    assert [task["priority"] for task in sample] == [9] * 38 + [1] * 14

    assert api.send("POST", PATH, SAMPLE.read_bytes()).status_code == 202
    run_all()

    assert [task.priority for task in finished_in_order()] == [1] * 14 + [9] * 38
    assert TaskResult.objects.count() == 52


def test_a_thousand_shuffled_tasks_run_in_the_order_of_priority() -> None:
    priorities = [number % 10 for number in range(1_000)]
    random.Random(3).shuffle(priorities)
    create_tasks([NewTask(a=Decimal(1), b=Decimal(2), priority=priority) for priority in priorities])

    batches = []
    while jobs := claims.lock_ready(add, worker_id=0):
        batches.append([job.priority for job in jobs])
        Job.objects.filter(id__in=[job.id for job in jobs]).update(ready=False)

    assert [priority for batch in batches for priority in batch] == sorted(priorities)


def test_within_a_priority_the_older_task_runs_first() -> None:
    ids = create_tasks([NewTask(a=Decimal(number), b=Decimal(2)) for number in range(50)])

    jobs = claims.lock_ready(add, worker_id=0)

    assert [str(add.decode_payload(job.payload).task_id) for job in jobs] == [str(id) for id in ids]


def test_an_old_task_overtakes_new_ones_after_its_head_start(settings: Settings) -> None:
    old = make_task(priority=9)
    head_start = timedelta(seconds=9 * settings.ENV.PRIORITY_STEP_SECONDS)

    def next_priority(age: timedelta) -> int:
        """Which comes first if the old task has waited so long when an urgent one arrives."""
        moved = Job.objects.filter(id=old.job_id)
        moved.update(run_at=F("run_at") - age, rank=F("rank") - age)
        urgent = make_task(priority=0)
        first = claims.lock_ready(add, worker_id=0)[0].priority
        Job.objects.filter(id=urgent.job_id).update(ready=False)
        moved.update(run_at=F("run_at") + age, rank=F("rank") + age)
        return first

    assert next_priority(head_start - timedelta(seconds=30)) == 0
    assert next_priority(head_start + timedelta(seconds=30)) == 9
