"""The benchmarks run, say plainly what was not met, and estimate by formulas that a simulation bears out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from benchmarks import ordinary, report, scale_out
from benchmarks.measure import Bench, Finding, in_turn, percentile
from benchmarks.ordinary_jobs import FIRST, Numbers, main, run_job, trace_file, traced
from benchmarks.ordinary_programs import MUSTER, ON_THREADS, PROGRAMS, Program
from benchmarks.servers import NotSo, Servers
from benchmarks.simulation import Work, costs_of, effective, mean_wait, offered, simulated_waits, table, works
from benchmarks.written import counted

ROOT = Path(__file__).parent.parent.parent
SCALING = ROOT / "docs" / "scaling.md"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)


def kept() -> str:
    return report.RESULTS.read_text() if report.RESULTS.exists() else ""


@pytest.mark.slow
@pytest.mark.long
def test_a_quick_benchmark_finds_what_it_looks_for_and_keeps_nothing() -> None:
    before = kept()

    outcome = bench("--only", "reads", "--quick")

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    for found in ("GET /jobs/{id}, share of a", "304 by ETag", "a page after 100,000 jobs"):
        assert found in outcome.stdout
    assert kept() == before


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    outcome = bench("--only", "reeds")

    assert outcome.returncode == 2
    assert "There is no benchmark reeds; there are tasks, singles, latency" in outcome.stderr


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as started:
        yield started


@pytest.mark.slow
@pytest.mark.long
def test_ordinary_jobs_are_measured_by_muster_and_by_others(servers: Servers) -> None:
    programs = [each for each in PROGRAMS if each.name in (ON_THREADS, "Celery, threads, untracked")]

    found = ordinary.measured(Bench(servers, quick=True, say=lambda _: None), programs)

    assert len(found) == 2
    for measures in found.values():
        assert set(measures) == {*ordinary.MEASURES, ordinary.CPU, *ordinary.DELAYS}
        assert min(measures.values()) > 0


@pytest.mark.slow
def test_what_statements_write_is_counted_index_by_index(servers: Servers) -> None:
    servers.execute("postgres", "CREATE DATABASE counting")
    url = servers.url("counting")
    servers.execute("counting", "CREATE TABLE thing (id int PRIMARY KEY, name text, kept int)")
    servers.execute("counting", "CREATE INDEX thing_by_name ON thing (name) WHERE name <> ''")

    with counted(url) as written:
        servers.execute(
            "counting",
            "INSERT INTO thing SELECT n, CASE n % 2 WHEN 0 THEN n::text ELSE '' END, n"
            " FROM generate_series(1, 10) AS n",
        )
        servers.execute("counting", "UPDATE thing SET name = 'other' WHERE id = 2")

    assert written.index_entries == {"thing_pkey": 11, "thing_by_name": 6}
    [inserting] = [each for name, each in written.statements.items() if name.startswith("INSERT INTO thing")]
    assert inserting.pages_hit > 10
    assert 0 < inserting.wal_bytes < written.total.wal_bytes


def test_every_target_of_ordinary_jobs_names_a_program_that_is_measured() -> None:
    names = [program.name for program in PROGRAMS]

    assert len(set(names)) == len(names)
    assert {*(name for name, _ in ordinary.TARGETS), *(other for other, *_ in ordinary.RATIOS)} < set(names)


@pytest.fixture
def turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ordinary.Turn:
    """That of a program whose jobs run in this process."""
    monkeypatch.setenv("TRACES", str(tmp_path / "traces"))
    trace_file.cache_clear()
    program = Program(name="here", module="", workers={})
    turn = ordinary.Turn(program, MagicMock(environment={"TRACES": str(tmp_path / "traces")}), MagicMock())
    (tmp_path / "traces").touch()
    return turn


@pytest.fixture
def not_done_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_turn(*_: object) -> dict[str, float]:
        raise NotSo("Not so within 120 s")

    monkeypatch.setattr(ordinary, "one_turn", one_turn)


@pytest.mark.usefixtures("not_done_in_time")
def test_a_program_that_does_not_do_its_jobs_in_time_is_left_out_and_named() -> None:
    said: list[str] = []

    found = ordinary.measured(Bench(MagicMock(), True, said.append), [Program(name="slow", module="", workers={})])

    assert found == {}
    assert said == ["slow is left out: Not so within 120 s"]


@pytest.mark.usefixtures("not_done_in_time")
def test_nothing_counts_if_muster_does_not_do_its_jobs_in_time() -> None:
    muster = Program(name="Muster", module=MUSTER, workers={})

    with pytest.raises(NotSo):
        ordinary.measured(Bench(MagicMock(), True, lambda _: None), [muster])


def test_jobs_that_come_at_random_come_as_many_a_second_as_asked() -> None:
    numbers = Numbers(200, "1000.0/s")

    assert list(numbers) == list(range(200))
    assert 0.1 < numbers.sent_at[-1] - numbers.sent_at[0] < 2


def test_jobs_are_counted_when_each_has_run_once(turn: ordinary.Turn) -> None:
    for number in (1, FIRST, 0):
        run_job("no-op", number)

    assert turn.are_done(2)
    assert len(turn.beginnings(2)) == 2


@pytest.mark.parametrize("numbers", [(FIRST, 0), (FIRST, 0, 0), (FIRST, 0, 1, 1)])
def test_jobs_that_did_not_run_or_ran_twice_do_not_count(turn: ordinary.Turn, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        run_job("no-op", number)

    with pytest.raises(NotSo, match="Each of 3 jobs must run once"):
        turn.beginnings(2)


def test_a_job_that_fails_leaves_no_trace(turn: ordinary.Turn) -> None:
    with pytest.raises(RuntimeError), traced(FIRST):
        raise RuntimeError

    assert not turn.are_done(0)


@pytest.mark.parametrize(("rows", "counts"), [((2, 2), True), ((3, 2), False), ((1, 1), False)])
def test_jobs_that_write_a_row_count_if_each_wrote_one(
    turn: ordinary.Turn, monkeypatch: pytest.MonkeyPatch, rows: tuple[int, int], counts: bool
) -> None:
    monkeypatch.setattr(ordinary, "rows", lambda *_: [rows])

    with nullcontext() if counts else pytest.raises(NotSo):
        turn.require_rows(2)


@pytest.mark.parametrize(
    ("how", "called"), [("one", ["one", "one"]), ("apart", ["one", "one"]), ("many", ["one", "many"])]
)
def test_jobs_are_submitted_as_asked_after_a_first_one(
    how: str, called: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, list[int]]] = []
    monkeypatch.setattr(sys, "argv", ["program", how, "no-op", "2"])

    main(lambda _, numbers: calls.append(("one", [*numbers])), lambda _, numbers: calls.append(("many", [*numbers])))

    assert [name for name, _ in calls] == called
    assert [numbers for _, numbers in calls] == [[FIRST], [0, 1]]
    assert len(json.loads(capsys.readouterr().out)["sent_at"]) == 2


def test_a_program_that_cannot_submit_many_submits_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[int]] = []
    monkeypatch.setattr(sys, "argv", ["program", "many", "no-op", "2"])

    main(lambda _, numbers: calls.append([*numbers]))

    assert calls == [[FIRST], [0, 1]]


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

    assert finding.share == pytest.approx(share)
    assert finding.is_met == is_met


def test_a_target_of_zero_is_met_only_by_zero() -> None:
    nothing, one = (Finding(what="errors", value=value, unit="", target=0, at_most=True) for value in (0, 1))

    assert (nothing.is_met, one.is_met) == (True, False)


def test_the_page_says_plainly_what_was_not_met() -> None:
    findings = [
        {"what": "a rate", "value": 30.0, "unit": "×", "target": 60},
        {"what": "a delay", "value": 12.5, "unit": "ms", "target": 20, "at_most": True, "note": "A note."},
        {"what": "a cost", "value": 1234.5, "unit": "µs"},
    ]
    run = {"title": "Rates", "at": "2030-01-31 12:00 UTC", "commit": "abc", "seconds": 5, "findings": findings}

    page = report.page({"benchmarks": {"rates": {**run, "machine": {"cores": "2"}}}})

    assert "1 of 2 targets are met. Not met: a rate." in page
    assert "| a rate | 30.0 × | ≥ 60.0 × | 0.50 | NOT MET |" in page
    assert "| a delay | 12.5 ms | ≤ 20.0 ms | 1.60 | met |" in page
    assert "| a cost | 1,234 µs |  |  |  |" in page
    assert "A note." in page


def test_a_part_that_ran_on_another_machine_than_most_says_so() -> None:
    run = {"title": "Rates", "at": "2030-01-31 12:00 UTC", "commit": "abc", "seconds": 5, "findings": []}
    machines = [{"cores": "2", "memory": "8 GB"}, {"cores": "2", "memory": "8 GB"}, {"cores": "4", "memory": "8 GB"}]

    page = report.page({"benchmarks": {str(n): {**run, "machine": machine} for n, machine in enumerate(machines)}})

    assert "\n- cores: 2\n- memory: 8 GB\n" in page
    assert page.count("commit abc, 5 s.\n") == 2
    assert "commit abc, 5 s. On another machine: cores: 4.\n" in page


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
def test_the_costs_in_the_documents_are_those_that_were_measured() -> None:
    rows = re.findall(r"^\| (processor time of [^|]+) \| ([^|]+) \|", SCALING.read_text(), re.MULTILINE)

    assert len(rows) > 10
    for what, told in rows:
        finding = measured()[what]
        assert told == f"{report.number(finding.value)} {finding.unit}", what


@pytest.mark.usefixtures("told")
def test_the_workers_curve_in_the_documents_is_the_one_that_was_measured() -> None:
    told = re.findall(r"^\| [^|]+ \| ([\d,]+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", SCALING.read_text(), re.MULTILINE)

    assert told == [report.number(measured()[f"Muster, {name}"].value) for name in scale_out.SETS]


@pytest.mark.usefixtures("told")
def test_the_estimate_in_the_documents_is_that_of_the_simulation() -> None:
    users, poll_seconds, jobs, unchanged = 300_000, 10, 10_000, 0.9

    estimate = table(works(costs_of("postgres"), users / poll_seconds, jobs, unchanged))

    assert estimate in SCALING.read_text()


@pytest.mark.usefixtures("told")
def test_the_ratios_in_the_readme_are_those_that_were_measured() -> None:
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

    def one() -> int:
        order.append("a")
        return len(order)

    def other() -> int:
        order.append("b")
        return 2 * len(order)

    medians = in_turn(3, one, other)

    assert "".join(order) == "ababab"
    assert medians == [3, 8]


@pytest.mark.parametrize("servers", [1, 4, 16])
def test_the_simulation_agrees_with_the_formula(servers: int) -> None:
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
