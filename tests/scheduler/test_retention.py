"""Tasks are pruned with their latest run, and the results of earlier runs by their own age."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, models
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orchestrator.models import Job
from orchestrator.upkeep import retention
from scheduler.models import Task, TaskResult
from scheduler.services.firing import fire_due
from scheduler.services.tasks import run_again
from scheduler.tasks import results_of_earlier_runs
from tests.api import Api
from tests.factories import id_of
from tests.orchestrator.workbench import PATIENCE_SECONDS
from tests.scheduler.factories import MONDAY, again, make_schedule, make_task, occurrences, run_all

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
MANY_RESULTS = """
INSERT INTO scheduler_taskresult (id, task_id, result)
SELECT gen_random_uuid(), %s, n FROM generate_series(1, 5000) AS n;
ANALYZE scheduler_taskresult
"""


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is pruned at once, however busy the machine."""
    monkeypatch.setattr(retention, "PRUNING_SECONDS", PATIENCE_SECONDS)


def age(*tasks: Task, days: float) -> None:
    """Makes the last runs of the tasks, which ended just now, end so long ago."""
    Job.objects.filter(id__in=[task.job_id for task in tasks]).update(finished_at=timezone.now() - days * DAY)


def test_a_task_goes_with_its_job_and_its_results_with_it(api: Api) -> None:
    old, young = make_task(), make_task()
    run_all()
    age(old, days=31)

    retention.prune()

    assert [task.id for task in Task.objects.all()] == [young.id]
    assert [result.task_id for result in TaskResult.objects.all()] == [young.id]
    assert api.get(f"/tasks/{old.id}/").status_code == 404


def test_a_task_that_waits_is_kept() -> None:
    make_task()

    retention.prune()

    assert Task.objects.exists()


def test_a_task_that_was_run_again_is_kept_with_its_latest_run() -> None:
    task = make_task()
    run_all()
    age(task, days=31)
    run_again(task.id)

    retention.prune()

    assert Task.objects.get().job_id == Job.objects.get().id != task.job_id
    assert TaskResult.objects.count() == 1


def test_results_of_earlier_runs_go_by_their_own_age() -> None:
    job = make_task().job
    run_all()
    task = Task.objects.create(id=id_of(timezone.now() - 40 * DAY), a=1, b=2, job=job)
    for days in (32, 30):
        at = timezone.now() - days * DAY
        TaskResult.objects.create(id=id_of(at), task=task, result=days, created_at=at)

    assert not results_of_earlier_runs()

    assert set(TaskResult.objects.values_list("result", flat=True)) == {3, 30}


def test_the_results_of_a_task_go_in_several_transactions_if_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MAX_ROWS", 2)
    task = make_task()
    run_all()
    age(task, days=31)
    for number in range(3):
        TaskResult.objects.create(task=task, result=number)

    assert retention.jobs()

    assert TaskResult.objects.count() == 2
    retention.prune()
    assert not Task.objects.exists()


def test_results_of_young_tasks_are_not_read_by_who_looks_for_old_ones() -> None:
    task = make_task()
    with connection.cursor() as cursor:
        cursor.execute(MANY_RESULTS, [task.id])
    with CaptureQueriesContext(connection) as asked:
        assert not results_of_earlier_runs()

    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + asked.captured_queries[0]["sql"])
        [[[answer]]] = cursor.fetchall()

    assert answer["Plan"]["Shared Hit Blocks"] + answer["Plan"]["Shared Read Blocks"] < 10


def test_a_schedule_outlives_its_tasks_and_fires_none_twice() -> None:
    schedule = make_schedule(misfire_policy="all")
    fire_due(now=MONDAY)
    run_all()
    age(*Task.objects.all(), days=31)

    retention.prune()
    fire_due(now=MONDAY)

    assert again(schedule).run_count == 1
    assert occurrences(schedule) == []


def test_a_schedule_that_skips_overlaps_runs_on_when_its_last_task_was_pruned() -> None:
    schedule = make_schedule(overlap="skip")
    fire_due(now=MONDAY)
    run_all()
    age(*Task.objects.all(), days=31)
    retention.prune()

    fire_due(now=MONDAY + timedelta(minutes=1))

    assert len(occurrences(schedule)) == 1


def test_a_job_that_is_protected_stays_and_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MAX_JOBS", 1)
    monkeypatch.setattr(Task._meta.get_field("job").remote_field, "on_delete", models.PROTECT)
    old, older = make_task(), make_task()
    run_all()
    age(older, days=40)
    age(old, days=31)
    Task.objects.filter(id=old.id).update(job=older.job_id)

    retention.prune()

    assert [job.id for job in Job.objects.all()] == [older.job_id]


def test_every_way_to_a_pruned_row_is_indexed() -> None:
    """Or each pruned row would cost a look at a whole table."""
    waiting, found = [Job], []
    for model in waiting:
        for field in retention.keys_to(model):
            if field.remote_field.on_delete is models.CASCADE and field.model not in waiting:
                waiting.append(field.model)
            if field.db_constraint:
                found.append(field)

    assert {str(field) for field in found if not leads_an_index(field)} == set()
    assert len(found) >= 9


def leads_an_index(field: Any) -> bool:
    options = field.model._meta
    # A partial one serves as well if it holds every row that names another.
    serving = (None, models.Q((f"{field.name}__isnull", False)))
    both = [*options.indexes, *(each for each in options.constraints if isinstance(each, models.UniqueConstraint))]
    first = {each.fields[0] for each in both if each.condition in serving}
    return bool(field.db_index or field.unique or field.name in first or options.pk_fields[0] is field)
