"""A client of the API as it should be: whatever is not answered it sends again with the same Idempotency-Key."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import requests

from tests.chaos.ledger import Ledger

REQUEST_SECONDS = 5
# Between two tries of a request that was not answered, or with 5xx.
PAUSE_SECONDS = 0.2
# After so long a request that was never answered well has failed for good.
PATIENCE_SECONDS = 120

Answer = requests.Response


class Unanswered(Exception):
    """The API did not answer for longer than anyone waits."""


class Refused(Exception):
    """The API answered 4xx to what it should accept."""


class Client:
    """Notes every answer, and every lack of one, in the ledger. For one thread."""

    def __init__(self, url: str, ledger: Ledger, stopping: threading.Event | None = None) -> None:
        self.ledger = ledger
        self._url = url
        self._session = requests.Session()
        self._stopping = stopping or threading.Event()

    def submit(
        self, path: str, body: Any = None, *, data: bytes | None = None, may_conflict: bool = False, **headers: str
    ) -> Answer:
        """Sends a POST until it is answered 2xx, which makes what it asked for accepted, exactly once; or 409, if it
        may conflict.
        """
        headers = {"Idempotency-Key": str(uuid4())} | {name.replace("_", "-"): text for name, text in headers.items()}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self.ask("POST", path, json=body, data=data, headers=headers)
            if answer is not None and (answer.status_code < 300 or (may_conflict and answer.status_code == 409)):
                return answer
            if answer is not None and answer.status_code < 500:
                self.ledger.note("refused", path=path, status=answer.status_code, text=answer.text[:500])
                raise Refused(f"{path}: {answer.status_code} {answer.text[:500]}")
            if time.monotonic() > deadline:
                self.ledger.note("unanswered", path=path)
                raise Unanswered(path)
            time.sleep(PAUSE_SECONDS)

    def ask(self, method: str, path: str, **options: Any) -> Answer | None:
        """One request; None if it was not answered in time, or the connection broke."""
        began_at, answer, error = time.time(), None, ""
        try:
            answer = self._session.request(method, self._url + path, timeout=REQUEST_SECONDS, **options)
        except requests.RequestException as failure:
            error = f"{type(failure).__name__}: {failure}"[:200]
            self._session.close()
        text = answer.text[:300] if answer is not None and answer.status_code >= 500 else error
        self.ledger.note(
            "answer",
            method=method,
            path=path,
            status=0 if answer is None else answer.status_code,
            began_at=began_at,
            seconds=time.time() - began_at,
            **({"text": text} if text else {}),
        )
        return answer

    # What is accepted.

    def job(self, kind: str, payload: Any, *, meant: str = "COMPLETED", **fields: Any) -> str:
        """Submits a job; `meant` is how it should end."""
        answer = self.submit("/jobs", {"kind": kind, "payload": payload, **fields}).json()
        return self.accept("job", answer["job_id"], kind=kind, payload=payload, meant=meant, **fields)

    def jobs(self, asked: Sequence[dict[str, Any]]) -> list[str]:
        """Submits jobs together, which should complete."""
        accepted = self.submit("/jobs/bulk", {"jobs": asked}).json()["jobs"]
        return [
            self.accept("job", each["job_id"], meant="COMPLETED", **job)
            for each, job in zip(accepted, asked, strict=True)
        ]

    def unique_job(self, kind: str, payload: Any, unique: dict[str, Any]) -> str | None:
        """Submits one, or gets the one that there is already; None if that has started and cannot be changed."""
        asked = {"kind": kind, "payload": payload, "unique": unique}
        answer = self.submit("/jobs", asked, may_conflict=True)
        if answer.status_code == 409:
            return None
        return self.accept("job", answer.json()["job_id"], meant="COMPLETED", **asked)

    def accept(self, what: str, id: str, **fields: Any) -> str:
        self.ledger.note("accepted", what=what, id=id, **fields)
        return id

    def cancel(self, job_id: str) -> int:
        """Asks once for a job to be cancelled; answers the status, 0 for none."""
        answer = self.ask("DELETE", f"/jobs/{job_id}")
        status, job = (0, {}) if answer is None else (answer.status_code, answer.json())
        self.ledger.note(
            "cancelled", id=job_id, status=status, job_status=job.get("status"), attempt=job.get("attempt")
        )
        return status

    def act(self, verb: str, ids: list[str], **fields: Any) -> None:
        """Has the same done to these jobs: cancel, retry or change."""
        if noted := {"cancel": "cancelled", "retry": "retried"}.get(verb):
            for job_id in ids:
                self.ledger.note(noted, id=job_id, status=0, job_status=None, attempt=None)
        self.act_on_all(verb, {"ids": ids}, **fields)

    def act_on_all(self, verb: str, filter: dict[str, Any], **fields: Any) -> None:
        """Has the same done to all that match. Of jobs that are cancelled or retried the ledger has to know."""
        answer = self.submit(f"/jobs/{verb}", {"filter": filter, **fields}).json()
        if answer["job_id"]:
            self.accept("job", answer["job_id"], kind="jobs.bulk_action", payload={}, meant="COMPLETED")

    def retry(self, job_id: str) -> None:
        """Asks for a job that has ended to be tried again."""
        self.submit(f"/jobs/{job_id}/retry")
        self.ledger.note("retried", id=job_id)

    def end_of(self, job_id: str) -> dict[str, Any] | None:
        """The job once it has ended; None if that takes too long, or if the run is about to end."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and not self._stopping.is_set():
            answer = self.ask("GET", f"/jobs/{job_id}?wait=1")
            if answer is None or answer.status_code != 200:
                time.sleep(PAUSE_SECONDS)
            elif (job := answer.json())["status"] in ("COMPLETED", "FAILED", "CANCELLED"):
                return dict(job)
        return None
