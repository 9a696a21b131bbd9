"""What the end of an attempt means for its job: whether it is charged, and whether and when there is another."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from orchestrator.models import Attempt
from orchestrator.queue.endings import MAX_UNAVAILABLE, Ended, decide
from tests.orchestrator.workbench import DeclareKind

FIRST, LAST = 1, 3
NONE_YET, ENOUGH = 0, MAX_UNAVAILABLE
CHARGED, FREE = True, False
AT_ONCE, NEVER = timedelta(0), None
AFTER_ONE, AFTER_THREE = timedelta(seconds=10), timedelta(seconds=40)

BESIDE_OTHERS = {"isolate_next_time": True}
HOPELESS = {"retryable": False}


@pytest.mark.parametrize(
    ("outcome", "options", "number", "free_so_far", "charged", "next_within"),
    [
        ("RAISED", {}, FIRST, NONE_YET, CHARGED, AFTER_ONE),
        ("RAISED", {}, LAST, NONE_YET, CHARGED, NEVER),
        ("RAISED", HOPELESS, FIRST, NONE_YET, CHARGED, NEVER),
        ("TIMED_OUT", {}, FIRST, NONE_YET, CHARGED, AFTER_ONE),
        ("TIMED_OUT", {}, LAST, NONE_YET, CHARGED, NEVER),
        ("TIMED_OUT", BESIDE_OTHERS, LAST, NONE_YET, FREE, AFTER_THREE),
        ("LOST", {}, FIRST, NONE_YET, CHARGED, AFTER_ONE),
        ("LOST", {}, LAST, NONE_YET, CHARGED, NEVER),
        ("LOST", BESIDE_OTHERS, LAST, NONE_YET, FREE, AFTER_THREE),
        ("LOST", BESIDE_OTHERS, LAST, ENOUGH - 1, FREE, AFTER_THREE),
        ("LOST", BESIDE_OTHERS, LAST, ENOUGH, CHARGED, NEVER),
        ("LOST", BESIDE_OTHERS, FIRST, ENOUGH, CHARGED, AFTER_ONE),
        ("UNAVAILABLE", {}, LAST, NONE_YET, FREE, AFTER_THREE),
        ("UNAVAILABLE", {}, LAST, ENOUGH, CHARGED, NEVER),
        ("UNAVAILABLE", HOPELESS, FIRST, NONE_YET, FREE, NEVER),
        ("INTERRUPTED", {}, FIRST, NONE_YET, FREE, AT_ONCE),
        ("INTERRUPTED", {}, LAST, ENOUGH, FREE, AT_ONCE),
        (None, {}, FIRST, NONE_YET, CHARGED, AFTER_ONE),
        (None, {}, LAST, NONE_YET, CHARGED, NEVER),
    ],
)
def test_an_attempt_is_charged_and_followed_by_another_as_its_outcome_says(
    kind: DeclareKind,
    outcome: str | None,
    options: dict[str, Any],
    number: int,
    free_so_far: int,
    charged: bool,
    next_within: timedelta | None,
) -> None:
    ended = Ended(Attempt.Outcome(outcome) if outcome else None, **options)

    decision = decide(ended, number=number, max_attempts=LAST, free_so_far=free_so_far, kind=kind(backoff_seconds=10))

    assert decision.charged == charged
    assert (decision.within if decision.again else None) == next_within


def test_a_job_of_a_kind_that_only_others_know_is_tried_again_at_once() -> None:
    ended = Ended(Attempt.Outcome.RAISED)

    decision = decide(ended, number=FIRST, max_attempts=LAST, free_so_far=0, kind=None)

    assert (decision.again, decision.within) == (True, AT_ONCE)
