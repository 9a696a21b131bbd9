"""Examples for the documentation of the API."""

from typing import Any

TASK_ID = "01980c5e-7a00-7000-8000-00000000000a"
SCHEDULE_ID = "01980c5e-7a00-7000-8000-00000000000b"
JOB_ID = "01980c5e-7a00-7000-8000-00000000000c"

NEW_TASKS: dict[str, Any] = {
    "Two numbers": {"a": 1.5, "b": 2},
    "Urgent, as an operation": {"operation": "1.5+2", "priority": 0},
    "More digits than a double holds": {"a": "123456789012345678901234567890.0123456789", "b": "1"},
}
BATCH: list[Any] = [{"operation": "1+2", "priority": 9}, {"a": 0.1, "b": 0.2, "priority": 1}]
ACCEPTED_BATCH = {
    "accepted": 2,
    "rejected": 0,
    "tasks": [
        {"index": 0, "id": TASK_ID, "url": f"/tasks/{TASK_ID}/", "status": "PENDING"},
        {
            "index": 1,
            "id": "01980c5e-7a00-7001-8000-00000000000d",
            "url": "/tasks/01980c5e-7a00-7001-8000-00000000000d/",
            "status": "PENDING",
        },
    ],
    "errors": [],
}
TASK = {
    "url": f"/tasks/{TASK_ID}/",
    "id": TASK_ID,
    "a": 1.5,
    "b": 2,
    "operation": "1.5+2",
    "priority": 5,
    "owner": "ada",
    "status": "SUCCESS",
    "result": 3.5,
    "failed_message": None,
    "celery_task_id": "0b6b1a3c-7f0c-4c3d-8f6e-4a1d3c5e7f90",
    "schedule": None,
    "scheduled_for": None,
    "job": f"/jobs/{JOB_ID}",
    "created_at": "2030-01-31T12:00:00.000000Z",
    "updated_at": "2030-01-31T12:00:00.250000Z",
}
NEW_TASK = TASK | {"status": "PENDING", "result": None, "celery_task_id": None}
TASK_WITH_RESULTS = TASK | {
    "results": [{"id": JOB_ID, "result": 3.5, "created_at": "2030-01-31T12:00:00.250000Z"}],
}

NEW_SCHEDULES: dict[str, Any] = {
    "Every ten seconds, ten times": {"operation": "1+2", "interval": 10, "schedule_x_times": 10},
    "A job of any kind, every night, one at a time": {
        "name": "nightly slices",
        "kind": "demo.slices",
        "payload": {"slices": 3},
        "cron": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "jitter_seconds": 300,
        "overlap": "queue",
        "max_running": 1,
    },
    "Every hour, but not on some days": {
        "kind": "demo.slices",
        "cron": "0 * * * *",
        "exclude": ["2030-12-24", "2030-12-31T18:00:00Z"],
        "include": ["2031-01-01T12:30:00"],
    },
    "Weekdays at half past eight in Bucharest": {
        "a": 1,
        "b": 2,
        "cron": "30 8 * * MON-FRI",
        "timezone": "Europe/Bucharest",
    },
    "Every second day, an hour later each time": {"a": 1, "b": 2, "every_x_days": 2, "every_x_hours": 1},
    "The last Friday of a month, and never twice at once": {
        "a": 1,
        "b": 2,
        "rrule": "FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17;BYMINUTE=0;BYSECOND=0",
        "timezone": "America/New_York",
        "scheduled_at": "2030-01-01T00:00:00Z",
        "ends_at": "2031-01-01T00:00:00Z",
        "misfire_policy": "all",
        "overlap": "skip",
    },
}
SCHEDULE: dict[str, Any] = {
    "url": f"/task-schedules/{SCHEDULE_ID}/",
    "id": SCHEDULE_ID,
    "name": "",
    "description": "",
    "kind": "scheduler.add",
    "payload": None,
    "a": 1,
    "b": 2,
    "operation": "1+2",
    "priority": 5,
    "owner": "ada",
    "scheduled_at": "2030-01-31T12:00:00Z",
    "ends_at": None,
    "timezone": "UTC",
    "interval": 10,
    "every_x_days": None,
    "every_x_hours": None,
    "cron": None,
    "rrule": None,
    "schedule_x_times": 10,
    "misfire_policy": "latest",
    "overlap": "allow",
    "max_running": 1,
    "jitter_seconds": 0,
    "exclude": [],
    "include": [],
    "calendars": [],
    "on_closed": "skip",
    "on_failure": [],
    "enabled": True,
    "next_run_at": "2030-01-31T12:00:30Z",
    "last_run_at": "2030-01-31T12:00:20.312000Z",
    "run_count": 3,
    "missed_count": 0,
    "is_declared": False,
    "queued": [],
    "held_since": None,
    "last_error": "",
    "periodic_task": 7,
    "jobs": f"/jobs?schedule={SCHEDULE_ID}",
    "tasks": f"/tasks/?schedule={SCHEDULE_ID}",
    "created_at": "2030-01-31T12:00:00.000000Z",
    "updated_at": "2030-01-31T12:00:00.000000Z",
}
PREVIEW = {
    "timezone": "Europe/Bucharest",
    "runs": [
        {"local": "2030-03-30T03:30:00+02:00", "utc": "2030-03-30T01:30:00Z"},
        {"local": "2030-03-31T04:00:00+03:00", "utc": "2030-03-31T01:00:00Z"},
        {"local": "2030-04-01T03:30:00+03:00", "utc": "2030-04-01T00:30:00Z"},
    ],
    "skipped": [
        {"local": "2030-03-29T03:30:00+02:00", "utc": "2030-03-29T01:30:00Z", "reason": "excluded"},
    ],
}
CALENDAR: dict[str, Any] = {
    "url": "/calendars/berlin-office/",
    "name": "berlin-office",
    "description": "When somebody is there.",
    "country": "DE",
    "subdivision": "BE",
    "weekdays": ["MO", "TU", "WE", "TH", "FR"],
    "hours": ["09:00-17:00"],
    "closed_days": ["2030-12-24/2031-01-01"],
    "open_days": ["2030-12-27"],
    "created_at": "2030-01-31T12:00:00.000000Z",
    "updated_at": "2030-01-31T12:00:00.000000Z",
}
NEW_CALENDARS: dict[str, Any] = {
    "Working days in Berlin": {
        name: CALENDAR[name] for name in ("name", "country", "subdivision", "weekdays", "hours", "closed_days")
    },
    "Holidays alone": {"name": "german-holidays", "country": "DE"},
}
A_BACKFILL = {"from": "2024-01-30T00:00:00Z", "to": "2024-01-31T00:00:00Z", "dry_run": True}
BACKFILLED = {
    "occurrences": 24,
    "already_submitted": 20,
    "already_tasks": 20,
    "created": 4,
    "dry_run": False,
    "jobs": f"/jobs?schedule={SCHEDULE_ID}",
    "tasks": f"/tasks/?schedule={SCHEDULE_ID}",
}
