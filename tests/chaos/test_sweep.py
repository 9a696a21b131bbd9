"""A crash at every failpoint there is, one after the other."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from functools import partial
from importlib import import_module
from pkgutil import iter_modules

import psutil
import pytest

import ingestion
import orchestrator
import scheduler
from orchestrator.failpoints import NAMES
from tests.chaos import load
from tests.chaos.faults import CHILD, Fault
from tests.chaos.invariants import Books
from tests.chaos.report import Report
from tests.chaos.run import Planned, Run
from tests.chaos.world import World
from tests.system.stack import until

SEED = 6
# The work that is to be done meanwhile reaches every point within so long.
REACHED_SECONDS = 40
# Points that are reached only when a worker has died while it ran a job.
NEED_A_DEATH = {"giving-up", "taking-back", "worker-registered"}

BUSY = (
    "SELECT pid FROM orchestrator_job JOIN orchestrator_worker worker ON worker.id = worker_id WHERE queue = 'default'"
)


def every_failpoint() -> list[str]:
    """All that any module declares, in an order of chance: no process is killed many times in a row."""
    for app in (orchestrator, scheduler, ingestion):
        for module in iter_modules(app.__path__, f"{app.__name__}."):
            import_module(module.name)
    return random.Random(SEED).sample(sorted(NAMES), len(NAMES))


def crash_at(name: str, world: World, rng: random.Random) -> dict[str, object]:
    """Whoever comes there first is killed; the ticket that is gone proves that somebody was."""
    began_at = time.monotonic()
    ticket = world.failpoints / name
    ticket.touch()
    try:
        if name in NEED_A_DEATH:
            kill_a_busy_worker(world)
        until(lambda: not ticket.exists(), REACHED_SECONDS)
        until(world.api_answers, REACHED_SECONDS)
    finally:
        ticket.unlink(missing_ok=True)
    return {"reached_seconds": time.monotonic() - began_at}


def kill_a_busy_worker(world: World) -> None:
    [[pid], *_] = until(lambda: world.query(BUSY), REACHED_SECONDS)
    with suppress(psutil.Error):
        psutil.Process(pid).kill()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_crash_at_each_failpoint_loses_nothing_and_does_nothing_twice(world: World) -> None:
    run = Run(
        world, "sweep", seed=SEED, works=dict.fromkeys(load.WORK, 1) | {load.a_job_that_kills_its_worker_each_time: 0}
    )
    names = every_failpoint()

    with run.load():
        for place, name in enumerate(names):
            # Whichever process it is, a request may be under way in it.
            crash = Fault(
                name=name,
                hurt=partial(crash_at, name),
                weight=1,
                touches="web",
                seconds=1,
                probes=(CHILD,),
                group="kill",
            )
            run.hurt(Planned(0, crash, f"{SEED}/{place}"))
    run.settle()

    report = Report(Books(run))
    assert report.holds, report.text()
    assert len(names) > 30
    assert {entry["fault"] for entry in run.ledger.entries("fault_ended")} == set(names)
