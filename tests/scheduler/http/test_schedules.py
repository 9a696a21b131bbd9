"""/task-schedules/: what is taken for a schedule, how it is changed, previewed, paused, run and filled in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from django.db import transaction
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from pytest_django import DjangoAssertNumQueries

from scheduler.http import examples
from scheduler.models import FIRE, Task, TaskSchedule
from scheduler.services import backfills
from scheduler.services.firing import fire_due
from scheduler.services.occurrences import database_now
from tests.api import Api, pointers
from tests.concurrency import waiting
from tests.orchestrator.workbench import PATIENCE_SECONDS, threads
from tests.scheduler.factories import MINUTE, MONDAY, SECOND, again, make_schedule, occurrences

pytestmark = pytest.mark.django_db

PATH = "/task-schedules/"
UNKNOWN = "01980c5e-7a00-7000-8000-000000000000"
EVERY_MINUTE = {"a": 1, "b": 2, "interval": 60}


def iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def path(schedule: TaskSchedule, action: str = "") -> str:
    return f"{PATH}{schedule.id}/{action}"


def put(api: Api, schedule: TaskSchedule, body: Any) -> Any:
    return api.send("PUT", path(schedule), encoded(body))


def patch(api: Api, schedule: TaskSchedule, body: Any) -> Any:
    return api.send("PATCH", path(schedule), encoded(body))


def encoded(body: Any) -> bytes:
    return msgspec.json.encode(body)


# Creating


def test_a_schedule_is_created_and_shown_as_it_was_given(api: Api) -> None:
    body = {
        "operation": "1.5+2", "priority": 3, "scheduled_at": iso(MONDAY), "ends_at": iso(MONDAY + timedelta(days=9)),
        "timezone": "Europe/Bucharest", "cron": "30 8 * * MON-FRI", "schedule_x_times": 5, "misfire_policy": "all",
        "overlap": "skip", "enabled": True,
    }  # fmt: skip

    response = api.post(PATH, body)

    shown = response.json()
    assert response.status_code == 201
    assert shown["url"] == f"{PATH}{shown['id']}/"
    assert response["Location"] == f"http://testserver{shown['url']}"
    assert shown.keys() == examples.SCHEDULE.keys()
    assert {name: shown[name] for name in body} == body
    assert (shown["a"], shown["b"], shown["interval"], shown["rrule"]) == (1.5, 2, None, None)
    assert shown["next_run_at"] == iso(MONDAY.replace(hour=5, minute=30) + timedelta(days=1))
    assert (shown["run_count"], shown["missed_count"], shown["last_run_at"], shown["last_error"]) == (0, 0, None, "")
    assert api.get(path(TaskSchedule.objects.get())).json() == shown


def test_only_operands_and_a_rule_are_needed(api: Api) -> None:
    before = database_now().replace(microsecond=0)

    shown = api.post(PATH, EVERY_MINUTE).json()

    assert shown["next_run_at"] == shown["scheduled_at"] >= iso(before)
    assert (shown["timezone"], shown["misfire_policy"], shown["overlap"], shown["enabled"]) == (
        "UTC", "latest", "allow", True,
    )  # fmt: skip


def test_a_schedule_may_be_created_paused(api: Api) -> None:
    assert api.post(PATH, EVERY_MINUTE | {"enabled": False}).json()["next_run_at"] is None


def test_a_request_that_is_sent_again_makes_one_schedule(api: Api) -> None:
    first = api.post(PATH, EVERY_MINUTE, Idempotency_Key="k").json()

    assert api.post(PATH, EVERY_MINUTE, Idempotency_Key="k").json() == first
    assert TaskSchedule.objects.count() == 1


BAD_FIELDS = [
    ({"interval": 0}, ["/interval"]),
    ({"interval": -5}, ["/interval"]),
    ({"interval": 10**12}, ["/interval"]),
    ({"interval": 10**99}, ["/interval"]),
    ({"interval": 1.5}, ["/interval"]),
    ({"interval": "60"}, ["/interval"]),
    ({"interval": True}, ["/interval"]),
    ({"interval": None}, ["/interval"]),
    ({"cron": "* * * * *"}, ["/interval", "/cron"]),
    ({"interval": None, "cron": "* * *"}, ["/cron"]),
    ({"interval": None, "rrule": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"}, ["/rrule"]),
    ({"interval": None, "rrule": "FREQ=DAILY;INTERVAL=0"}, ["/rrule"]),
    ({"interval": None, "rrule": "x" * 501}, ["/rrule"]),
    ({"interval": None, "rrule": "FREQ=MONTHLY;BYMONTHDAY=0"}, ["/rrule"]),
    ({"interval": None, "rrule": "FREQ=WEEKLY;BYDAY=2TU"}, ["/rrule"]),
    ({"interval": None, "rrule": "DTSTART:20300101T000000Z\nRRULE:FREQ=DAILY"}, ["/rrule"]),
    ({"interval": None, "cron": "@reboot"}, ["/cron"]),
    ({"timezone": "localtime"}, ["/timezone"]),
    ({"timezone": "Factory"}, ["/timezone"]),
    ({"interval": None, "every_x_days": 10**9}, ["/every_x_days"]),
    ({"interval": None, "every_x_days": 10**99}, ["/every_x_days"]),
    ({"interval": None, "every_x_hours": -1}, ["/every_x_hours"]),
    ({"timezone": "Mars/Olympus"}, ["/timezone"]),
    ({"timezone": 2}, ["/timezone"]),
    ({"ends_at": "2096-04-01T00:00:00Z", "scheduled_at": "2096-04-02T00:00:00Z"}, ["/ends_at"]),
    ({"ends_at": "2096-04-01T00:00:00"}, ["/ends_at"]),
    ({"scheduled_at": "tomorrow"}, ["/scheduled_at"]),
    ({"scheduled_at": "9999-12-31T23:59:59Z"}, ["/scheduled_at"]),
    ({"scheduled_at": "2000-01-01T00:00:00Z", "misfire_policy": "all"}, ["/scheduled_at"]),
    ({"schedule_x_times": 0}, ["/schedule_x_times"]),
    ({"schedule_x_times": -1}, ["/schedule_x_times"]),
    ({"schedule_x_times": 10**10}, ["/schedule_x_times"]),
    ({"misfire_policy": "some"}, ["/misfire_policy"]),
    ({"overlap": "perhaps"}, ["/overlap"]),
    ({"enabled": "yes"}, ["/enabled"]),
    ({"priority": 10}, ["/priority"]),
    ({"a": "NaN"}, ["/a"]),
    ({"b": [1]}, ["/b"]),
    ({"operation": "1+2"}, ["/operation"]),
    ({"run_count": 7}, ["/run_count"]),
]


@pytest.mark.parametrize(("fields", "expected"), BAD_FIELDS)
def test_an_invalid_schedule_is_refused_by_its_fields(api: Api, fields: dict[str, Any], expected: list[str]) -> None:
    response = api.post(PATH, EVERY_MINUTE | fields)

    assert response.status_code == 400, response.content
    assert pointers(response) == expected
    assert not TaskSchedule.objects.exists()
    assert not PeriodicTask.objects.filter(task=FIRE).exists()


def test_a_schedule_without_operands_is_refused_by_their_names(api: Api) -> None:
    assert pointers(api.post(PATH, {"interval": 60})) == ["/a", "/b"]
    assert pointers(api.post(PATH, {"interval": 60, "a": 1})) == ["/b"]
    assert pointers(api.post(PATH, {"interval": 60, "operation": "1-2"})) == ["/operation"]


def test_the_longest_interval_fits_everywhere(api: Api) -> None:
    assert api.post(PATH, EVERY_MINUTE | {"interval": 36_525 * 86_400}).status_code == 201


# Reading


def test_the_list_takes_one_statement_and_has_pages_and_filters(
    api: Api, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    schedules = [make_schedule(), make_schedule(enabled=False), make_schedule(owner="ada")]

    with django_assert_num_queries(1):
        shown = api.get(PATH).json()["results"]

    def ids(query: str) -> list[str]:
        return [each["id"] for each in api.get(f"{PATH}?{query}").json()["results"]]

    newest_first = [str(schedule.id) for schedule in schedules[::-1]]
    assert [each["id"] for each in shown] == newest_first
    assert ids("limit=1") == newest_first[:1]
    assert ids("enabled=false") == [newest_first[1]]
    assert ids("owner=ada") == [newest_first[0]]


def test_creating_and_changing_take_a_bounded_number_of_statements(
    api: Api, django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(30):
        api.post(PATH, EVERY_MINUTE)
    with django_assert_max_num_queries(13):
        patch(api, TaskSchedule.objects.get(), {"a": 7})


@pytest.mark.parametrize("action", ["", "preview/"])
def test_an_unknown_schedule_is_not_found(api: Api, action: str) -> None:
    assert api.get(f"{PATH}{UNKNOWN}/{action}").status_code == 404
    assert api.get(f"{PATH}seven/{action}").status_code == 400


# Changing


def test_other_operands_leave_the_next_run_what_it_was(api: Api) -> None:
    due = make_schedule(database_now() - 10 * SECOND)
    assert due.next_run_at

    shown = patch(api, due, {"operation": "3+4", "priority": 0, "overlap": "skip"}).json()

    assert shown["next_run_at"] == iso(due.next_run_at)
    assert (shown["a"], shown["b"], shown["operation"]) == (3, 4, "3+4")
    fire_due()
    assert occurrences(due) == [due.next_run_at]


def test_new_times_go_on_from_now_and_make_up_for_nothing(api: Api) -> None:
    late = make_schedule(database_now() - 600 * MINUTE, misfire_policy="all")

    changed = patch(api, late, {"interval": 3_600}).json()
    fire_due()

    assert changed["next_run_at"] > iso(database_now())
    assert occurrences(late) == []


def test_a_later_end_or_more_runs_continue_a_schedule_that_had_ended(api: Api) -> None:
    start = database_now().replace(microsecond=0) - 2 * MINUTE
    over, done = make_schedule(start, ends_at=start + MINUTE), make_schedule(start, schedule_x_times=1)
    fire_due()
    assert again(over).next_run_at is again(done).next_run_at is None

    assert patch(api, over, {"ends_at": None}).json()["next_run_at"] == iso(start + 3 * MINUTE)
    assert patch(api, done, {"schedule_x_times": 2}).json()["next_run_at"] == iso(start + 3 * MINUTE)


def test_an_earlier_end_ends_it(api: Api) -> None:
    schedule = make_schedule(ends_at=MONDAY + 5 * MINUTE)
    fire_due(now=MONDAY + 2 * MINUTE)

    assert patch(api, schedule, {"ends_at": iso(MONDAY + 2 * MINUTE)}).json()["next_run_at"] is None


def test_it_cannot_run_fewer_times_than_it_has(api: Api) -> None:
    schedule = make_schedule(misfire_policy="all")
    fire_due(now=MONDAY + 2 * MINUTE)

    assert pointers(patch(api, schedule, {"schedule_x_times": 2})) == ["/schedule_x_times"]
    assert patch(api, schedule, {"schedule_x_times": 3}).json()["next_run_at"] is None


def test_a_patched_recurrence_takes_the_place_of_the_old_one(api: Api) -> None:
    schedule = make_schedule()

    by_cron = patch(api, schedule, {"cron": "0 6 * * *"}).json()
    by_days = patch(api, schedule, {"every_x_days": 2}).json()
    by_both = patch(api, schedule, {"every_x_hours": 1}).json()

    assert (by_cron["interval"], by_cron["cron"]) == (None, "0 6 * * *")
    assert (by_days["cron"], by_days["every_x_days"]) == (None, 2)
    assert (by_both["every_x_days"], by_both["every_x_hours"]) == (2, 1)
    assert pointers(patch(api, schedule, {"interval": 60, "cron": "0 6 * * *"})) == ["/interval", "/cron"]


def test_a_put_sets_what_it_leaves_out_to_its_default_but_start_and_pause(api: Api) -> None:
    schedule = make_schedule(priority=0, misfire_policy="all", schedule_x_times=3, enabled=False)

    shown = put(api, schedule, {"operation": "3+4", "cron": "0 6 * * *"}).json()

    assert (shown["priority"], shown["misfire_policy"], shown["schedule_x_times"]) == (5, "latest", None)
    assert (shown["interval"], shown["cron"]) == (None, "0 6 * * *")
    assert (shown["scheduled_at"], shown["enabled"]) == (iso(MONDAY), False)


@pytest.mark.parametrize("change", [put, patch])
@pytest.mark.parametrize(("fields", "expected"), BAD_FIELDS[:3] + BAD_FIELDS[16:18] + BAD_FIELDS[23:26])
def test_an_invalid_change_is_refused_and_changes_nothing(
    api: Api, change: Any, fields: dict[str, Any], expected: list[str]
) -> None:
    schedule = make_schedule()

    response = change(api, schedule, EVERY_MINUTE | fields)

    assert response.status_code == 400
    assert pointers(response) == expected
    assert again(schedule).updated_at == schedule.updated_at


def test_an_operand_can_be_patched_alone_and_replaces_the_operation(api: Api) -> None:
    schedule = make_schedule(operation="1+2")

    shown = patch(api, schedule, {"a": 5}).json()

    assert (shown["a"], shown["b"], shown["operation"]) == (5, 2, None)


@pytest.mark.django_db(transaction=True)
def test_two_changes_at_once_are_both_kept(api: Api) -> None:
    schedule = make_schedule()

    with threads(2) as start:
        changes = [start(patch, api, schedule, {"a": 7}), start(patch, api, schedule, {"priority": 1})]
        assert [change.result(PATIENCE_SECONDS).status_code for change in changes] == [200, 200]

    assert (again(schedule).a, again(schedule).priority) == (7, 1)


@pytest.mark.django_db(transaction=True)
def test_a_change_waits_for_the_tick_that_fires_the_schedule_and_forgets_nothing_of_it(api: Api) -> None:
    schedule = make_schedule()

    with transaction.atomic():
        fire_due(now=MONDAY)
        changing = waiting(lambda: patch(api, schedule, {"a": 7}))

    assert changing.result(PATIENCE_SECONDS).json()["run_count"] == 1
    assert (again(schedule).a, again(schedule).next_run_at) == (7, MONDAY + MINUTE)


def test_deleting_a_schedule_leaves_its_tasks(api: Api) -> None:
    schedule = make_schedule()
    fire_due(now=MONDAY)

    assert api.delete(path(schedule)).status_code == 204

    [task] = api.get(f"/tasks/?schedule={schedule.id}").json()["results"]
    assert (task["schedule"], task["status"]) == (str(schedule.id), "PENDING")
    assert api.get(path(schedule)).status_code == api.delete(path(schedule)).status_code == 404
    assert not PeriodicTask.objects.filter(task=FIRE).exists()


# Interval rows that are shared


@pytest.mark.parametrize("change", ["edit", "delete", "pause"])
def test_fifty_schedules_that_share_an_interval_do_not_affect_each_other(api: Api, change: str) -> None:
    first, *others = [make_schedule(interval=77) for _ in range(50)]
    assert IntervalSchedule.objects.filter(every=77).count() == 1
    before = list(PeriodicTask.objects.filter(taskschedule__in=others).order_by("id").values())

    if change == "edit":
        patch(api, first, {"interval": 78})
    elif change == "delete":
        api.delete(path(first))
    else:
        api.post(path(first, "pause/"))
    fire_due(now=MONDAY + 77 * SECOND)

    assert list(PeriodicTask.objects.filter(taskschedule__in=others).order_by("id").values()) == before
    assert IntervalSchedule.objects.filter(every=77).count() == 1
    assert {again(other).next_run_at for other in others} == {MONDAY + 2 * 77 * SECOND}
    assert all(len(occurrences(other)) == 1 for other in others)


# Preview


def test_a_preview_shows_local_time_and_utc_and_saves_nothing(api: Api) -> None:
    body = {
        "cron": "30 3 * * *", "timezone": "Europe/Bucharest", "a": 1, "b": 2, "scheduled_at": "2030-03-29T00:00:00Z",
        "exclude": ["2030-03-29"],
    }  # fmt: skip

    response = api.post(f"{PATH}preview/?n=3", body)

    assert response.status_code == 200
    assert response.json() == examples.PREVIEW
    assert not TaskSchedule.objects.exists()


@pytest.mark.parametrize(("query", "count"), [("", 10), ("?n=1", 1), ("?n=100", 100)])
def test_a_preview_shows_as_many_as_are_asked_for(api: Api, query: str, count: int) -> None:
    assert len(api.post(f"{PATH}preview/{query}", EVERY_MINUTE).json()["runs"]) == count
    assert len(api.get(path(make_schedule(), f"preview/{query}")).json()["runs"]) == count


@pytest.mark.parametrize("n", ["0", "101", "-1", "x"])
def test_a_preview_of_too_many_is_refused(api: Api, n: str) -> None:
    assert pointers(api.post(f"{PATH}preview/?n={n}", EVERY_MINUTE)) == ["/n"]


@pytest.mark.parametrize(("fields", "expected"), BAD_FIELDS)
def test_a_preview_refuses_what_saving_would(api: Api, fields: dict[str, Any], expected: list[str]) -> None:
    assert pointers(api.post(f"{PATH}preview", EVERY_MINUTE | fields)) == expected


def test_a_preview_needs_no_operands_and_after_a_past_start_shows_future_runs(api: Api) -> None:
    start = database_now().replace(microsecond=0) - timedelta(seconds=90)

    [first] = api.post(f"{PATH}preview/?n=1", {"interval": 60, "scheduled_at": iso(start)}).json()["runs"]

    assert first["utc"] == iso(start + timedelta(seconds=120))


def test_a_preview_respects_how_often_and_until_when(api: Api) -> None:
    def runs(**fields: Any) -> int:
        return len(api.post(f"{PATH}preview/", EVERY_MINUTE | {"scheduled_at": iso(MONDAY)} | fields).json()["runs"])

    assert runs(schedule_x_times=3) == 3
    assert runs(ends_at=iso(MONDAY + MINUTE)) == 2


def test_a_saved_schedule_shows_its_next_runs_and_a_paused_one_those_after_resuming(api: Api) -> None:
    schedule = make_schedule(schedule_x_times=4, misfire_policy="all")
    fire_due(now=MONDAY + MINUTE)

    def runs() -> list[str]:
        return [run["utc"] for run in api.get(path(schedule, "preview")).json()["runs"]]

    assert runs() == [iso(MONDAY + 2 * MINUTE), iso(MONDAY + 3 * MINUTE)]
    api.post(path(schedule, "pause/"))
    assert len(runs()) == 2
    api.post(path(schedule, "resume/"))
    fire_due(now=MONDAY + 9 * MINUTE)
    assert runs() == []


# Pause, resume, run now


def test_a_paused_schedule_does_not_run_and_a_resumed_one_goes_on_with_its_next_run(api: Api) -> None:
    start = database_now().replace(microsecond=0) - 2 * MINUTE
    schedule = make_schedule(start)

    paused = api.post(path(schedule, "pause/")).json()
    fire_due()
    assert (paused["enabled"], paused["next_run_at"], occurrences(schedule)) == (False, None, [])

    resumed = api.post(path(schedule, "resume")).json()
    fire_due()
    assert (resumed["enabled"], resumed["next_run_at"], occurrences(schedule)) == (True, iso(start + 3 * MINUTE), [])


def test_pausing_twice_is_harmless(api: Api) -> None:
    schedule = make_schedule()

    assert [api.post(path(schedule, "pause/")).status_code for _ in range(2)] == [200, 200]
    assert [api.post(path(schedule, "resume/")).json()["next_run_at"] for _ in range(2)] == [iso(MONDAY)] * 2


def test_a_broken_schedule_can_be_paused_but_not_resumed(api: Api) -> None:
    schedule = make_schedule()
    TaskSchedule.objects.filter(id=schedule.id).update(timezone="Mars/Olympus")

    assert api.post(path(schedule, "pause/")).status_code == 200
    assert pointers(api.post(path(schedule, "resume/"))) == ["/timezone"]
    assert patch(api, schedule, {"timezone": "UTC", "enabled": True}).json()["next_run_at"] == iso(MONDAY)


def test_running_now_makes_a_task_outside_the_count(api: Api) -> None:
    schedule = make_schedule(a=Decimal(7), enabled=False)

    response = api.post(path(schedule, "run-now/"), Idempotency_Key="k")
    api.post(path(schedule, "run-now/"), Idempotency_Key="k")

    shown = response.json()
    assert response.status_code == 202
    assert response["Location"] == f"http://testserver{shown['url']}"
    assert (shown["a"], shown["schedule"], shown["scheduled_for"]) == (7, str(schedule.id), None)
    assert (again(schedule).run_count, Task.objects.count()) == (0, 1)


# Backfill


@pytest.fixture
def hour_old() -> TaskSchedule:
    """Every minute since an hour ago, with the last ten minutes run."""
    schedule = make_schedule(database_now().replace(microsecond=0) - 60 * MINUTE)
    for number in range(50, 60):
        backfills.backfill(
            schedule.id, schedule.scheduled_at + number * MINUTE, schedule.scheduled_at + number * MINUTE
        )
    return schedule


def backfill(api: Api, schedule: TaskSchedule, begin: datetime, end: datetime, **fields: Any) -> Any:
    return api.post(path(schedule, "backfill/"), {"from": iso(begin), "to": iso(end), **fields})


def test_a_dry_run_counts_and_a_real_one_makes_what_is_missing_once(api: Api, hour_old: TaskSchedule) -> None:
    start = hour_old.scheduled_at
    span = (start + 40 * MINUTE, start + 59 * MINUTE)

    counted = backfill(api, hour_old, *span, dry_run=True)
    filled = backfill(api, hour_old, *span)
    again_filled = backfill(api, hour_old, *span)

    assert [each.status_code for each in (counted, filled, again_filled)] == [200, 202, 202]
    assert counted.json() == filled.json() | {"dry_run": True}
    assert (counted.json()["occurrences"], counted.json()["already_tasks"], counted.json()["created"]) == (20, 10, 10)
    assert again_filled.json()["created"] == 0
    assert occurrences(hour_old) == [start + number * MINUTE for number in range(40, 60)]
    assert again(hour_old).run_count == 0


def test_both_ends_of_a_backfill_are_included_and_what_lies_outside_the_schedule_is_not(
    api: Api, hour_old: TaskSchedule
) -> None:
    start = hour_old.scheduled_at

    assert backfill(api, hour_old, start, start, dry_run=True).json()["occurrences"] == 1
    assert backfill(api, hour_old, start - 99 * MINUTE, start - SECOND, dry_run=True).json()["occurrences"] == 0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"from": None}, ["/from"]),
        ({"to": "x"}, ["/to"]),
        ({"to": "2096-01-01T00:00:00Z"}, ["/to"]),
        ({"to": "2000-01-01T00:00:00Z"}, ["/to"]),
        ({"dry_run": "yes"}, ["/dry_run"]),
        ({"until": 1}, ["/until"]),
    ],
)
def test_an_invalid_backfill_is_refused(
    api: Api, hour_old: TaskSchedule, fields: dict[str, Any], expected: list[str]
) -> None:
    begin = iso(hour_old.scheduled_at)

    response = api.post(path(hour_old, "backfill/"), {"from": begin, "to": begin} | fields)

    assert response.status_code == 400
    assert pointers(response) == expected


def test_a_backfill_of_too_much_is_refused(api: Api) -> None:
    now = database_now()
    schedule = make_schedule(now - timedelta(days=1), interval=1)

    response = backfill(api, schedule, now - timedelta(days=1), now, dry_run=True)

    assert pointers(response) == ["/to"]


# Access


@pytest.mark.usefixtures("asks_for_tokens")
def test_users_see_and_touch_their_own_schedules_only(as_user: Callable[..., Api]) -> None:
    ada, bob, chief = as_user("ada"), as_user("bob"), as_user("chief", is_superuser=True)
    shown = ada.post(PATH, EVERY_MINUTE).json()
    schedule = TaskSchedule.objects.get()

    assert shown["owner"] == "ada"
    assert [client.get(path(schedule)).status_code for client in (ada, bob, chief)] == [200, 404, 200]
    assert [len(client.get(PATH).json()["results"]) for client in (ada, bob, chief)] == [1, 0, 1]
    for action in ("pause/", "resume/", "run-now/"):
        assert bob.post(path(schedule, action)).status_code == 404
    assert backfill(bob, schedule, schedule.scheduled_at, schedule.scheduled_at).status_code == 404
    assert {put(bob, schedule, EVERY_MINUTE).status_code, patch(bob, schedule, {}).status_code} == {404}
    assert bob.delete(path(schedule)).status_code == 404
    assert ada.post(path(schedule, "run-now/")).json()["owner"] == "ada"
    assert chief.delete(path(schedule)).status_code == 204


@pytest.mark.usefixtures("asks_for_tokens")
def test_without_a_token_there_are_no_schedules_and_a_reading_one_only_reads(
    api: Api, as_user: Callable[..., Api]
) -> None:
    reader = as_user("reader", token_prefix="ro_")

    assert {api.get(PATH).status_code, api.post(PATH, EVERY_MINUTE).status_code} == {401}
    assert reader.get(PATH).status_code == 200
    assert reader.post(PATH, EVERY_MINUTE).status_code == 403


def test_a_preview_of_the_last_days_that_there_are_is_refused_in_every_zone(api: Api) -> None:
    zone = {"timezone": "Pacific/Kiritimati"}

    added = api.post(f"{PATH}preview/", {"rrule": "FREQ=DAILY;COUNT=1\nRDATE:99991231T235959Z"} | zone)
    included = api.post(f"{PATH}preview/", {"rrule": "FREQ=DAILY;COUNT=1", "include": ["9999-12-31T23:59:59Z"]} | zone)

    assert (added.status_code, included.status_code) == (400, 400)
    assert (pointers(added), pointers(included)) == (["/rrule"], ["/include/0"])


def test_a_preview_says_which_value_is_wrong_and_what_would_be_right(api: Api) -> None:
    [error] = api.post(f"{PATH}preview/?n=3", {"rrule": "FREQ=MONTHLY;BYMONTHDAY=0"}).json()["errors"]

    assert error["pointer"] == "/rrule"
    assert error["detail"] == "BYMONTHDAY=0 is out of range: 1 to 31 or -31 to -1."


def test_dates_that_are_left_out_and_added_are_written_on_lines_of_their_own(api: Api) -> None:
    lines = ["RRULE:FREQ=DAILY;COUNT=3", "EXDATE:20300102T090000Z", "RDATE:20300110T120000Z"]

    shown = api.post(f"{PATH}preview/", {"rrule": "\r\n".join(lines), "scheduled_at": "2030-01-01T09:00:00Z"}).json()

    assert [run["utc"] for run in shown["runs"]] == [
        "2030-01-01T09:00:00Z",
        "2030-01-03T09:00:00Z",
        "2030-01-10T12:00:00Z",
    ]
