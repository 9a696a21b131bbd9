"""Whatever handlers do, each attempt ends with the right outcome, and a good job beside them is as good as alone."""

from __future__ import annotations

import logging
from io import StringIO
from typing import Any

from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.kinds import Kind
from orchestrator.models import Attempt, Job
from orchestrator.submission import submit
from orchestrator.worker.process import WorkerProcess
from tests.kinds.mischief import HARMFUL, HARMLESS, UNKEPT, Acts, fails, misbehave
from tests.orchestrator.attempt.test_sessions import session
from tests.orchestrator.workbench import DeclareKind, again, run

GOOD = Acts()
ACTS = st.lists(st.sampled_from([*HARMLESS, *HARMFUL]), max_size=3)
BAD = st.builds(Acts, acts=ACTS, returns=st.sampled_from(["", "", "", *UNKEPT]))


def all_of(names: Any, size: int) -> list[list[Acts]]:
    each = [Acts(acts=[name]) for name in names]
    return [each[start : start + size] for start in range(0, len(each), size)]


# Everything there is once, a few jobs at a time; then hypothesis mixes.
ONCE = [*all_of(HARMLESS, 6), *all_of(HARMFUL, 6), [Acts(returns=name) for name in UNKEPT]]


def test_a_good_job_is_not_affected_by_bad_ones_beside_it(kind: DeclareKind, worker: WorkerProcess) -> None:
    leased = kind(misbehave, payload=Acts, max_attempts=1)
    transactional = kind(misbehave, payload=Acts, max_attempts=1, execution="transactional")

    def check(misdeeds: list[Acts]) -> None:
        for declared in (leased, transactional):
            check_jobs(declared, worker, [GOOD, *misdeeds, GOOD])

    for misdeeds in ONCE:
        check(misdeeds)
    mixed = settings(
        max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    mixed(given(st.lists(BAD, min_size=1, max_size=3))(check))()


def test_a_log_handler_of_another_library_does_not_read_an_exception_that_changes_the_session(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    first = logging.StreamHandler(written := StringIO())
    logging.root.handlers.insert(0, first)
    try:
        check_jobs(kind(misbehave, payload=Acts, max_attempts=1), worker, [Acts(["raise Setting"])])
    finally:
        logging.root.removeHandler(first)

    assert "its __str__ raised RuntimeError" in written.getvalue()


def check_jobs(declared: Kind, worker: WorkerProcess, payloads: list[Acts]) -> None:
    clean = session()
    jobs = [(payload, submit(declared, payload)) for payload in payloads]

    while run(declared, worker):
        worker.heartbeat.beat()

    for payload, job in jobs:
        now = again(job)
        if fails(payload):
            check_failed(now, payload)
        else:
            assert (now.status, now.attempt, now.error) == ("COMPLETED", 1, ""), (payload, now.error)
            assert not now.attempts.exists()
        if payload is GOOD:
            check_good(now)
    assert session() == clean, payloads
    assert not connection.in_atomic_block
    Job.objects.all().delete()


def check_failed(job: Job, payload: Acts) -> None:
    assert (job.status, job.attempt, job.max_attempts) == ("FAILED", 1, 1), (payload, job.error)
    [attempt] = job.attempts.all()
    assert attempt.outcome == Attempt.Outcome.RAISED, (payload, attempt.error)
    assert attempt.error == job.error != ""
    assert attempt.traceback, payload
    assert job.celery_task_id == str(job.id)


def check_good(job: Job) -> None:
    assert job.result == {"prec": 28, "language": "en"}
    if job.progress_done is not None:
        assert (job.progress_done, job.progress_total, job.progress_message) == (1, 1, "done")
