"""Valid objects, where the test states only what matters."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import django.utils.timezone
from django.contrib.auth.models import Permission, User
from django.test import Client

from orchestrator.ids import uuid7
from orchestrator.models import Attempt, Job, Upkeep, Worker
from orchestrator.states import FINAL, Status


def make_job(status: Status = Status.CREATED, *, created_at: datetime | None = None, **columns: Any) -> Job:
    """A job as it could be found in that state, of a time in its life that its id also tells."""
    now = django.utils.timezone.now()
    job = Job(id=id_of(created_at) if created_at else uuid7(), created_at=created_at or now, status=status)
    job.kind, job.queue, job.run_at, job.rank, job.updated_at = "demo.slices", "io", now, now, now
    job.owner, job.error, job.priority, job.max_attempts, job.attempt = "", "", 5, 3, 0
    job.ready = status == Status.CREATED and not columns.get("unfinished_dependencies")
    if status != Status.CREATED:
        job.attempt, job.started_at = 1, now
    if status in FINAL:
        job.finished_at = now
    for name, value in columns.items():
        setattr(job, name, value)
    job.save(force_insert=True)
    return Job.objects.get(id=job.id)


def id_of(moment: datetime) -> UUID:
    """A job's id of that time."""
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (uuid7().int & ((1 << 80) - 1)))


def make_attempt(job: Job, **columns: Any) -> Attempt:
    return Attempt.objects.create(
        job=job, **{"number": 1, "outcome": Attempt.Outcome.RAISED, "error": "ValueError: no"} | columns
    )


def make_worker_row(queue: str = "io", **columns: Any) -> Worker:
    given = {"name": f"{queue}@here", "queues": [queue], "host": "here", "pid": 1, "process_started": "1"} | columns
    return Worker.objects.create(**given)


def make_everything_alive() -> None:
    """A worker for each queue, and a tick just now."""
    for queue in ("default", "io", "control"):
        make_worker_row(queue)
    Upkeep.objects.create(part="tick", ran_at=django.utils.timezone.now())


def make_user(username: str = "ada", **columns: Any) -> User:
    return User.objects.create_user(username=username, **columns)


def staff_with(*permissions: str) -> Client:
    """A browser in which a member of the staff has logged in who has these permissions."""
    user = make_user("guest", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client
