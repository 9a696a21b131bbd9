"""Examples in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from orchestrator.http.examples import JOB

RECORDS: list[dict[str, Any]] = [
    {
        "student_id": "S-1001",
        "first_name": "Asha",
        "last_name": "Rao",
        "email": "asha.rao@example.org",
        "grade": "5",
        "date_of_birth": "2015-06-30",
    },
    {
        "student_id": "S-1002",
        "first_name": "Ravi",
        "last_name": "Iyer",
        "email": "ravi.iyer@example.org",
        "grade": "UKG",
        "section": "B",
    },
]
INGESTION = {
    "task_id": JOB,
    "status": "PENDING",
    "message": "Data ingestion started.",
    "total_records": 1000,
    "status_url": f"/api/data/status/{JOB}/",
}
INGESTION_STATUS = {
    "task_id": JOB,
    "status": "PROCESSING",
    "status_message": "PROCESSING (70% complete)",
    "total_records": 1000,
    "processed_records": 700,
    "stored_records": 696,
    "failed_records": 4,
    "progress_percentage": 70,
    "error_message": None,
    "created_at": "2030-01-31T12:00:00.000000Z",
    "started_at": "2030-01-31T12:00:00.100000Z",
    "completed_at": None,
    "duration": 3.5,
    "errors_url": f"/api/data/status/{JOB}/errors/",
}
ERRORS_OF_AN_INGESTION = [
    {
        "index": 17,
        "student_id": "S-1018",
        "errors": [
            {
                "field": "date_of_birth",
                "code": "invalid",
                "message": 'Expected a valid date such as 2010-01-31, not "2026-02-30".',
            }
        ],
    }
]
