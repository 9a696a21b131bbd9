"""The benchmarks run, say plainly what was not met, and estimate by formulas that a simulation bears out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report, scale_out
from benchmarks.measure import Finding, in_turn, percentile
from benchmarks.simulation import Work, costs_of, effective, mean_wait, offered, simulated_waits, table, works

ROOT = Path(__file__).parent.parent.parent
SCALING = ROOT / "docs" / "scaling.md"


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


def measured(*names: str) -> dict[str, Finding]:
    """The findings that are kept of those benchmarks, or of all, by what they are of."""
    kept = report.read()["benchmarks"]
    return {each["what"]: Finding(**each) for name in names or kept for each in kept[name]["findings"]}


@pytest.fixture
def told() -> None:
    """The documents tell the results that are committed; whoever has just measured may go on testing."""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", str(report.RESULTS)], cwd=ROOT, check=False)
    if changed.returncode == 1:
        pytest.skip("There are newer results than the documents tell.")


@pytest.mark.usefixtures("told")
def test_the_costs_that_the_documents_tell_are_those_that_were_measured() -> None:
    rows = re.findall(r"^\| (processor time of [^|]+) \| ([^|]+) \|", SCALING.read_text(), re.MULTILINE)

    assert len(rows) > 10
    for what, told in rows:
        finding = measured()[what]
        assert told == f"{report.number(finding.value)} {finding.unit}", what


@pytest.mark.usefixtures("told")
def test_the_workers_curve_that_the_documents_tell_is_the_one_that_was_measured() -> None:
    told = re.findall(r"^\| [^|]+ \| ([\d,]+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", SCALING.read_text(), re.MULTILINE)

    assert told == [report.number(measured()[f"Muster, {name}"].value) for name in scale_out.SETS]


@pytest.mark.usefixtures("told")
def test_the_estimate_that_the_documents_tell_is_what_the_simulation_comes_to() -> None:
    users, poll_seconds, jobs, unchanged = 300_000, 10, 10_000, 0.9

    estimate = table(works(costs_of("postgres"), users / poll_seconds, jobs, unchanged))

    assert estimate in SCALING.read_text()


@pytest.mark.usefixtures("told")
def test_the_readme_tells_the_ratios_that_were_measured() -> None:
    batches, singles, latency = measured("tasks"), measured("singles"), measured("latency")
    told = " ".join((ROOT / "README.md").read_text().split())

    def times(other: str) -> str:
        return f"{batches['Muster'].value / batches[other].value:.0f} times"

    assert f"{times('the usual way: Django + Celery')} as many a second as the usual Django with Celery" in told
    assert f"{times('bare Celery, no tracking')} bare Celery" in told
    assert f"{times('procrastinate, deferred in batches')} procrastinate" in told
    assert f"one by one {singles['single tasks, times the usual way'].value:.1f} times the usual way" in told
    assert f"within {latency['transactional job, p50'].value:.0f} ms of being sent" in told


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
