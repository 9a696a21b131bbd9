"""What bad handlers do to real workers: nothing, but for a line in the log."""

from __future__ import annotations

import pytest

from tests.kinds.mischief import HARMFUL, HARMLESS
from tests.system.stack import Stack, until

pytestmark = pytest.mark.slow

# A few of each sort; tests/orchestrator/worker/test_handlers.py has all of them.
ACTS = [
    "raise Mute", "raise a group", "SystemExit", "KeyboardInterrupt", "close_old_connections", "a raw close", "COMMIT",
    "an atomic left open", "a deferred constraint", "delete its own row", "progress of text", "SET DateStyle",
    "an advisory lock", "a hook that raises", "no log", "a child's environment", "no time for sockets",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["thread", "child", "batch"])
def test_real_workers_continue_whatever_a_handler_does_and_report_it(kind: str, stack: Stack) -> None:
    before = {worker for (worker,) in stack.query("SELECT id FROM orchestrator_worker WHERE ended_at IS NULL")}
    # In a pool of threads, what is the whole process's is not one job's to change.
    acts = [act for act in ACTS if not (kind == "thread" and act in ("no time for sockets", "a child's environment"))]
    submitted = []
    for act in acts:
        for payload in ({}, {"acts": [act]}):
            submitted.append((payload, stack.submit(f"tests.misbehave_in_{kind}", payload)))
    submitted.append(({}, stack.submit(f"tests.misbehave_in_{kind}")))

    ends = {job_id: stack.end_of(job_id) for _, job_id in submitted}

    for payload, job_id in submitted:
        failed = any(act in HARMFUL for act in payload.get("acts", ()))
        assert ends[job_id]["status"] == ("FAILED" if failed else "COMPLETED"), (payload, ends[job_id])
        assert ends[job_id]["attempt"] == 1, (payload, ends[job_id])
        if failed:
            [[outcome, traceback]] = stack.query(
                "SELECT outcome, traceback FROM orchestrator_attempt WHERE job_id = %s", job_id
            )
            assert outcome == "RAISED"
            assert traceback
    after = {worker for (worker,) in stack.query("SELECT id FROM orchestrator_worker WHERE ended_at IS NULL")}
    assert after == before
    assert stack.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711") == [(0,)]
    errors = [job_id for payload, job_id in submitted if any(act in HARMFUL for act in payload.get("acts", ()))]
    log = until(lambda: (text := worker_log(stack)).count("failed for good") >= len(errors) and text, 10)
    for job_id in errors:
        [line] = [line for line in log.splitlines() if job_id in line and "failed for good" in line]
        assert f"ERROR   orchestrator.attempts tests.misbehave_in_{kind} {job_id}" in line
    for _, job_id in submitted:
        assert f"INFO    tests.misbehave_in_{kind} It begins. [job {job_id}, attempt 1]" in log


def worker_log(stack: Stack) -> str:
    return "".join(path.read_text(errors="replace") for path in stack.data_dir.rglob("worker-*.log"))


def test_the_acts_are_known() -> None:
    assert set(ACTS) <= {*HARMFUL, *HARMLESS}
