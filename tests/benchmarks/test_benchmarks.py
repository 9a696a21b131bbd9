"""The benchmarks run, say plainly what was not met, and estimate by formulas that a simulation bears out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.measure import Finding, in_turn, percentile
from benchmarks.simulation import Work, effective, mean_wait, offered, simulated_waits

ROOT = Path(__file__).parent.parent.parent


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)


def kept() -> str:
    return report.RESULTS.read_text() if report.RESULTS.exists() else ""


@pytest.mark.slow
def test_a_quick_benchmark_finds_what_it_looks_for_and_keeps_nothing() -> None:
    before = kept()

    outcome = bench("--only", "reads", "--quick")

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    for found in ("GET /jobs/{id}, share of a", "304 by ETag", "a page after 100,000 jobs"):
        assert found in outcome.stdout
    assert kept() == before


def test_a_benchmark_that_there_is_not_is_refused_by_naming_those_there_are() -> None:
    outcome = bench("--only", "reeds")

    assert outcome.returncode == 2
    assert "There is no benchmark reeds; there are tasks, singles, latency" in outcome.stderr


@pytest.mark.parametrize(
    ("value", "at_most", "share", "is_met"),
    [
        (30, False, 0.5, False),
        (60, False, 1, True),
        (120, True, 0.5, False),
        (30, True, 2, True),
        (0, True, 1, True),
    ],
)
def test_a_target_is_met_from_its_value_on(value: float, at_most: bool, share: float, is_met: bool) -> None:
    finding = Finding(what="a rate", value=value, unit="×", target=60, at_most=at_most)

    assert (finding.share, finding.is_met) == (pytest.approx(share), is_met)


def test_nothing_at_all_is_met_by_nothing_alone() -> None:
    nothing, one = (Finding(what="errors", value=value, unit="", target=0, at_most=True) for value in (0, 1))

    assert (nothing.is_met, one.is_met) == (True, False)


def test_the_page_says_plainly_what_was_not_met() -> None:
    findings = [
        {"what": "a rate", "value": 30.0, "unit": "×", "target": 60},
        {"what": "a delay", "value": 12.5, "unit": "ms", "target": 20, "at_most": True, "note": "A note."},
        {"what": "a cost", "value": 1234.5, "unit": "µs"},
    ]
    run = {"title": "Rates", "at": "2030-01-31 12:00 UTC", "commit": "abc", "seconds": 5, "findings": findings}

    page = report.page({"machine": {"cores": "2"}, "benchmarks": {"rates": run}})

    assert "1 of 2 targets are met. Not met: a rate." in page
    assert "| a rate | 30.0 × | ≥ 60.0 × | 0.50 | NOT MET |" in page
    assert "| a delay | 12.5 ms | ≤ 20.0 ms | 1.60 | met |" in page
    assert "| a cost | 1,234 µs |  |  |  |" in page
    assert "A note." in page


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert [percentile(range(1, 301), share) for share in (0.5, 0.99, 1)] == [151, 298, 300]


def test_measures_are_taken_in_turn() -> None:
    order: list[str] = []

    medians = in_turn(3, lambda: order.append("a") or len(order), lambda: order.append("b") or 2 * len(order))

    assert "".join(order) == "ababab"
    assert medians == [3, 8]


@pytest.mark.parametrize("servers", [1, 4, 16])
def test_the_simulation_bears_out_the_formula(servers: int) -> None:
    work = [Work(rate=80 * servers, seconds=0.01)]

    waits = simulated_waits(servers, work, 400_000)

    assert sum(waits) / len(waits) == pytest.approx(mean_wait(servers, work), rel=0.1)


def test_a_queue_with_one_server_waits_as_the_textbook_says() -> None:
    # M/M/1: a / (1 - a) times the service time.
    assert mean_wait(1, [Work(rate=8, seconds=0.1)]) == pytest.approx(0.8 / 0.2 * 0.1)


def test_more_than_can_be_served_waits_for_ever() -> None:
    work = [Work(rate=50, seconds=0.1)]

    assert offered(work) == pytest.approx(5)
    assert mean_wait(5, work) == float("inf")


def test_cores_hinder_each_other() -> None:
    assert effective(1) == 1
    assert 7 < effective(8) < 8
    assert effective(96) < 96 / 1.5
