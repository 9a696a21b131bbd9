"""What limits hold back, as the tick counts it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone

from orchestrator.models import HeldBack, Job, Upkeep
from orchestrator.queue import held_back
from orchestrator.queue.limiting import change_limits
from orchestrator.submission import submit, submit_many
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.concurrency import at_once
from tests.orchestrator.workbench import DeclareKind, claim, complete, lease

pytestmark = pytest.mark.django_db(transaction=True)


def customer(payload: dict[str, Any]) -> Any:
    return payload.get("customer")


def count() -> dict[tuple[str, str], int]:
    """By kind and limit, as if the last time were a while ago."""
    Upkeep.objects.update_or_create(part="rollups", defaults={"ran_at": timezone.now() - timedelta(seconds=40)})
    tick.write_rollups()
    return {(row.kind, row.limit): row.jobs for row in HeldBack.objects.all()}


def test_jobs_behind_a_full_kind_are_counted(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(max_running=1)
    submit_many(limited, [{}] * 4)
    running = lease(limited, worker)

    assert count() == {(limited.name, "max_running"): 3}

    complete(running)
    assert count() == {}


def test_jobs_behind_a_full_key_are_counted_although_they_are_not_ready(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    limited = kind(key=customer, max_running_per_key=1)
    for each in ("ada", "ada", "ada", "bob"):
        submit(limited, {"customer": each})
    first, second, third = (claim(limited, worker) for _ in range(3))
    assert (first is None, second is None, third) == (False, False, None)

    assert count() == {(limited.name, "max_running_per_key"): 2}


def test_jobs_behind_a_rate_are_counted(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(rate="1/h")
    submit_many(limited, [{}] * 3)
    complete(lease(limited, worker))

    assert count() == {(limited.name, "rate"): 2}


def test_a_rate_of_each_owner_that_becomes_one_of_each_key_is_one_limit(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    limited = kind(key=customer, rate="1/h", rate_per="owner")
    submit_many(limited, [{"customer": "ada"}] * 3)
    complete(lease(limited, worker))
    assert claim(limited, worker) is None
    Job.objects.filter(blocked_by__isnull=False).update(blocked_by="rate_per_key:ada")
    Job.objects.filter(id=Job.objects.filter(blocked_by__isnull=False)[:1].get().id).update(
        blocked_by="rate_per_owner:"
    )

    assert count() == {(limited.name, "rate"): 2}


def test_the_oldest_is_that_which_could_start_first(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(key=customer, max_running_per_key=1)
    submit_many(limited, [{"customer": "ada"}] * 3)
    lease(limited, worker)
    assert claim(limited, worker) is None
    hour = timedelta(hours=1)
    Job.objects.filter(blocked_by__isnull=False).update(created_at=F("created_at") - hour, run_at=F("run_at") - hour)

    count()

    assert timezone.now() - HeldBack.objects.get().oldest_since > hour


def test_nothing_is_held_back_where_the_limit_has_room_or_is_gone(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(max_running=2)
    worker.lease.register()
    submit_many(limited, [{}] * 3)
    lease(limited, worker)
    assert count() == {}

    lease(limited, worker)
    assert count() == {(limited.name, "max_running"): 1}

    change_limits(limited.name, {"max_running": "unlimited"})
    assert count() == {}


def test_two_ticks_count_at_once(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(max_running=1)
    submit_many(limited, [{}] * 3)
    lease(limited, worker)
    count()
    HeldBack.objects.all().delete()

    assert at_once(*[held_back.count] * 4) == [None] * 4

    assert [(row.limit, row.jobs) for row in HeldBack.objects.all()] == [("max_running", 2)]
