"""The admin's pages for tasks and schedules: what they show, let people do, and cost."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from orchestrator.models import Job
from orchestrator.states import Status
from scheduler.models import Calendar, Task, TaskSchedule
from scheduler.services.schedules import delete_schedule, run_now
from scheduler.services.tasks import NewTask, create_tasks
from tests.factories import make_job, staff_with
from tests.scheduler.factories import (
    MONDAY,
    again,
    make_job_schedule,
    make_schedule,
    make_task,
    periodic_task,
    run_all,
)

pytestmark = pytest.mark.django_db

TASKS, SCHEDULES = "admin:scheduler_task_changelist", "admin:scheduler_taskschedule_changelist"
ADD, CHANGE = "admin:scheduler_taskschedule_add", "admin:scheduler_taskschedule_change"
MAX_QUERIES = 8


def listed(client: Client, page: str, **parameters: Any) -> list[Any]:
    answer = client.get(reverse(page), parameters)
    assert answer.status_code == 200
    return list(answer.context["cl"].result_list)


def act(client: Client, page: str, action: str, *rows: Any) -> str:
    chosen = {"action": action, "_selected_action": [str(row.pk) for row in rows], "confirmed": "yes"}
    return client.post(reverse(page), chosen, follow=True).content.decode()


def form(**fields: Any) -> dict[str, Any]:
    """What a browser sends for a schedule."""
    whole = {
        "name": "", "description": "", "kind": "scheduler.add", "payload": "", "max_running": "1",
        "exclude": "[]", "include": "[]", "calendars": "", "on_closed": "skip",
        "jitter_seconds": "0", "a": "1", "b": "2", "priority": "5",
        "scheduled_at_0": "2096-04-02", "scheduled_at_1": "12:00:00",
        "ends_at_0": "", "ends_at_1": "", "timezone": "UTC", "interval": "60", "every_x_days": "", "every_x_hours": "",
        "cron": "", "rrule": "", "schedule_x_times": "", "misfire_policy": "latest", "overlap": "allow",
        "enabled": "on",
    }  # fmt: skip
    return whole | fields


def errors(response: Any) -> dict[str, Any]:
    return dict(response.context["adminform"].form.errors)


# Tasks


def test_the_list_of_tasks_takes_few_queries_however_many_there_are(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    create_tasks([NewTask(a=Decimal(1), b=Decimal(number)) for number in range(200)])

    with django_assert_max_num_queries(MAX_QUERIES):
        assert len(listed(admin_client, TASKS)) == 50


def test_tasks_are_found_by_status_schedule_id_and_owner(admin_client: Client) -> None:
    done = make_task(owner="ada")
    run_all()
    schedule = make_schedule()
    waiting = Task.objects.get(id=run_now(schedule.id))

    assert listed(admin_client, TASKS, status="SUCCESS") == [done]
    assert listed(admin_client, TASKS, schedule=str(schedule.id)) == [waiting]
    assert listed(admin_client, TASKS, schedule="nonsense") == []
    assert listed(admin_client, TASKS, q=str(done.id)) == listed(admin_client, TASKS, q="ada") == [done]


def test_a_task_is_shown_with_its_results_and_cannot_be_written(admin_client: Client) -> None:
    task = make_task(a=Decimal("1.5"), operation="1.5+2")
    run_all()

    page = admin_client.get(reverse("admin:scheduler_task_change", args=[task.id]))
    admin_client.post(reverse("admin:scheduler_task_change", args=[task.id]), {"a": "9"})

    assert "3.5" in page.content.decode()
    assert str(task.job_id) in page.content.decode()
    assert Task.objects.get(id=task.id).a == Decimal("1.5")
    assert admin_client.get(reverse("admin:scheduler_task_add")).status_code == 403


def test_a_task_of_a_schedule_that_is_gone_is_still_shown(admin_client: Client) -> None:
    schedule = make_schedule()
    task = Task.objects.get(id=run_now(schedule.id))
    delete_schedule(schedule.id)

    assert listed(admin_client, TASKS) == [task]
    assert admin_client.get(reverse("admin:scheduler_task_change", args=[task.id])).status_code == 200


def test_tasks_are_cancelled_and_run_again_and_refusals_are_shown(admin_client: Client) -> None:
    waiting, done = make_task(), make_task()
    act(admin_client, TASKS, "cancel_selected", waiting)

    page = act(admin_client, TASKS, "cancel_selected", waiting, done)
    assert "Cancelled 1 task." in page
    assert "has already ended" in page
    act(admin_client, TASKS, "run_selected", waiting)

    assert Task.objects.select_related("job").get(id=waiting.id).job.status == Status.CREATED


# Schedules


def test_the_list_of_schedules_takes_few_queries_however_many_there_are(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    for number in range(60):
        make_schedule(interval=None, cron=f"{number} 6 * * *")

    with django_assert_max_num_queries(MAX_QUERIES):
        assert len(listed(admin_client, SCHEDULES)) == 50


def test_a_schedule_of_jobs_is_made_changed_and_leads_to_its_jobs(admin_client: Client) -> None:
    of_jobs = {"name": "nightly", "kind": "demo.slices", "payload": '{"slices": 3}', "a": "", "b": ""}
    admin_client.post(reverse(ADD), form(**of_jobs, overlap="queue", max_running="2"))
    schedule = TaskSchedule.objects.get()
    assert (schedule.kind, schedule.payload, schedule.overlap) == ("demo.slices", {"slices": 3}, "queue")

    page = admin_client.get(reverse(CHANGE, args=[schedule.id])).content.decode()
    admin_client.post(reverse(CHANGE, args=[schedule.id]), form())

    assert f"/admin/orchestrator/job/?schedule={schedule.id}" in page
    assert (again(schedule).kind, again(schedule).payload, again(schedule).a) == ("scheduler.add", None, 1)


def test_a_calendar_is_made_changed_and_deleted_while_no_schedule_names_it(admin_client: Client) -> None:
    empty = {"description": "", "subdivision": "", "hours": "[]", "closed_days": "[]", "open_days": "[]"}
    office = {"name": "office", "country": "DE", "weekdays": '["MO"]'} | empty
    admin_client.post(reverse("admin:scheduler_calendar_add"), office)
    schedule = make_job_schedule(calendars=["office"])
    page = reverse("admin:scheduler_calendar_change", args=["office"])
    delete = reverse("admin:scheduler_calendar_delete", args=["office"])

    admin_client.post(page, office | {"weekdays": '["TU"]'})
    bad = admin_client.post(page, office | {"weekdays": '["Tuesday"]'})
    refused = admin_client.post(delete, {"post": "yes"})

    assert Calendar.objects.get().weekdays == ["TU"]
    assert "Must be one of MO" in bad.content.decode()
    assert refused.status_code == 403
    delete_schedule(schedule.id)
    admin_client.post(delete, {"post": "yes"})
    assert not Calendar.objects.exists()


def test_jobs_are_found_by_their_schedule(admin_client: Client) -> None:
    job = run_now(make_job_schedule(kind="demo.slices").id)
    run_now(make_job_schedule().id)

    found = listed(
        admin_client, "admin:orchestrator_job_changelist", schedule=str(Job.objects.get(id=job).schedule_id)
    )

    assert [each.id for each in found] == [job]


def test_a_schedule_is_made_with_its_first_run_and_its_row_in_beat(admin_client: Client) -> None:
    response = admin_client.post(reverse(ADD), form(interval="", cron="30 8 * * *", timezone="Europe/Bucharest"))

    assert response.status_code == 302, errors(response)
    schedule = TaskSchedule.objects.get()
    assert schedule.next_run_at == MONDAY.replace(hour=5, minute=30) + timedelta(days=1)
    assert schedule.periodic_task is not None
    assert schedule.owner == "admin"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"interval": "0"}, "interval"),
        ({"interval": ""}, "interval"),
        ({"cron": "* * * * *"}, "cron"),
        ({"interval": "", "cron": "nonsense"}, "cron"),
        ({"interval": "", "rrule": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"}, "rrule"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"ends_at_0": "2096-04-01", "ends_at_1": "12:00:00"}, "ends_at"),
        ({"schedule_x_times": "0"}, "schedule_x_times"),
        ({"a": "NaN"}, "a"),
        ({"kind": "demo.slices"}, "a"),
        ({"kind": "demo.slices", "a": "", "b": "", "payload": '{"slices": "x"}'}, "payload"),
        ({"kind": "scheduler.gone"}, "kind"),
        ({"payload": "{}"}, "payload"),
        ({"max_running": "2"}, "max_running"),
        ({"calendars": "nowhere"}, "calendars"),
        ({"exclude": '["Christmas"]'}, "exclude"),
        ({"priority": "10"}, "priority"),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_an_invalid_value_is_reported_beside_its_field(
    admin_client: Client, fields: dict[str, str], name: str, exists: bool
) -> None:
    page = reverse(CHANGE, args=[make_schedule().id]) if exists else reverse(ADD)

    response = admin_client.post(page, form(**fields))

    assert response.status_code == 200
    assert name in errors(response)
    assert TaskSchedule.objects.count() == exists


def test_a_start_with_too_many_missed_runs_is_refused_beside_its_field(admin_client: Client) -> None:
    response = admin_client.post(reverse(ADD), form(scheduled_at_0="2000-01-01", misfire_policy="all"))

    assert "scheduled_at" in errors(response)


def test_a_change_of_operands_leaves_the_times_alone(admin_client: Client) -> None:
    schedule = make_schedule(operation="1+2")

    admin_client.post(reverse(CHANGE, args=[schedule.id]), form(a="7"))

    changed = again(schedule)
    assert (changed.a, changed.operation, changed.next_run_at) == (7, "", MONDAY)


def test_a_change_of_times_goes_on_from_now(admin_client: Client) -> None:
    schedule = make_schedule()

    admin_client.post(reverse(CHANGE, args=[schedule.id]), form(interval="", every_x_days="1"))

    assert (again(schedule).interval, again(schedule).every_x_days) == (None, 1)
    assert periodic_task(schedule).interval.period == "days"


def test_a_schedule_shows_its_next_runs_by_its_own_clocks(admin_client: Client) -> None:
    schedule = make_schedule(interval=None, cron="30 8 * * *", timezone="Europe/Bucharest")

    page = admin_client.get(reverse(CHANGE, args=[schedule.id])).content.decode()

    assert "2096-04-03 08:30:00 EEST" in page
    assert "2096-04-07 08:30:00 EEST" in page


def test_a_broken_schedule_can_be_looked_at(admin_client: Client) -> None:
    schedule = make_schedule()
    TaskSchedule.objects.filter(id=schedule.id).update(timezone="Mars/Olympus", last_error="It is broken.")

    page = admin_client.get(reverse(CHANGE, args=[schedule.id])).content.decode()

    assert "It is broken." in page
    assert listed(admin_client, SCHEDULES) == [schedule]


def test_schedules_are_paused_resumed_run_and_deleted(admin_client: Client) -> None:
    schedule = make_schedule()

    act(admin_client, SCHEDULES, "pause_selected", schedule)
    assert not again(schedule).enabled
    act(admin_client, SCHEDULES, "resume_selected", schedule)
    assert again(schedule).enabled
    act(admin_client, SCHEDULES, "run_selected_now", schedule)
    assert Task.objects.get().schedule_id == schedule.id

    chosen = {"action": "delete_selected", "_selected_action": [str(schedule.id)], "post": "yes"}
    admin_client.post(reverse(SCHEDULES), chosen)
    assert not TaskSchedule.objects.exists()
    assert Task.objects.count() == 1


def test_who_may_only_look_can_change_nothing() -> None:
    user = User.objects.create(username="guest", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_task", "view_taskschedule"]))
    guest = Client()
    guest.force_login(user)
    schedule, task = make_schedule(), make_task()

    act(guest, SCHEDULES, "pause_selected", schedule)
    act(guest, TASKS, "cancel_selected", task)
    assert guest.post(reverse(CHANGE, args=[schedule.id]), form(a="7")).status_code == 403
    assert guest.get(reverse(CHANGE, args=[schedule.id])).status_code == 200

    assert again(schedule).enabled
    assert Task.objects.select_related("job").get(id=task.id).job.status == Status.CREATED


@pytest.mark.parametrize(
    ("number", "said"),
    [(7, "7"), (Decimal("1.500"), "1.5"), (Decimal("100"), "100"), (Decimal("1E-40"), f"0.{'0' * 39}1")],
)
def test_a_task_is_called_by_its_operands_with_all_their_digits(number: Decimal | int, said: str) -> None:
    assert str(Task(a=Decimal(number), b=Decimal(0))) == f"{said} + 0"
    assert str(TaskSchedule(a=number, b=Decimal(0))).startswith(f"{said} + 0 ")


def test_a_schedule_shows_its_past_and_future_runs(admin_client: Client) -> None:
    now = timezone.now()
    schedule = make_job_schedule(now + timedelta(days=1), cron="0 12 * * *")
    for day, status in ((1, Status.COMPLETED), (2, Status.FAILED)):
        at = now - timedelta(days=day)
        make_job(status, schedule_id=schedule.id, scheduled_for=at, error="ValueError: 503", started_at=at)

    page = admin_client.get(reverse(CHANGE, args=[schedule.id])).content.decode()

    assert "until today: 1 COMPLETED, 1 FAILED" in page
    assert "to come: 13" in page or "to come: 12" in page
    assert "ValueError: 503" in page
    assert f"?schedule={schedule.id}" in page


def test_of_a_schedule_of_every_second_a_bounded_number_of_runs_is_computed(admin_client: Client) -> None:
    schedule = make_job_schedule(timezone.now() + timedelta(hours=1), interval=1)

    page = admin_client.get(reverse(CHANGE, args=[schedule.id])).content.decode()

    assert "to come: more than 2,000" in page
    assert "It has not run yet." in page


def test_a_schedule_that_has_ended_says_so(admin_client: Client) -> None:
    schedule = make_schedule()
    TaskSchedule.objects.update(next_run_at=None)

    page = admin_client.get(reverse(CHANGE, args=[schedule.id])).content.decode()

    assert "will not within the next two" in page


# The limits of clients


OF_SCHEDULERS = (
    "view_task", "retry_task", "view_taskschedule", "add_taskschedule", "change_taskschedule", "run_taskschedule",
)  # fmt: skip


def limited(settings: Settings, **values: Any) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, REQUIRE_AUTH=True, **values)


@pytest.mark.parametrize(("fields", "name"), [({"priority": "0"}, "priority"), ({"interval": "59"}, "interval")])
def test_a_schedule_beyond_the_limits_of_clients_takes_a_permission(
    fields: dict[str, str], name: str, settings: Settings, admin_client: Client
) -> None:
    limited(settings)
    client = staff_with(*OF_SCHEDULERS)

    refused = client.post(reverse(ADD), form(**fields))
    made = client.post(reverse(ADD), form())
    schedule = TaskSchedule.objects.get()
    unchanged = client.post(reverse(CHANGE, args=[schedule.id]), form(**fields))
    allowed = admin_client.post(reverse(CHANGE, args=[schedule.id]), form(**fields))

    assert list(errors(refused)) == list(errors(unchanged)) == [name]
    assert (made.status_code, allowed.status_code) == (302, 302)


def test_one_schedule_too_many_is_refused(settings: Settings) -> None:
    limited(settings, CLIENT_MAX_SCHEDULES=1)
    client = staff_with(*OF_SCHEDULERS)
    client.post(reverse(ADD), form())

    refused = client.post(reverse(ADD), form())

    assert "You have 1 schedules, of which you may have 1" in str(errors(refused))
    assert TaskSchedule.objects.count() == 1


def test_runs_by_hand_count_as_the_jobs_that_they_make(settings: Settings) -> None:
    limited(settings, CLIENT_MAX_UNFINISHED=1)
    client = staff_with(*OF_SCHEDULERS)
    schedule = make_schedule(owner="ada")
    task = make_task(owner="ada")
    Job.objects.filter(id=task.job_id).update(status=Status.CANCELLED, ready=False, finished_at=MONDAY)

    first = act(client, SCHEDULES, "run_selected_now", schedule)
    second = act(client, SCHEDULES, "run_selected_now", schedule)
    of_a_task = act(client, TASKS, "run_selected", task)

    assert "Ran 1 " in first
    assert "would have more than 1 unfinished jobs" in second
    assert "would have more than 1 unfinished jobs" in of_a_task
