"""A crash at every failpoint there is, one after the other."""

from __future__ import annotations

import random
import time
from functools import partial

import pytest

from config.celery import app
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
# Points that are reached only when a worker has died.
NEEDS_A_DEATH = {"giving-up", "taking-back", "worker-registered"}


def every_failpoint() -> list[str]:
    """Those of all that any process imports, in an order of chance: one process is not killed many times in a row."""
    app.loader.import_default_modules()
    return random.Random(SEED).sample(sorted(NAMES), len(NAMES))


def crash_at(name: str, world: World, rng: random.Random) -> dict[str, object]:
    """Whoever comes there first is killed; the ticket that is gone proves that somebody was."""
    began_at = time.monotonic()
    ticket = world.failpoints / name
    ticket.touch()
    if name in NEEDS_A_DEATH:
        rng.choice(world.processes("child")).kill()
    try:
        until(lambda: not ticket.exists(), REACHED_SECONDS)
    finally:
        ticket.unlink(missing_ok=True)
    return {"reached_seconds": time.monotonic() - began_at}


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
