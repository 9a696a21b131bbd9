"""The handlers of the kinds that the orchestrator ships, each alone."""

from __future__ import annotations

import pytest

from orchestrator.jobs import STEP_SECONDS, aggregate, combine, draw, slices
from orchestrator.running import Cancelled
from orchestrator.testing import fake_job


def test_a_draw_takes_a_step_and_adds_a_fifth_of_the_first_sum() -> None:
    first, second = fake_job(draw), fake_job(draw, inputs={"first_sum": {"aggregated_sum": 5_004}})

    assert 100 <= first.run()["number"] <= 999
    assert 1_100 <= second.run()["number"] <= 1_999
    assert first.slept == [STEP_SECONDS]


def test_draws_are_added_up_and_both_sums_combined() -> None:
    sums = {"first_sum": {"aggregated_sum": 1}, "second_sum": {"aggregated_sum": 2}}

    assert fake_job(aggregate, inputs={"a": {"number": 100}, "b": {"number": 999}}).run() == {"aggregated_sum": 1_099}
    assert fake_job(combine, inputs=sums).run() == {
        "first_batch": {"aggregated_sum": 1},
        "second_batch": {"aggregated_sum": 2},
    }


def test_the_job_to_watch_tells_its_slices_and_can_be_cancelled_in_any() -> None:
    watched, cancelled = (fake_job(slices, {"slices": 3, "seconds_per_slice": 60}) for _ in range(2))
    cancelled.stop_at_checkpoint(4)

    assert watched.run() == {"slices": 3}
    assert [done for done, _, _ in watched.reported] == [0, 1, 2, 3]
    assert watched.seconds == 180
    with pytest.raises(Cancelled):
        cancelled.run()
    assert cancelled.reported[-1].message == "slice 2 of 3"
