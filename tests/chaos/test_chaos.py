"""A minute of chaos, the same faults in the same order each time; `make chaos` does more of it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.invariants import Books
from tests.chaos.report import Report
from tests.chaos.run import Run, plan
from tests.chaos.world import World

SEED, SECONDS = 9, 60
# On RabbitMQ what the broker and its messages have to do with; everything else does not know the difference.
RABBITMQ_SECONDS = 25
RABBITMQ_FAULTS = ("broker_killed", "flush_broker", "messages_replayed", "SIGKILL child", "SIGKILL control")


def no_hurt(world: World, rng: object) -> None:
    """Nothing happens."""


def a_fault(name: str, touches: str, seconds: float, skipped: str = "") -> Fault:
    return Fault(
        name=name, hurt=no_hurt, weight=1, touches=touches, seconds=seconds, probes=(), group="other", skipped=skipped
    )


def test_a_plan_depends_on_its_seed_alone() -> None:
    assert plan(1, 300, FAULTS.values()) == plan(1, 300, FAULTS.values())
    assert plan(1, 300, FAULTS.values()) != plan(2, 300, FAULTS.values())


def test_a_plan_has_every_fault_that_can_be_done_and_never_two_at_once_that_touch_the_same() -> None:
    faults = [a_fault("long", "a", 10), a_fault("short", "a", 1), a_fault("other", "b", 1), a_fault("no", "b", 1, "-")]

    planned = plan(1, 300, faults)

    assert {each.fault.name for each in planned} == {"long", "short", "other"}
    on_a = [each for each in planned if each.fault.touches == "a"]
    assert all(earlier.at_seconds + earlier.fault.seconds <= later.at_seconds for earlier, later in pairwise(on_a))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_minute_of_chaos_loses_nothing_and_does_nothing_twice(world: World) -> None:
    run = Run(world, "minute", seed=SEED)

    run.go(plan(SEED, SECONDS, FAULTS.values()), SECONDS)

    report = Report(Books(run))
    assert report.holds, report.text()
    assert len(report.summary["faults"]) > 10
    assert report.summary["jobs"]["tests.effect"]["COMPLETED"] > 50


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(400)
def test_chaos_on_rabbitmq_loses_nothing_and_does_nothing_twice(rabbitmq_world: World) -> None:
    run = Run(rabbitmq_world, "rabbitmq", seed=SEED)

    run.go(plan(SEED, RABBITMQ_SECONDS, [FAULTS[name] for name in RABBITMQ_FAULTS]), RABBITMQ_SECONDS)

    report = Report(Books(run))
    assert report.holds, report.text()
    assert report.summary["recovery"]["broker"]["count"] > 0
