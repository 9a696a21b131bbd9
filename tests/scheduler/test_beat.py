"""Beat and its admin: it reads no doorbells, and what is done to a schedule's row there happens to the schedule."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import pytest
from celery import beat as celery_beat
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks

from config.celery import app
from orchestrator.queue.bell import Doorbell
from orchestrator.tasks import tick as tick_task
from scheduler.beat import Scheduler
from scheduler.models import FIRE, Task, TaskSchedule
from scheduler.services.firing import fire_due
from scheduler.services.occurrences import database_now
from scheduler.services.schedules import change_schedule, delete_schedule, set_enabled
from scheduler.tasks import fire, follow_beat
from tests.scheduler.factories import MINUTE, MONDAY, again, make_schedule, occurrences, periodic_task

pytestmark = pytest.mark.django_db
# Beat closes the connection now and then, which a test's transaction would not outlive.
own_connection = pytest.mark.django_db(transaction=True)

LIST = "admin:django_celery_beat_periodictask_changelist"


def act(client: Client, action: str, *schedules: TaskSchedule) -> str:
    """Chooses an action of Beat's admin for the schedules' rows."""
    chosen = {"action": action, "_selected_action": [schedule.periodic_task_id for schedule in schedules]}
    return client.post(reverse(LIST), chosen, follow=True).content.decode()


# What Beat reads


@own_connection
def test_beat_ticks_and_reads_no_row_of_a_schedule() -> None:
    make_schedule()
    other = PeriodicTask.objects.create(
        name="someone else's", task="orchestrator.tick", interval=IntervalSchedule.objects.first()
    )

    beat = Scheduler(app, lazy=True)
    beat.setup_schedule()

    assert {"tick", other.name} <= beat.schedule.keys()
    assert not [name for name in beat.all_as_schedule() if name.startswith(FIRE)]


def test_beat_is_configured_to_use_it() -> None:
    assert app.conf.beat_scheduler == "scheduler.beat:Scheduler"
    assert app.conf.beat_schedule["tick"]["task"] == tick_task.name


class Losing(celery_beat.Scheduler):
    """A scheduler that is asked to end and loses the exception that says so, as a callback of the collector does."""

    asked_at = "tick"
    ticks = 0
    closed = False

    def setup_schedule(self) -> None:
        self.lose_at("start")

    def tick(self, *_: Any, **__: Any) -> float:
        self.ticks += 1
        assert self.ticks < 3, "It goes on."
        self.lose_at("tick")
        return 0

    def lose_at(self, moment: str) -> None:
        if moment == self.asked_at:
            with suppress(SystemExit):
                os.kill(os.getpid(), signal.SIGTERM)

    def close(self) -> None:
        self.closed = True


class LosingAtStart(Losing):
    asked_at = "start"


@pytest.mark.parametrize(("scheduler_class", "ticks"), [(Losing, 1), (LosingAtStart, 0)])
def test_beat_ends_when_it_is_asked_to_although_the_exception_is_lost(
    scheduler_class: type[Losing], ticks: int
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    service = celery_beat.Service(app, scheduler_cls=scheduler_class)
    try:
        app.Beat().install_sync_handler(service)
        service.start()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    scheduler = service.scheduler
    assert isinstance(scheduler, scheduler_class)
    assert (scheduler.ticks, scheduler.closed) == (ticks, True)


@own_connection
def test_reading_its_schedules_takes_beat_the_same_however_many_of_ours_there_are() -> None:
    make_schedule()
    beat = Scheduler(app, lazy=True)
    beat.setup_schedule()
    with CaptureQueriesContext(connection) as few:
        beat.all_as_schedule()
    for number in range(20):
        make_schedule(interval=100 + number)

    with CaptureQueriesContext(connection) as many:
        beat.all_as_schedule()

    assert len(many) == len(few)


def test_a_beat_that_runs_the_rows_of_schedules_fires_nothing_twice() -> None:
    """As Beat's own scheduler would."""
    schedule = make_schedule(database_now() - MINUTE / 2)

    for _ in range(3):
        fire(str(schedule.id), "an argument of a newer sender", newer=True)
    fire_due()

    assert len(occurrences(schedule)) == 1


def test_the_bell_of_a_schedule_that_is_gone_is_harmless() -> None:
    schedule = make_schedule()
    delete_schedule(schedule.id)

    fire(str(schedule.id))


# A schedule and its row


def test_a_schedule_has_a_row_in_beat_that_says_what_it_says() -> None:
    schedule = make_schedule(interval=90, enabled=False)

    row = periodic_task(schedule)
    assert (row.task, row.enabled, row.start_time) == (FIRE, False, MONDAY)
    assert (row.interval.every, row.interval.period) == (90, IntervalSchedule.SECONDS)

    change_schedule(schedule.id, {"enabled": True, "interval": None, "every_x_days": 3})
    row = periodic_task(schedule)
    assert (row.enabled, row.interval.every, row.interval.period) == (True, 3, IntervalSchedule.DAYS)


def test_a_change_that_beat_need_not_know_of_does_not_make_it_read_again() -> None:
    schedule = make_schedule()
    before = PeriodicTasks.last_change()

    change_schedule(schedule.id, {"a": 7})

    assert PeriodicTasks.last_change() == before


def test_a_deleted_row_does_no_harm_and_is_created_again_by_the_next_change(admin_client: Client) -> None:
    schedule = make_schedule()
    row = reverse("admin:django_celery_beat_periodictask_delete", args=[schedule.periodic_task_id])
    admin_client.post(row, {"post": "yes"})
    assert again(schedule).periodic_task is None

    fire_due(now=MONDAY)
    follow_beat()
    change_schedule(schedule.id, {"interval": 30})

    assert occurrences(schedule) == [MONDAY]
    assert again(schedule).periodic_task is not None


def test_an_interval_row_that_schedules_share_cannot_be_deleted(admin_client: Client) -> None:
    schedule = make_schedule()
    row = reverse("admin:django_celery_beat_intervalschedule_delete", args=[schedule.interval_schedule_id])

    admin_client.post(row, {"post": "yes"})

    assert again(schedule).interval_schedule is not None


# Beat's own admin


def test_disabling_and_enabling_in_beats_admin_pauses_and_resumes(admin_client: Client) -> None:
    schedule, other = make_schedule(), make_schedule()
    follow_beat()

    act(admin_client, "disable_tasks", schedule)
    follow_beat()
    assert [again(each).enabled for each in (schedule, other)] == [False, True]
    fire_due(now=MONDAY)
    assert occurrences(schedule) == []

    act(admin_client, "enable_tasks", schedule)
    follow_beat()
    assert again(schedule).enabled
    assert again(schedule).next_run_at == MONDAY


def test_a_row_saved_as_disabled_in_beats_admin_pauses_its_schedule(admin_client: Client) -> None:
    schedule = make_schedule()
    follow_beat()
    row = periodic_task(schedule)

    row.enabled = False
    row.save()
    follow_beat()

    assert not again(schedule).enabled


def test_while_nothing_changes_in_beats_admin_one_statement_finds_out() -> None:
    make_schedule()
    follow_beat()

    with CaptureQueriesContext(connection) as captured:
        follow_beat()

    assert len(captured) == 1


def test_rows_that_pausing_writes_are_not_taken_for_changes_in_beats_admin() -> None:
    schedule = make_schedule()
    set_enabled(schedule.id, False)

    follow_beat()
    assert not again(schedule).enabled
    set_enabled(schedule.id, True)
    follow_beat()
    assert again(schedule).enabled


def test_a_broken_schedule_that_is_enabled_in_beats_admin_stays_paused_and_says_why(admin_client: Client) -> None:
    broken, good = make_schedule(enabled=False), make_schedule(enabled=False)
    TaskSchedule.objects.filter(id=broken.id).update(timezone="Mars/Olympus")

    act(admin_client, "enable_tasks", broken, good)
    follow_beat()

    assert "Mars/Olympus" in again(broken).last_error
    assert [again(each).enabled for each in (broken, good)] == [False, True]
    assert [periodic_task(each).enabled for each in (broken, good)] == [False, True]


def test_running_selected_rows_in_beats_admin_makes_tasks_at_once(admin_client: Client) -> None:
    schedules = [make_schedule(), make_schedule(enabled=False)]

    page = act(admin_client, "run_tasks", *schedules)

    assert Task.objects.count() == 2
    assert "Ran 2 periodic tasks." in page
    assert {again(schedule).run_count for schedule in schedules} == {0}


def test_running_other_rows_in_beats_admin_still_sends_their_messages(admin_client: Client) -> None:
    schedule = make_schedule()
    other = PeriodicTask.objects.create(
        name="other", task="orchestrator.tick", interval=IntervalSchedule.objects.first()
    )
    chosen: dict[str, Any] = {"action": "run_tasks", "_selected_action": [other.pk, schedule.periodic_task_id]}

    with patch.object(Doorbell, "apply_async") as sent:
        admin_client.post(reverse(LIST), chosen)

    assert sent.call_count == 1
    assert Task.objects.count() == 1


@pytest.mark.parametrize("page", ["periodictask", "intervalschedule"])
def test_beats_admin_opens_with_many_rows(admin_client: Client, page: str) -> None:
    schedules = [make_schedule() for _ in range(30)]
    pk = schedules[0].periodic_task_id if page == "periodictask" else schedules[0].interval_schedule_id

    assert admin_client.get(reverse(f"admin:django_celery_beat_{page}_changelist")).status_code == 200
    assert admin_client.get(reverse(f"admin:django_celery_beat_{page}_change", args=[pk])).status_code == 200
