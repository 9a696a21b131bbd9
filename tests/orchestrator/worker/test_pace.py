"""How many jobs of a kind are claimed at once."""

from __future__ import annotations

from orchestrator.worker.pace import MAX_GROUP, Pace


def measured(*seconds: float) -> Pace:
    pace = Pace()
    for each in seconds:
        pace.measured("test.kind", each)
    return pace


def test_a_kind_that_has_not_run_here_is_claimed_one_by_one() -> None:
    assert Pace().group_size("test.kind") == 1
    assert measured(0.0001).group_size("test.other") == 1


def test_groups_of_short_jobs_grow_up_to_a_maximum() -> None:
    pace, sizes = Pace(), []

    for _ in range(9):
        sizes.append(pace.group_size("test.kind"))
        for _ in range(sizes[-1]):
            pace.measured("test.kind", 0.0001)

    assert sizes == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    assert max(sizes) == MAX_GROUP


def test_a_group_is_about_50_ms_of_work() -> None:
    assert measured(*[0.005] * 64).group_size("test.kind") == 10
    assert measured(*[0.3] * 64).group_size("test.kind") == 1


def test_one_long_job_shrinks_the_next_group_at_once_and_short_ones_let_it_grow_again() -> None:
    long_once = measured(*[0.0001] * 64, 1.0)
    forgotten = measured(*[0.0001] * 64, 1.0, *[0.0001] * 64)

    assert long_once.group_size("test.kind") == 1
    assert forgotten.group_size("test.kind") == MAX_GROUP


def test_a_kind_is_long_once_several_of_its_jobs_are() -> None:
    surprised_once = measured(*[0.0001] * 64, 1.0)
    long_by_now = measured(*[0.0001] * 64, *[0.05] * 8)

    assert not surprised_once.is_long("test.kind")
    assert long_by_now.is_long("test.kind")
    assert measured(0.05).is_long("test.kind")
