"""`manage.py schedules export` and `import`: what was exported is what is imported, all of it or nothing."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from access.models import AuditEntry
from orchestrator.models import Notification
from scheduler.management import schedule_files
from scheduler.models import Calendar, TaskSchedule
from scheduler.services.firing import fire_due
from scheduler.services.schedules import delete_schedule
from tests.scheduler.factories import MONDAY, make_job_schedule, make_schedule

pytestmark = pytest.mark.django_db

NOT_COPIED = {"id", "created_at", "updated_at", "interval_schedule_id", "periodic_task_id", "_state"}
# What YAML 1.1 takes for something else than a text.
PAYLOAD: dict[str, Any] = {"slices": 2, "seconds_per_slice": 0.25}
ODD_TEXTS = ["no", "NO", "on", "12:30:00", "2030-01-31", "1e5", "1.5e5", "0777", "0x1F", "1_000", "~", "null", "<<",
             "", "=", " a", "a: b", "# c", "- d", "\u2028", "ü€😀", "\ttab", "line\nline\n"]  # fmt: skip


def export(**options: Any) -> str:
    said = io.StringIO()
    call_command("schedules", "export", stdout=said, **options)
    return said.getvalue()


def bring_in(tmp_path: Path, text: str, *options: str) -> list[str]:
    file, said = tmp_path / "schedules", io.StringIO()
    file.write_text(text)
    call_command("schedules", "import", str(file), *options, stdout=said)
    return said.getvalue().splitlines()


def refused(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(CommandError) as error:
        bring_in(tmp_path, text)
    return str(error.value).splitlines()


def rows() -> list[dict[str, Any]]:
    found = [{**vars(row)} for row in TaskSchedule.objects.order_by("owner", "name", "id")]
    return [{name: value for name, value in row.items() if name not in NOT_COPIED} for row in found]


def make_some() -> None:
    """Schedules that have something of everything."""
    Calendar.objects.create(
        name="office", country="NO", weekdays=["MO"], hours=["08:00-18:00"], closed_days=["2096-05-01"]
    )
    Calendar.objects.create(name="unused")
    told = Notification.objects.create(name="on call", via="mail", target="ada@example.com", digest_seconds=60)
    make_job_schedule(
        name="nightly", description="- not: a list\n", owner="ada", interval=None, cron="0 3 * * *", payload=PAYLOAD,
        timezone="Europe/Berlin", calendars=["office"], on_closed="next", exclude=["2096-05-02"],
        include=["2096-05-03T09:00:00Z"], overlap="queue", max_running=3, jitter_seconds=60, on_failure=[told.id],
        ends_at=MONDAY + timedelta(days=400), misfire_policy="all", schedule_x_times=9, priority=7,
    )  # fmt: skip
    make_job_schedule(name="nightly", interval=None, rrule="FREQ=DAILY;COUNT=3")
    make_schedule(name="sum", a=Decimal("0.10"), b=Decimal("1e20"), interval=None, every_x_days=0, every_x_hours=5)
    make_schedule(name="as sent", operation="1.50+2", a=Decimal("1.50"), b=Decimal(2))
    make_schedule(enabled=False)


@pytest.mark.parametrize("format", schedule_files.FORMATS)
def test_what_was_exported_is_imported_as_it_was(tmp_path: Path, format: str) -> None:
    make_some()
    text, before = export(format=format), rows()
    calendars = list(Calendar.objects.filter(name="office").values("country", "weekdays", "hours", "closed_days"))
    for schedule in TaskSchedule.objects.all():
        delete_schedule(schedule.id)
    Calendar.objects.all().delete()

    said = bring_in(tmp_path, text)

    assert rows() == before
    assert list(Calendar.objects.values("country", "weekdays", "hours", "closed_days")) == calendars
    assert export(format=format) == text
    assert [line.split()[0] for line in said] == ["created"] * 6 + ["unchanged:"]


@pytest.mark.parametrize("format", schedule_files.FORMATS)
def test_odd_texts_are_what_they_were(format: str) -> None:
    document = {
        "schedules": [
            {"payload": {"texts": ODD_TEXTS, **dict.fromkeys(ODD_TEXTS, 1)}, "n": [1, 1.5, 1e-7, None, True]}
        ]
    }

    assert schedule_files.read(schedule_files.written(document, format)) == document


def test_an_import_a_second_time_changes_nothing(tmp_path: Path) -> None:
    make_some()
    text, before = export(), list(TaskSchedule.objects.order_by("id").values())
    entries = AuditEntry.objects.count()

    said = bring_in(tmp_path, text)

    assert said == ["unchanged: 6"]
    assert list(TaskSchedule.objects.order_by("id").values()) == before
    assert AuditEntry.objects.count() == entries


def test_an_import_restores_what_was_changed_and_says_who_did_it(tmp_path: Path) -> None:
    make_some()
    text = export()
    TaskSchedule.objects.filter(name="sum").update(every_x_hours=6, enabled=False)
    delete_schedule(TaskSchedule.objects.get(name="as sent").id)

    said = bring_in(tmp_path, text)

    changed = TaskSchedule.objects.get(name="sum")
    assert (changed.every_x_hours, changed.enabled) == (5, True)
    assert said[0].startswith("created schedule as sent")
    assert said[1:] == [f"changed schedule {changed}: enabled, every_x_hours", "unchanged: 4"]
    entry = AuditEntry.objects.filter(action="schedule.change").get()
    assert (entry.via, bool(entry.actor)) == (AuditEntry.Via.COMMAND, True)


def test_a_dry_run_writes_nothing_and_says_what_it_would_do(tmp_path: Path) -> None:
    make_some()
    text = export()
    delete_schedule(TaskSchedule.objects.get(name="sum").id)

    said = bring_in(tmp_path, text, "--dry-run")

    assert said[0].startswith("created schedule sum")
    assert said[-1] == "unchanged: 5. This was a dry run; nothing was written."
    assert not TaskSchedule.objects.filter(name="sum").exists()
    assert not AuditEntry.objects.filter(via=AuditEntry.Via.COMMAND).exists()


def test_what_the_file_does_not_name_is_left_alone_and_what_it_leaves_out_has_its_default(tmp_path: Path) -> None:
    other = make_schedule(name="other")
    make_job_schedule(name="mine", priority=2, interval=60)

    bring_in(tmp_path, "schedules:\n- {name: mine, kind: demo.slices, payload: {slices: 1}, interval: 60}\n")

    mine = TaskSchedule.objects.get(name="mine")
    assert (mine.priority, mine.scheduled_at) == (5, MONDAY)
    assert TaskSchedule.objects.filter(id=other.id).exists()


def test_only_the_schedules_of_an_owner_are_exported_with_the_calendars_that_they_name() -> None:
    make_some()

    document = json.loads(export(owner="ada", format="json"))

    assert [(each["owner"], each["name"]) for each in document["schedules"]] == [("ada", "nightly")]
    assert [each["name"] for each in document["calendars"]] == ["office"]


def test_a_file_with_anything_wrong_is_refused_whole_with_pointers(tmp_path: Path) -> None:
    good = {"name": "good", "operation": "1+2", "interval": 60}
    bad = {"calendars": [{"name": "office", "hours": ["9-17"]}],
           "schedules": [good, good, good | {"name": "a", "interval": 0}, good | {"name": "b", "owners": "ada"},
                         good | {"name": "c", "calendars": ["nowhere"]},
                         {"name": "d", "kind": "nothing", "interval": 1},
                         {"name": "e", "kind": "demo.slices", "payload": {"slices": "x"}, "interval": 1},
                         {"operation": "1+2", "interval": 60}, 7]}  # fmt: skip

    lines = refused(tmp_path, json.dumps(bad))

    assert [line.partition(":")[0] for line in lines] == [
        "/calendars/0/hours/0", "/schedules/1", "/schedules/2/interval", "/schedules/3/owners",
        "/schedules/4/calendars/0", "/schedules/5/kind", "/schedules/6/payload/slices", "/schedules/7/name",
        "/schedules/8", "Nothing was imported.",
    ]  # fmt: skip
    assert not TaskSchedule.objects.exists()
    assert not Calendar.objects.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("schedules: [", "neither YAML nor JSON"),
        ('{"schedules": [{"name": "a", "name": "b"}]}', "'name' comes twice"),
        ("schedules:\n- name: a\n  name: b\n", "'name' comes twice"),
        ('{"schedules": [{"a": NaN}]}', "NaN is no JSON"),
        ("schedules: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("- name: a", "Must be an object with the lists calendars and schedules"),
        ("schedule: []", "Must be an object with the lists calendars and schedules"),
        ("schedules: {}", "/schedules: Must be a list."),
        ("[" * 100_000, "neither YAML nor JSON"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, text: str, why: str) -> None:
    assert why in refused(tmp_path, text)[0]


def test_a_schedule_that_is_due_runs_once_although_it_is_imported_meanwhile(tmp_path: Path) -> None:
    make_job_schedule(name="due")
    text = export()
    fire_due(now=MONDAY)

    bring_in(tmp_path, text)
    fire_due(now=MONDAY)

    assert TaskSchedule.objects.get(name="due").run_count == 1
