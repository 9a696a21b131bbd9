"""/calendars/, and schedules that name them or exclude and include times: what is taken, changed and refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.models import Job
from scheduler.models import Calendar, TaskSchedule
from scheduler.recurrence.calendars import WEEKDAYS
from scheduler.services.calendars import change_calendar
from scheduler.services.firing import fire_due
from scheduler.services.occurrences import database_now
from tests.api import Api, pointers
from tests.scheduler.factories import MINUTE, MONDAY, again, make_job_schedule
from tests.scheduler.http.test_schedules import PATH, patch, path

pytestmark = pytest.mark.django_db

CALENDARS = "/calendars/"
OFFICE = {"name": "office", "country": "DE", "weekdays": ["MO", "TU", "WE", "TH", "FR"]}
DAILY = {
    "kind": "demo.slices",
    "cron": "0 9 * * *",
    "timezone": "Europe/Berlin",
    "scheduled_at": "2030-12-23T00:00:00Z",
}


def change(api: Api, name: str, body: str) -> Any:
    return api.send("PATCH", f"{CALENDARS}{name}/", body.encode())


def test_a_calendar_is_created_shown_changed_and_deleted(api: Api) -> None:
    created = api.post(CALENDARS, OFFICE | {"hours": ["09:00-17:00"]})
    shown = api.get(f"{CALENDARS}office/").json()

    assert (created.status_code, created.json()) == (201, shown)
    assert [each["name"] for each in api.get(CALENDARS).json()["results"]] == ["office"]
    assert change(api, "office", '{"hours": []}').json()["hours"] == []
    assert api.delete(f"{CALENDARS}office/").status_code == 204
    assert api.get(f"{CALENDARS}office/").status_code == 404


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "two words"}, "/name"),
        ({"name": ""}, "/name"),
        ({"country": "Germany"}, "/country"),
        ({"country": "XX"}, "/country"),
        ({"subdivision": "XX"}, "/subdivision"),
        ({"weekdays": ["MON"]}, "/weekdays/0"),
        ({"weekdays": "MO"}, "/weekdays"),
        ({"hours": ["09:00-17:00", "17:00-09:00"]}, "/hours/1"),
        ({"hours": ["9-17"]}, "/hours/0"),
        ({"closed_days": ["2030-12-24", "2030-02-30"]}, "/closed_days/1"),
        ({"closed_days": ["2031-01-01/2030-12-24"]}, "/closed_days/0"),
        ({"open_days": ["2030-12-24"] * 1_001}, "/open_days"),
        ({"colour": "red"}, "/colour"),
    ],
)
def test_a_bad_calendar_is_refused_by_its_fields(api: Api, fields: dict[str, Any], expected: str) -> None:
    response = api.post(CALENDARS, OFFICE | fields)

    assert (response.status_code, pointers(response)) == (400, [expected])
    assert not Calendar.objects.exists()


def test_a_calendar_that_schedules_name_cannot_be_deleted_and_a_name_is_taken_once(api: Api) -> None:
    api.post(CALENDARS, OFFICE)
    api.post(PATH, DAILY | {"calendars": ["office"], "name": "daily"})

    refused = api.delete(f"{CALENDARS}office/")

    assert (refused.status_code, "daily" in refused.json()["detail"]) == (409, True)
    assert pointers(api.post(CALENDARS, OFFICE)) == ["/name"]


def test_only_those_permitted_change_what_everyone_shares(as_user: Callable[..., Api], asks_for_tokens: None) -> None:
    ada, admin = as_user("ada"), as_user("grace", permissions=["add_calendar", "change_calendar", "delete_calendar"])

    refused = ada.post(CALENDARS, OFFICE)
    assert refused.status_code == 403
    assert refused.json()["detail"] == "This requires the permission scheduler.add_calendar, which you do not have."
    assert admin.post(CALENDARS, OFFICE).status_code == 201
    assert ada.get(CALENDARS).status_code == 200
    assert change(ada, "office", "{}").status_code == 403
    assert ada.delete(f"{CALENDARS}office/").status_code == 403


# Schedules


def test_the_preview_shows_what_is_skipped_and_why(api: Api) -> None:
    api.post(CALENDARS, OFFICE)

    shown = api.post(f"{PATH}preview/?n=3", DAILY | {"calendars": ["office"], "exclude": ["2030-12-24"]}).json()

    assert [run["local"][:10] for run in shown["runs"]] == ["2030-12-23", "2030-12-27", "2030-12-30"]
    skipped = {each["local"][:10]: each["reason"] for each in shown["skipped"]}
    assert skipped["2030-12-24"] == "excluded"
    assert skipped["2030-12-25"].startswith("office: ")
    assert skipped["2030-12-28"] == "office: closed on Saturdays"


def test_a_schedule_is_shown_with_its_exceptions_and_fires_by_them(api: Api) -> None:
    body: dict[str, Any] = {
        "exclude": ["2096-04-02T12:00:00Z"],
        "include": ["2096-04-02T12:00:30"],
        "on_closed": "skip",
    }
    schedule = make_job_schedule(**body)

    fire_due(now=MONDAY + MINUTE)

    shown = api.get(path(schedule)).json()
    assert {name: shown[name] for name in body} == body
    assert again(schedule).missed_count == 1
    [job] = Job.objects.filter(schedule_id=schedule.id)
    assert job.scheduled_for == MONDAY + MINUTE


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"exclude": ["2030-12-24", "Christmas"]}, "/exclude/1"),
        ({"exclude": "2030-12-24"}, "/exclude"),
        ({"exclude": ["2030-12-24"] * 1_001}, "/exclude"),
        ({"include": [7]}, "/include/0"),
        ({"include": ["2030-12-24"], "cron": "0 9 1 * *"}, "/include/0"),
        ({"calendars": ["nowhere"]}, "/calendars/0"),
        ({"calendars": ["c"] * 11}, "/calendars"),
        ({"on_closed": "never"}, "/on_closed"),
        ({"ends_at": "2030-12-24T00:00:00Z", "exclude": ["2030-12-23"]}, "/exclude"),
    ],
)
def test_bad_exceptions_are_refused_by_their_place(api: Api, fields: dict[str, Any], expected: str) -> None:
    response = api.post(PATH, DAILY | fields)

    assert response.status_code == 400, response.content
    assert pointers(response) == [expected]
    assert not TaskSchedule.objects.exists()


def test_another_calendar_gives_its_schedules_their_next_occurrences_with_the_next_tick(api: Api) -> None:
    api.post(CALENDARS, {"name": "office"})
    start = database_now().replace(microsecond=0)
    schedule = make_job_schedule(start, interval=3_600, calendars=["office"])
    fire_due()
    weekday = WEEKDAYS[start.weekday()]
    change_calendar("office", {"closed_days": [f"{start:%Y-%m-%d}/{start.year + 1}-01-31"], "weekdays": [weekday]})

    fire_due()

    moved = again(schedule)
    assert moved.next_run_at is not None
    assert (moved.next_run_at.year, moved.run_count, moved.missed_count) == (start.year + 1, 1, 0)


def test_a_change_of_exceptions_takes_the_place_of_the_old_ones(api: Api) -> None:
    schedule = make_job_schedule(interval=None, cron="0 9 * * *", exclude=["2096-04-03"])
    assert again(schedule).next_run_at == MONDAY.replace(day=4, hour=9)

    patch(api, schedule, {"exclude": []})

    assert again(schedule).exclude == []
