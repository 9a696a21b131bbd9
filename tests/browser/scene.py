"""A shop's day, for pictures: kinds, jobs in every state, a pipeline, workers, schedules, ingestions, figures."""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.db.models.functions import Now
from django.utils import timezone

from access.models import AuditEntry
from ingestion.models import Chunk, Ingestion, RecordError
from orchestrator.kinds import forget_kind, job
from orchestrator.models import AttemptLog, Backlog, Job, Kind, Rollup, Upkeep, Worker
from orchestrator.rollups.durations import BUCKETS
from orchestrator.running import RunningJob
from orchestrator.states import Status
from orchestrator.submission import submit
from tests.factories import make_attempt, make_job, make_worker_row
from tests.moves import put
from tests.scheduler.factories import make_schedule

REFUSED = "PaymentRefused: 503 from the bank"
TRACEBACK = f"""Traceback (most recent call last):
  File "/srv/venv/lib/python3.13/site-packages/requests/api.py", line 59, in request
    return session.request(method=method, url=url, **kwargs)
  File "/srv/venv/lib/python3.13/site-packages/requests/sessions.py", line 589, in request
    resp = self.send(prep, **send_kwargs)
  File "/srv/shop/jobs.py", line 31, in charge
    bank.charge(payload.order, payload.cents)
  File "/srv/shop/bank.py", line 12, in charge
    raise PaymentRefused(answer.status_code)
shop.{REFUSED}
"""
LINES = (
    ("INFO", "shop.charge", "Charging order 4700: 12,900 cents."),
    ("INFO", "shop.bank", "POST https://bank.example/charges"),
    ("WARNING", "shop.bank", "Answered 503 after 4.1 s; trying once more."),
    ("INFO", "shop.bank", "POST https://bank.example/charges"),
    ("ERROR", "shop.charge", "The bank refuses: 503."),
)
# Each kind with its queue, how many jobs an hour, which part of them fails, how long they run, and what it does.
KINDS = (
    ("shop.charge", "io", 240, 0.04, 1.4, "Charges an order at the bank, once."),
    ("shop.send_receipt", "io", 230, 0.0, 0.3, "Mails the receipt of an order."),
    ("shop.resize_picture", "default", 900, 0.004, 0.09, "Makes the thumbnails of a product."),
    ("reports.monthly", "default", 4, 0.0, 190.0, "Adds up a month for the accountants."),
    ("mail.newsletter", "io", 60, 0.0, 2.2, "Mails one issue to a list of readers."),
)


class Order(msgspec.Struct):
    order: int
    cents: int


def make(now: datetime | None = None) -> dict[str, Any]:
    """The rows of the scene; returns those that have pages worth a picture."""
    random.seed(7)
    now = now or timezone.now()
    for name, queue, *_, does in KINDS:
        _declare(name, queue, does)
    Kind.objects.create(name="orchestration.two_batches", queue="io", description="Two batches of draws.")
    _figures(now)
    workers = [make_worker_row(queue, name=f"{queue}@web-{n}", slots=slots, started_at=now - timedelta(hours=31))
               for queue, slots in (("io", 32), ("default", 2), ("control", 1)) for n in (1, 2)]  # fmt: skip
    Upkeep.objects.create(part="tick", ran_at=now)
    Upkeep.objects.create(part="rollups", ran_at=now - timedelta(seconds=9))
    _history(now)
    return {
        "failed": _failed(now),
        "running": _running(now, workers[0]),
        "pipeline": _pipeline(now),
        "schedule": _schedules(now),
        "ingestion": _ingestion(now),
        "kind": Kind.objects.get(name="shop.charge"),
    }


def keep_alive() -> None:
    """The workers and the tick are seen just now, however long the pictures take."""
    Worker.objects.update(seen_at=Now())
    Upkeep.objects.update(ran_at=Now())


def forget() -> None:
    for name, *_ in KINDS:
        forget_kind(name)


def _declare(name: str, queue: str, does: str) -> None:
    def handler(running: RunningJob) -> None: ...

    handler.__doc__ = does
    job(name, queue=queue, payload=Order if name == "shop.charge" else None, timeout_seconds=60)(handler)
    Kind.objects.create(name=name, queue=queue, description=does)


def _figures(now: datetime) -> None:
    """A day with its night: what ended in each hour and each minute."""
    rows: list[Rollup] = []
    for name, _, hourly, part_failed, seconds, _ in KINDS:
        for back in range(24):
            at = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=back)
            rows.append(_rollup("hour", at, name, hourly * _daily(at), part_failed, seconds, now))
        for back in range(60):
            at = now.replace(second=0, microsecond=0) - timedelta(minutes=back)
            rows.append(_rollup("minute", at, name, hourly / 60, part_failed, seconds, now))
        waiting = {"shop.charge": 3, "mail.newsletter": 41}.get(name, 0)
        Backlog.objects.create(
            kind=name, waiting=waiting, running=2 if waiting else 0, counted_at=now,
            oldest_since=now - timedelta(seconds=14) if waiting else None,
        )  # fmt: skip
    Rollup.objects.bulk_create(rows)


def _daily(at: datetime) -> float:
    return 0.25 + 0.75 * max(0.0, math.sin((at.hour - 5) / 24 * 2 * math.pi) + 0.35)


def _rollup(span: str, at: datetime, kind: str, expected: float, part: float, seconds: float, now: datetime) -> Rollup:
    ended = max(0, round(random.gauss(expected, expected**0.5)))
    failed = sum(random.random() < part for _ in range(ended))
    return Rollup(
        span=span, begins_at=at, kind=kind, completed=ended - failed, failed=failed, cancelled=0, errors=3 * failed,
        waits=_spread(ended, 0.02), runs=_spread(ended - failed, seconds * random.uniform(0.8, 1.3)),
        first_failure_at=at if failed else None,
        last_failure_at=min(at + timedelta(minutes=59), _a_minute_ago(now)) if failed else None,
        last_error=REFUSED if failed else "",
    )  # fmt: skip


def _a_minute_ago(now: datetime) -> datetime:
    return now - timedelta(minutes=1)


def _spread(count: int, seconds: float) -> list[int]:
    """So many durations about that long, in the buckets of the rollups."""
    found = [0] * BUCKETS
    middle = 2 * math.log2(max(1, seconds / 0.001))
    for _ in range(count):
        found[min(BUCKETS - 1, max(0, round(random.gauss(middle, 1.5))))] += 1
    return found


def _history(now: datetime) -> None:
    """A page of jobs, the newest first."""
    states = [Status.COMPLETED] * 9 + [Status.FAILED, Status.CANCELLED, Status.CREATED, Status.RUNNING]
    for back in range(60):
        name, queue, *_, seconds, _ = random.choice(KINDS)
        began = now - timedelta(seconds=40 + 37 * back)
        status = random.choice(states)
        ended = (
            {} if status in (Status.CREATED, Status.RUNNING) else {"finished_at": began + timedelta(seconds=seconds)}
        )
        times = {"created_at": began, "run_at": began, "updated_at": began}
        started = {} if status == Status.CREATED else {"started_at": began + timedelta(milliseconds=20)}
        error = REFUSED if status == Status.FAILED else ""
        owner = random.choice(["ada", "grace", "lin", ""])
        make_job(status, kind=name, queue=queue, owner=owner, error=error, **times, **started, **ended)


def _failed(now: datetime) -> Job:
    began = now - timedelta(minutes=3)
    failed = make_job(
        Status.FAILED, kind="shop.charge", owner="ada", error=f"shop.{REFUSED}", attempt=3, worker_name="io@web-1",
        payload={"order": 4700, "cents": 12_900}, created_at=began, run_at=began,
        started_at=began + timedelta(seconds=52), finished_at=began + timedelta(seconds=56.3),
    )  # fmt: skip
    for number, at in ((1, 0.1), (2, 9), (3, 52)):
        moment = began + timedelta(seconds=at)
        make_attempt(
            failed, number=number, error=f"shop.{REFUSED}", traceback=TRACEBACK, worker_name="io@web-1",
            started_at=moment, ended_at=moment + timedelta(seconds=4.3),
        )  # fmt: skip
        lines = [[n, (moment.timestamp() + n / 1.3), *line] for n, line in enumerate(LINES, 1)]
        AttemptLog.objects.create(job=failed, attempt=number, lines=lines)
    AuditEntry.objects.create(
        actor="grace", action="job.retry", object_id=str(failed.id), object_name=failed.kind, via="admin",
        keep_until=now + timedelta(days=365),
    )  # fmt: skip
    return failed


def _running(now: datetime, worker: Any) -> Job:
    running = make_job(
        Status.RUNNING, kind="mail.newsletter", owner="lin", worker=worker, worker_name=worker.name,
        progress_done=1_840, progress_total=5_200, progress_message="readers from H to K",
        started_at=now - timedelta(seconds=94),
        created_at=now - timedelta(seconds=95), deadline_at=now + timedelta(minutes=9),
    )  # fmt: skip
    for number in range(4):
        began = now - timedelta(seconds=3 + number)
        make_job(Status.RUNNING, kind="shop.charge", worker=worker, worker_name=worker.name, started_at=began)
    return running


def _pipeline(now: datetime) -> Job:
    """Its first batch is done, of the second one two draws run and one has failed once."""
    parent = submit("orchestration.two_batches", owner="ada")
    began = now - timedelta(seconds=400)
    children = Job.objects.filter(parent=parent)
    put(Job.objects.filter(id=parent.id), status=Status.RUNNING, started_at=began, created_at=began, run_at=began)
    put(children, created_at=began, run_at=began)
    worker = Worker.objects.filter(name="io@web-2").get()
    first = sorted(children.filter(kind="orchestration.draw", ready=True), key=lambda child: child.name)
    for number, child in enumerate(first):
        _done(child, began + timedelta(seconds=1), 150 + 9 * number)
    [first_sum] = children.filter(name="first_sum")
    _done(first_sum, began + timedelta(seconds=188), 62)
    later = children.filter(kind="orchestration.draw", status=Status.CREATED).order_by("name")
    for number, child in enumerate(later):
        at = began + timedelta(seconds=252)
        if number < 2:
            _done(child, at, 90 + 10 * number)
        else:
            put(Job.objects.filter(id=child.id), status=Status.RUNNING, ready=False, started_at=at, attempt=1,
                unfinished_dependencies=0, worker=worker, worker_name=worker.name)  # fmt: skip
    put(Job.objects.filter(id=parent.id), unfinished_dependencies=4)
    return parent


def _done(child: Job, began: datetime, seconds: float) -> None:
    put(
        Job.objects.filter(id=child.id), status=Status.COMPLETED, ready=False, started_at=began, attempt=1,
        unfinished_dependencies=0, finished_at=began + timedelta(seconds=seconds), result={"number": 512},
    )  # fmt: skip


def _schedules(now: datetime) -> Any:
    made = [
        make_schedule(now + timedelta(hours=hours), cron=cron, timezone="Europe/Berlin")
        for hours, cron in ((1, "*/20 8-18 * * mon-fri"), (3, "0 6 * * *"), (9, "30 2 1 * *"))
    ]
    for back in range(60):
        at = (now - timedelta(hours=4 * back)).replace(minute=20, second=0, microsecond=0)
        status = Status.FAILED if back in (7, 31) else Status.COMPLETED
        make_job(
            status, kind="reports.monthly", queue="default", schedule_id=made[0].id, scheduled_for=at, created_at=at,
            run_at=at, started_at=at + timedelta(milliseconds=80), finished_at=at + timedelta(seconds=3 + back % 4),
            error="OperationalError: the accounts are locked" if status == Status.FAILED else "",
        )  # fmt: skip
    return made[0]


def _ingestion(now: datetime) -> Ingestion:
    began = now - timedelta(minutes=12)
    ingest = make_job(
        Status.COMPLETED, kind="ingestion.ingest", owner="grace", progress_done=1_000, progress_total=1_000,
        created_at=began, run_at=began, started_at=began, finished_at=began + timedelta(seconds=6.2),
    )  # fmt: skip
    ingestion = Ingestion.objects.create(job=ingest, total_records=1_000)
    Chunk.objects.create(ingestion=ingestion, position=0, stored_records=979, failed_records=21)
    for number in range(21):
        field, code, message = random.choice(_BAD)
        RecordError.objects.create(
            ingestion=ingestion, index=number * 43 + 5, student_id=f"S-{number * 43 + 5:04}",
            errors=[{"field": field, "code": code, "message": message}],
        )  # fmt: skip
    return ingestion


_BAD = (
    ("grade", "invalid", "Must be Nursery, LKG, UKG or 1 to 12, not '13'."),
    ("email", "invalid", "Must be an address such as name@example.org."),
    ("date_of_birth", "in_the_future", "Must not be in the future."),
)
