"""Examples in the OpenAPI document."""

from __future__ import annotations

from typing import Any

JOB = "01980c5e-7a00-7000-8000-000000000000"
STARTED = {
    "message": "Orchestration started.",
    "job_id": JOB,
    "status_url": f"/status/ada/{JOB}",
}
STATUS = {
    "job_id": JOB,
    "status": "PENDING",
    "created_at": "2030-01-31T12:00:00.000000Z",
    "updated_at": "2030-01-31T12:00:05.000000Z",
}
RESULT = {"first_batch": {"aggregated_sum": 2745}, "second_batch": {"aggregated_sum": 5490}}
NEW_JOBS: dict[str, Any] = {
    "The demo job": {},
    "Urgent, in more slices": {"kind": "demo.slices", "payload": {"slices": 10}, "priority": 0},
    "Later, with three attempts": {"kind": "demo.slices", "run_at": "2030-01-31T12:00:00Z", "max_attempts": 3},
    "Only one at a time": {"kind": "demo.slices", "unique": {"key": "the nightly one"}},
    "Once in an hour for each number of slices": {
        "kind": "demo.slices",
        "payload": {"slices": 3},
        "unique": {"fields": ["slices"], "for_seconds": 3600, "on_conflict": "refuse"},
    },
    "Ten seconds after the last of many": {
        "kind": "demo.slices",
        "unique": {"key": "tidy up", "on_conflict": "postpone", "wait_seconds": 10, "max_wait_seconds": 60},
    },
}
NEW_JOBS_TOGETHER: dict[str, Any] = {
    "jobs": [
        {"kind": "demo.slices", "payload": {"slices": 2}, "priority": 1},
        {"kind": "orchestration.two_batches"},
    ]
}
ACCEPTED_JOBS = {
    "accepted": 2,
    "jobs": [
        {"job_id": JOB, "kind": "demo.slices", "link": f"/jobs/{JOB}", "duplicate": False},
        {
            "job_id": f"{JOB[:-1]}1",
            "kind": "orchestration.two_batches",
            "link": f"/jobs/{JOB[:-1]}1",
            "duplicate": False,
        },
    ],
}
BULK: dict[str, Any] = {
    "cancel": {"filter": {"kind": "demo.slices", "status": ["CREATED", "RUNNING"]}},
    "retry": {"filter": {"status": "FAILED", "finished_after": "2030-01-31T12:00:00Z"}},
    "change": {"filter": {"owner": "ada", "status": "CREATED"}, "change": {"priority": 9}},
}
BULK_ANSWER = {
    "action": "cancel",
    "dry_run": False,
    "matched": 2718,
    "exact": True,
    "more": False,
    "job_id": JOB,
    "link": f"/jobs/{JOB}",
}
A_QUEUE = {
    "name": "io",
    "pool": "threads",
    "paused_at": "2030-01-31T12:00:00Z",
    "kinds": 12,
    "waiting": 431,
    "oldest_since": "2030-01-31T11:58:07Z",
    "running": 32,
    "workers": 1,
    "slots": 32,
}
AN_OWNER = {"owner": "ada", "weight": 2.0, "slot_share": None, "paused_at": None}
CHANGED_OWNERS: dict[str, Any] = {
    "Pause it": {"paused": True},
    "Twice as much as others": {"weight": 2},
    "At most a quarter of the slots": {"slot_share": 0.25},
}
JOB_CHANGES: dict[str, Any] = {
    "Before all others": {"priority": 0, "run_at": None},
    "Later": {"run_at": "2030-01-31T12:00:00Z"},
}
CHANGED_KINDS: dict[str, Any] = {
    "At most five at once, two of an owner": {"max_running": 5, "max_running_per_owner": 2},
    "Ten a minute for each owner": {"rate": "10/m", "rate_per": "owner"},
    "As its code declares": {"max_running": None, "rate": None},
    "Pause it": {"paused": True},
}
A_JOB = {
    "job_id": JOB,
    "kind": "demo.slices",
    "status": "RUNNING",
    "waiting_for": None,
    "priority": 5,
    "owner": "ada",
    "attempt": 2,
    "max_attempts": 3,
    "progress": {"done": 2, "total": 5, "message": "slice 3 of 5"},
    "result": None,
    "error": "",
    "attempts": [
        {
            "number": 1,
            "outcome": "LOST",
            "error": "Its worker died while it ran.",
            "worker": "io@host",
            "started_at": "2030-01-31T12:00:00.000000Z",
            "ended_at": "2030-01-31T12:00:15.000000Z",
        }
    ],
    "signal": None,
    "parent": None,
    "name": "",
    "children": None,
    "schedule": None,
    "scheduled_for": None,
    "celery_task_id": "0b6b1a3c-7f0c-4c3d-8f6e-4a1d3c5e7f90",
    "trace_id": None,
    "worker": "io@host",
    "run_at": "2030-01-31T12:00:00.000000Z",
    "created_at": "2030-01-31T12:00:00.000000Z",
    "started_at": "2030-01-31T12:00:16.000000Z",
    "finished_at": None,
    "updated_at": "2030-01-31T12:00:18.000000Z",
    "links": {
        "self": f"/jobs/{JOB}",
        "cancel": f"/jobs/{JOB}",
        "retry": None,
        "parent": None,
        "children": None,
    },
}
A_LOG_LINE = {
    "id": "4711-3",
    "attempt": 2,
    "number": 3,
    "at": "2030-01-31T12:00:17.250000Z",
    "level": "INFO",
    "logger": "demo.slices",
    "message": "Slice 3 of 5 begins.",
}
A_JOBS_CONTENTS: dict[str, Any] = {
    "payload": {"slices": 5, "seconds_per_slice": 1},
    "limit": None,
    "checkpoints": [{"name": "charge the card", "ended_at": "2030-01-31T12:00:17.000000Z", "seconds": 0.84}],
}
NEW_PIPELINES: dict[str, Any] = {
    "One after the other": {
        "name": "slow, then fast",
        "steps": {
            "slow": {"kind": "demo.slices", "payload": {"slices": 2}},
            "fast": {
                "kind": "demo.slices",
                "payload": {"slices": {"$from": "slow.slices"}, "seconds_per_slice": 0},
            },
        },
        "result": {"slices": {"$from": "fast.slices"}},
    },
    "A condition, and a step that may fail": {
        "steps": {
            "measure": {"kind": "demo.slices", "payload": {"slices": 1}, "on_failure": "continue"},
            "many": {"kind": "demo.slices", "when": {"$from": "measure.slices", "default": 0, "gt": 3}},
            "few": {"kind": "demo.slices", "when": {"$from": "measure.slices", "default": 0, "lte": 3}},
            "last": {"kind": "demo.slices", "payload": {"slices": 1}, "after": ["many", "few"], "priority": 0},
        }
    },
    "For each value of a list": {
        "steps": {
            "extract": {"kind": "pipeline.value", "payload": {"rows": [{"n": 1}, {"n": 2}, {"n": 3}]}},
            "load": {
                "kind": "demo.slices",
                "each": {"$from": "extract.rows"},
                "payload": {"slices": {"$from": "$item.n"}, "seconds_per_slice": 0},
                "max_running": 2,
            },
            "sum": {"kind": "pipeline.value", "payload": {"$from": "load"}},
        },
        "deadline_seconds": 3600,
    },
    "Steps that are pipelines": {
        "steps": {
            "extract": {"kind": "pipeline.value", "payload": {"parts": [{"n": 1}, {"n": 2}]}},
            "load": {
                "each": {"$from": "extract.parts"},
                "pipeline": {
                    "steps": {
                        "work": {
                            "kind": "demo.slices",
                            "payload": {"slices": {"$from": "$input.n"}, "seconds_per_slice": 0},
                        },
                        "check": {"kind": "pipeline.value", "payload": {"done": {"$from": "work.slices"}}},
                    },
                    "result": {"$from": "check.done"},
                },
            },
            "total": {"kind": "pipeline.value", "payload": {"$from": "load"}},
        }
    },
    "Steps that are undone if it fails": {
        "steps": {
            "reserve": {
                "kind": "pipeline.value",
                "payload": {"seat": 7},
                "compensate": {"kind": "pipeline.value", "payload": {"release": {"$from": "reserve.seat"}}},
            },
            "charge": {"kind": "demo.slices", "payload": {"slices": 1, "seconds_per_slice": 0}, "after": ["reserve"]},
        }
    },
}
ACCEPTED_PIPELINE = {"pipeline_id": JOB, "status_url": f"/pipelines/{JOB}", "steps": 2}
A_PIPELINE: dict[str, Any] = {
    "pipeline_id": JOB,
    "name": "slow, then fast",
    "kind": "pipeline.run",
    "version": None,
    "status": "RUNNING",
    "parent": None,
    "owner": "ada",
    "result": None,
    "error": "",
    "progress": {"done": 1, "total": 2},
    "counts": {"completed": 1, "created": 1},
    "critical_path": ["slow"],
    "seconds": 2.1,
    "deadline_at": "2030-01-31T13:00:00.000000Z",
    "created_at": "2030-01-31T12:00:00.000000Z",
    "started_at": "2030-01-31T12:00:00.000000Z",
    "finished_at": None,
    "steps": [
        {
            "name": "slow",
            "job_id": JOB,
            "pipeline_id": None,
            "kind": "demo.slices",
            "status": "COMPLETED",
            "outcome": "",
            "signal": None,
            "after": [],
            "items": None,
            "waited_seconds": 0.012,
            "seconds": 2.031,
            "started_at": "2030-01-31T12:00:00.000000Z",
            "finished_at": "2030-01-31T12:00:02.000000Z",
            "error": "",
        }
    ],
    "compensations": [],
}
AN_AUDIT_ENTRY = {
    "id": 4711,
    "at": "2030-01-31T12:00:00.000000Z",
    "actor": "grace",
    "token": "3fa2c1d9e8b7a60",
    "address": "192.0.2.7",
    "via": "api",
    "action": "job.cancel",
    "object_id": JOB,
    "object_name": "demo.slices",
    "before": {"status": "RUNNING"},
    "after": None,
}
NOTIFICATION = "01980c5e-7a00-7000-8000-00000000000a"
A_SECRET = {"secret": "whsec_bm90IGEgc2VjcmV0LCBhbiBleGFtcGxlIG9mIDMyIA=="}
NEW_NOTIFICATIONS: dict[str, Any] = {
    "A webhook for all my jobs": {"name": "my service", "via": "webhook", "target": "https://example.org/hooks/jobs"},
    "Failures of a kind, in Slack": {
        "name": "failed demos",
        "via": "slack",
        "target": "https://hooks.slack.com/services/T000/B000/XXXX",
        "kind": "demo.slices",
        "statuses": ["FAILED"],
        "digest_seconds": 300,
    },
    "A webhook for jobs that name it": {
        "name": "on request",
        "via": "webhook",
        "target": "https://example.org/hooks/some",
        "automatic": False,
    },
}
A_NOTIFICATION = {
    "id": NOTIFICATION,
    "name": "my service",
    "owner": "ada",
    "via": "webhook",
    "target": "https://example.org/hooks/jobs",
    "kind": "",
    "statuses": ["COMPLETED", "FAILED", "CANCELLED"],
    "automatic": True,
    "children": False,
    "digest_seconds": 0,
    "enabled": True,
    "disabled_reason": "",
    "created_at": "2030-01-31T12:00:00.000000Z",
    "changed_at": "2030-01-31T12:00:00.000000Z",
    "links": {
        "self": f"/notifications/{NOTIFICATION}",
        "deliveries": f"/notifications/{NOTIFICATION}/deliveries",
        "test": f"/notifications/{NOTIFICATION}/test",
    },
}
A_DELIVERY = {
    "id": 4711,
    "message_id": "msg_01980c5e7a0070008000000000000001",
    "job": JOB,
    "job_kind": "demo.slices",
    "type": "job.completed",
    "state": "DELIVERED",
    "attempts": 1,
    "response_status": 204,
    "response": "",
    "error": "",
    "created_at": "2030-01-31T12:00:05.000000Z",
    "delivered_at": "2030-01-31T12:00:05.100000Z",
}
BAD_PRIORITY = {
    "type": "urn:muster:problem:bad-input",
    "title": "Invalid request",
    "status": 400,
    "detail": "/priority: Ensure this value is less than or equal to 9.",
    "errors": [
        {
            "pointer": "/priority",
            "code": "max_value",
            "detail": "Ensure this value is less than or equal to 9.",
        }
    ],
}

EVENTS = """\
retry: 2000

id: 0-CREATED-1896091200000000
event: status
data: {"job_id":"01980c5e-7a00-7000-8000-000000000000","kind":"demo.slices","owner":"ada","parent":null,"name":"",\
"status":"CREATED","attempt":0,"outcome":null,"error":"","ended":false,"at":"2030-01-31T12:00:00Z"}

id: 1-RUNNING-1896091201000000
event: status
data: {"job_id":"01980c5e-7a00-7000-8000-000000000000","kind":"demo.slices","owner":"ada","parent":null,"name":"",\
"status":"RUNNING","attempt":1,"outcome":null,"error":"","ended":false,"at":"2030-01-31T12:00:01Z"}

id: 1-RUNNING-1896091202000000
event: progress
data: {"job_id":"01980c5e-7a00-7000-8000-000000000000","attempt":1,"progress":{"done":3,"total":5,"message":""},\
"at":"2030-01-31T12:00:02Z"}

id: 1-COMPLETED-1896091206000000
event: status
data: {"job_id":"01980c5e-7a00-7000-8000-000000000000","kind":"demo.slices","owner":"ada","parent":null,"name":"",\
"status":"COMPLETED","attempt":1,"outcome":null,"error":"","ended":true,"at":"2030-01-31T12:00:06Z"}

"""
EVENTS_OF_OWNER = """\
retry: 2000

id: 1896091205000000.0

id: 1896091205000000.0
event: status
data: {"job_id":"01980c5e-7a00-7000-8000-000000000000","kind":"demo.slices","owner":"ada","parent":null,"name":"",\
"status":"COMPLETED","attempt":1,"outcome":null,"error":"","ended":true,"at":"2030-01-31T12:00:06Z"}

id: 1896091206000000.0

"""
