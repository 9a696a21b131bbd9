"""When a lease runs out, who is charged for it, and what becomes of those beside a job that kills its process."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from django.conf import settings
from django.db.models import F
from django.db.models.functions import Now

from orchestrator.host import host, process_started
from orchestrator.kinds import Kind
from orchestrator.models import Attempt, Job, Upkeep, Worker
from orchestrator.queue import recovery, transitions
from orchestrator.queue.endings import MAX_UNAVAILABLE, Ended
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import RunningJob
from orchestrator.submission import submit
from orchestrator.upkeep.tick import take_back_from_dead_workers
from orchestrator.worker import job_leases
from orchestrator.worker.job_leases import PROBATION_SECONDS
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, MakeWorker, again, lease, record_in_flight, run, threads

CLOCK = "clock of leases"
HOUR = 3_600


def tick() -> None:
    take_back_from_dead_workers()


def pass_seconds(seconds: float) -> None:
    """As if PostgreSQL's clock went on by so much, whether time passed or somebody set it."""
    Upkeep.objects.filter(part=CLOCK).update(ran_at=F("ran_at") - timedelta(seconds=seconds))
    Worker.objects.update(
        seen_at=F("seen_at") - timedelta(seconds=seconds),
        noted_seen_at=F("noted_seen_at") - timedelta(seconds=seconds),
    )


def tick_on(seconds: float) -> None:
    """Ticks, a second apart, while nobody renews."""
    for _ in range(round(seconds)):
        pass_seconds(1)
        tick()


def alive(worker: WorkerProcess) -> bool:
    return Worker.objects.get(id=worker.row_id).ended_at is None


def gone() -> tuple[int, str]:
    """The id of a process of this host that is no more, and when it started."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_started(child.pid)
    child.communicate()
    assert started
    return child.pid, started


def test_a_process_that_cannot_report_its_kinds_leaves_no_row(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = make_worker()
    Worker.objects.all().delete()
    monkeypatch.setattr("orchestrator.worker.lease.REPORT_KINDS", "INSERT INTO nothing VALUES %s")

    with pytest.raises(psycopg2.Error):
        process.lease.register()

    assert not Worker.objects.exists()


# The clock of leases


def test_a_process_that_does_not_renew_for_the_length_of_a_lease_is_declared_dead(worker: WorkerProcess) -> None:
    tick()

    tick_on(settings.ENV.LEASE_SECONDS - 1)
    before = alive(worker)
    tick_on(2)

    assert (before, alive(worker)) == (True, False)


@pytest.mark.parametrize("seconds", [300, -300, 40, HOUR])
def test_no_living_process_is_declared_dead_for_an_outage_or_a_step_of_the_clock(
    worker: WorkerProcess, seconds: float
) -> None:
    tick()
    tick_on(settings.ENV.HEARTBEAT_SECONDS)

    pass_seconds(seconds)
    tick()
    heard_in_time = alive(worker)
    worker.lease.renewed_at = 0
    worker.heartbeat.beat()
    tick_on(settings.ENV.HEARTBEAT_SECONDS)

    assert heard_in_time
    assert alive(worker)


@pytest.mark.parametrize("seconds", [300, -300])
def test_after_a_step_of_the_clock_the_dead_are_still_declared_dead(worker: WorkerProcess, seconds: float) -> None:
    tick()
    pass_seconds(seconds)

    tick_on(settings.ENV.LEASE_SECONDS + 1)

    assert not alive(worker)


def test_outages_in_a_row_do_not_add_up_for_a_process_that_renews_between_them(worker: WorkerProcess) -> None:
    tick()

    for _ in range(10):
        pass_seconds(HOUR)
        tick()
        worker.lease.renewed_at = 0
        worker.heartbeat.beat()
        tick()

    assert alive(worker)


def test_concurrent_ticks_do_not_speed_up_the_clock_of_leases(worker: WorkerProcess) -> None:
    tick()

    with threads(4) as call:
        for ticked in [call(tick) for _ in range(100)]:
            ticked.result()

    assert Upkeep.objects.get(part=CLOCK).seconds < settings.ENV.LEASE_SECONDS
    assert alive(worker)


# Who is charged


def test_a_job_whose_process_may_have_lived_is_not_charged(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind(max_attempts=1, backoff_seconds=0)
    job = submit(waiting)
    lease(waiting, worker)

    declare_dead(worker.row_id, presumed=True)
    take_back_from_ended()

    assert (again(job).status, again(job).attempt, again(job).max_attempts) == ("CREATED", 1, 2)
    assert again(job).attempts.get().outcome == "UNAVAILABLE"


def test_a_batch_whose_process_may_have_lived_is_not_charged(kind: DeclareKind, worker: WorkerProcess) -> None:
    batching = kind(max_attempts=1, execution="transactional", backoff_seconds=0)
    job = submit(batching)
    record_in_flight(worker, job)

    declare_dead(worker.row_id, presumed=True)
    take_back_from_ended()

    assert (again(job).status, again(job).max_attempts) == ("CREATED", 2)


def test_a_job_that_silences_its_process_each_time_ends_failed(kind: DeclareKind, make_worker: MakeWorker) -> None:
    waiting = kind(max_attempts=2, backoff_seconds=0)
    job = submit(waiting)

    for _ in range(MAX_UNAVAILABLE + 2):
        process = make_worker()
        lease(waiting, process)
        declare_dead(process.row_id, presumed=True)
        take_back_from_ended()

    assert (again(job).status, again(job).attempt) == ("FAILED", MAX_UNAVAILABLE + 2)


def expired_row(job: Job, **columns: Any) -> Worker:
    """The row of another process, which runs the job, and which no tick has heard of for long."""
    fields = {"name": "io@there", "host": "there pid:[1]", "pid": 1, "process_started": "0", **columns}
    made = Worker.objects.create(**fields, noted_seconds=-HOUR)
    Worker.objects.filter(id=made.id).update(noted_seen_at=F("seen_at"))
    Job.objects.filter(id=job.id).update(status="RUNNING", ready=False, attempt=1, worker_id=made.id)
    return made


@pytest.fixture
def once(kind: DeclareKind, transactional_db: None) -> Kind:
    return kind(max_attempts=1, backoff_seconds=0)


def test_a_silent_process_of_this_host_that_is_gone_has_died(once: Kind) -> None:
    job = submit(once)
    pid, started = gone()
    expired_row(job, host=host(), pid=pid, process_started=started)

    tick()

    assert (again(job).status, again(job).attempts.get().outcome) == ("FAILED", "LOST")


def test_a_silent_process_of_this_host_that_lives_has_not_died(once: Kind) -> None:
    job = submit(once)
    expired_row(job, host=host(), pid=os.getpid(), process_started=process_started(os.getpid()))

    tick()

    assert (again(job).status, again(job).attempts.get().outcome) == ("CREATED", "UNAVAILABLE")


def test_a_silent_process_with_a_job_past_its_deadline_has_until_its_watchdog_would_have_ended_it(once: Kind) -> None:
    job = submit(once)
    tick()
    clock = Upkeep.objects.get(part=CLOCK).seconds
    row = expired_row(job, host=host(), pid=os.getpid(), process_started=process_started(os.getpid()))
    Worker.objects.filter(id=row.id).update(noted_seconds=clock - settings.ENV.LEASE_SECONDS)
    Job.objects.filter(id=job.id).update(deadline_at=Now() - timedelta(seconds=1))

    tick()
    waited_for = again(job).status == "RUNNING"
    pid, started = gone()
    Worker.objects.filter(id=row.id).update(pid=pid, process_started=started)
    tick()

    assert waited_for
    assert (again(job).status, again(job).attempts.get().outcome) == ("FAILED", "TIMED_OUT")


@pytest.mark.parametrize(
    ("name", "place", "status"),
    [
        ("io@there", "there pid:[2]", "FAILED"),  # The container was started again.
        ("io@there", "there pid:[1]", "CREATED"),  # A child beside it.
        ("default@there", "there pid:[2]", "CREATED"),  # Another container of the same pod.
        ("io@there", "thereafter pid:[2]", "CREATED"),
        ("io@elsewhere", "elsewhere pid:[2]", "CREATED"),
    ],
)
def test_a_silent_process_elsewhere_has_died_if_another_took_its_place(
    once: Kind, name: str, place: str, status: str
) -> None:
    job = submit(once)
    expired_row(job)
    Worker.objects.create(name=name, host=place, pid=1, process_started="5", started_at=Now())

    tick()

    assert again(job).status == status


def test_of_very_many_jobs_the_progress_is_written_in_turns(
    once: Kind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_leases, "MAX_PROGRESS_ROWS", 2)
    jobs = [submit(once) for _ in range(5)]
    running = [at_work(once, worker) for _ in jobs]
    written = []

    for beat in range(1, 4):
        for each in running:
            each.progress(beat)
        worker.job_leases.write_progress()
        written.append([again(job).progress_done for job in jobs])

    assert written == [[1, 1, None, None, None], [1, 1, 2, 2, None], [3, 1, 2, 2, 3]]


# Beside a job that kills its process


def at_work(kind: Kind, process: WorkerProcess) -> RunningJob:
    """A job that the process has claimed and runs."""
    with process.running.claiming() as isolated:
        claimed = lease_as(kind, process, isolated)
        running = RunningJob(claimed, kind)
        process.running.register(running)
    return running


def lease_as(kind: Kind, process: WorkerProcess, isolated: bool) -> Any:
    claim = transitions.claim(kind, worker_id=process.row_id, worker_name=process.name, isolated=isolated)
    return next(iter(claim.jobs), None)


def test_a_job_that_ran_beside_one_that_killed_the_process_is_not_charged(once: Kind, make_worker: MakeWorker) -> None:
    jobs = [submit(once) for _ in range(3)]
    dead = make_worker()
    for _ in jobs:
        at_work(once, dead)

    declare_dead(dead.row_id)
    take_back_from_ended()

    assert {(job.status, job.attempt, job.max_attempts, job.runs_alone) for job in map(again, jobs)} == {
        ("CREATED", 1, 2, True)
    }


def test_jobs_of_a_process_that_ran_very_many_run_together_once_more_and_then_alone(
    once: Kind, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "MAX_SUSPECTS", 2)
    jobs = [submit(once) for _ in range(3)]

    def die() -> set[tuple[Any, ...]]:
        dead = make_worker()
        for _ in jobs:
            at_work(once, dead)
        declare_dead(dead.row_id)
        take_back_from_ended()
        return {(job.status, job.attempt, job.max_attempts, job.runs_alone) for job in map(again, jobs)}

    assert die() == {("CREATED", 1, 2, False)}
    assert die() == {("CREATED", 2, 3, True)}


def test_a_job_that_is_taken_back_later_than_the_others_is_not_charged_either(
    once: Kind, make_worker: MakeWorker
) -> None:
    first, second = submit(once), submit(once)
    dead = make_worker()
    at_work(once, dead), at_work(once, dead)
    declare_dead(dead.row_id)

    recovery.take_back(Job.objects.filter(id=first.id), Ended(Attempt.Outcome.LOST, isolate_next_time=True))
    take_back_from_ended()

    assert again(second).status == "CREATED"


def test_a_job_that_ran_beside_a_batch_is_not_charged(kind: DeclareKind, once: Kind, make_worker: MakeWorker) -> None:
    batching = kind(max_attempts=1, execution="transactional", backoff_seconds=0)
    leased, batched = submit(once), submit(batching)
    dead = make_worker()
    at_work(once, dead)
    record_in_flight(dead, batched)

    declare_dead(dead.row_id)
    take_back_from_ended()

    assert {again(leased).status, again(batched).status} == {"CREATED"}


def test_a_process_runs_one_isolated_job_at_a_time_and_others_beside_it(once: Kind, make_worker: MakeWorker) -> None:
    isolated = [submit(once), submit(once)]
    Job.objects.update(runs_alone=True)
    fresh = submit(once)
    process = make_worker()

    first = at_work(once, process)
    with process.running.claiming() as may:
        second = lease_as(once, process, may)
        third = lease_as(once, process, may)

    assert first.row.id == isolated[0].id
    assert (second.id, third) == (fresh.id, None)
    process.running.unregister(first)
    assert at_work(once, process).row.id == isolated[1].id


def test_two_threads_do_not_claim_an_isolated_job_each(once: Kind, worker: WorkerProcess) -> None:
    with worker.running.claiming() as one, worker.running.claiming() as other:
        assert (one, other) == (True, False)


def test_an_isolated_job_that_runs_for_a_while_is_trusted_again(once: Kind, worker: WorkerProcess) -> None:
    cleared, waiting = submit(once), submit(once)
    Job.objects.update(runs_alone=True)
    running = at_work(once, worker)
    running.began_at -= PROBATION_SECONDS

    worker.heartbeat.beat()

    assert not again(cleared).runs_alone
    assert at_work(once, worker).row.id == waiting.id


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_job_that_kills_its_process_each_time_ends_failed_whoever_runs_beside_it(
    max_attempts: int, kind: DeclareKind, make_worker: MakeWorker
) -> None:
    waiting = kind(max_attempts=max_attempts, backoff_seconds=0)
    killer = submit(waiting, priority=0)
    neighbours = []

    for _ in range(max_attempts + 1):
        dead = make_worker()
        at_work(waiting, dead)
        neighbours.append(submit(waiting))
        while lease_as(waiting, dead, isolated=False):
            pass
        declare_dead(dead.row_id)
        take_back_from_ended()
        Job.objects.filter(id__in=[job.id for job in neighbours]).update(
            priority=9, rank=Now() + timedelta(seconds=HOUR)
        )

    assert (again(killer).status, again(killer).attempt) == ("FAILED", max_attempts + 1)
    assert {again(job).status for job in neighbours} == {"CREATED"}


def test_a_job_that_kills_late_is_charged_in_the_end(once: Kind, make_worker: MakeWorker) -> None:
    killer = submit(once)
    attempts = 0

    while again(killer).status == "CREATED":
        dead = make_worker()
        Job.objects.update(runs_alone=False)
        at_work(once, dead)
        Worker.objects.filter(id=dead.row_id).update(in_flight_batch={"00000000-0000-7000-8000-000000000000": 0})
        declare_dead(dead.row_id)
        take_back_from_ended()
        attempts += 1

    assert (again(killer).status, attempts) == ("FAILED", MAX_UNAVAILABLE + 1)


def test_an_isolated_job_completes_as_any_other(once: Kind, worker: WorkerProcess) -> None:
    job = submit(once)
    Job.objects.update(runs_alone=True)

    ran = run(once, worker)

    assert (ran, again(job).status) == (1, "COMPLETED")
