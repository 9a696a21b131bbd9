"""That the suite notices: each guard is taken away once, and what it guards against is seen."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import pytest

from tests.chaos.faults import CHILD, SHORT
from tests.chaos.invariants import Books, fenced_off
from tests.chaos.report import Report
from tests.chaos.run import Run
from tests.chaos.world import World, frozen
from tests.system.stack import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

# Long enough for what ends at all, here.
ENOUGH_SECONDS = 5
PATIENCE_SECONDS = 60

Without = Callable[[str], None]

EFFECTS = "every database effect is there exactly once"
ENDS = "every accepted job is in a final state"


def a_worker_frozen_beyond_its_lease(world: World) -> Run:
    """A job that does not listen, in a process that hangs until another has completed the job, and then goes on."""
    run = Run(world, "frozen", seed=0)
    job_id = run.client().job(CHILD, {"number": 1, "seconds": 1, "deaf": True}, priority=0)
    sql = (
        "SELECT worker.pid FROM orchestrator_job job JOIN orchestrator_worker worker ON worker.id = job.worker_id"
        " WHERE job.id = %s"
    )
    [[pid]] = until(lambda: world.query(sql, job_id), 20)
    with frozen([psutil.Process(pid)]):
        until(lambda: not run.unfinished(), PATIENCE_SECONDS)
    until(lambda: world.outside.read_text().count(f'"event": "done", "key": "{job_id}"') == 2, 20)
    # The zombie has ended when the process asks for the next job.
    run.client().job(CHILD, {"number": 2}, priority=0)
    run.settle()
    return run


def test_a_zombie_that_comes_to_its_end_is_fenced_off(world: World) -> None:
    run = a_worker_frozen_beyond_its_lease(world)

    report = Report(Books(run))
    assert report.holds, report.text()
    assert fenced_off(report.books) == 1


def test_without_the_attempt_guard_an_effect_is_there_twice(world: World, without: Without) -> None:
    without("no_attempt_guard")

    run = a_worker_frozen_beyond_its_lease(world)

    report = Report(Books(run))
    assert EFFECTS in report.broken
    assert report.summary["doubles"] == 1


def test_without_the_tick_a_job_to_be_tried_again_is_lost_and_one_that_has_its_bell_is_not(
    world: World, without: Without
) -> None:
    without("no_tick")
    run = Run(world, "no tick", seed=0)
    short, again = run.client().job(SHORT, {}), run.client().job(SHORT, {"failures": 1})

    run.settle(ENOUGH_SECONDS)

    report = Report(Books(run))
    assert [(each.invariant, each.job_id) for each in report.violations] == [(ENDS, again)]
    assert report.summary["losses"] == 1
    assert report.books.jobs[short]["status"] == "COMPLETED"


def test_with_the_bell_rung_before_the_commit_a_job_is_lost_where_nobody_looks_without_a_bell(
    world: World, without: Without
) -> None:
    without("no_tick")
    without("no_scout")
    without("bell_before_commit")
    run = Run(world, "bell before commit", seed=0)
    run.client().job(SHORT, {})

    run.settle(ENOUGH_SECONDS)

    report = Report(Books(run))
    assert report.broken == {ENDS}


def test_what_was_lost_without_a_guard_goes_on_with_it_and_nothing_is_left(world: World) -> None:
    until(lambda: not world.query("SELECT id FROM orchestrator_job WHERE status IN ('CREATED', 'RUNNING')"), 20)

    report = Report(Books(Run(world, "guarded again", seed=0)))
    assert report.holds, report.text()
