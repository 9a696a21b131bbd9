"""11. Ordinary jobs, each a handler called once that does nothing, writes a row or waits: how many a second, by Muster
and by the queues that others use, each set up as its own documentation has it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Bench, Finding, benchmark, percentile
from benchmarks.ordinary_jobs import FIRST, count_traces, traces
from benchmarks.ordinary_programs import ASYNC, CONCURRENCY, MUSTER, ON_PROCESSES, ON_THREADS, PROGRAMS, Program
from benchmarks.servers import (
    BASELINES,
    START_SECONDS,
    WORKER_PROCESSES,
    NotSo,
    Servers,
    Stack,
    connect,
    muster,
    require,
    rows,
    run,
    spent,
    until,
    value,
)

NO_OP, ONE_BY_ONE, ROW, WAIT = "no-op", "no-op, submitted one by one", "writes one row", "waits 50 ms"
# What is submitted how, and how many in a full and in a quick run.
MEASURES = {
    NO_OP: ("many", "no-op", 3_000, 60),
    ONE_BY_ONE: ("one", "no-op", 1_000, 20),
    ROW: ("many", "row", 2_000, 60),
    WAIT: ("many", "wait", 320, 20),
}
# A measure that takes longer than this is given up.
LONGEST_SECONDS = 120
CPU, COLD = "processor time for a no-op", "one job on an idle system, from its submission to its start, p50"
# Jobs come at random, half as many as the program has done when they were submitted one by one.
HALF = {
    0.50: "from submission to start at half the load, p50",
    0.99: "from submission to start at half the load, p99",
}
DELAYS = (COLD, *HALF.values())
TARGETS = {(ON_THREADS, NO_OP): 3_000, (ON_PROCESSES, NO_OP): 1_500, (ASYNC, NO_OP): 3_000, (ON_THREADS, CPU): 400}
RATIOS = (
    ("Celery, threads, untracked", NO_OP, 5),
    ("procrastinate", NO_OP, 10),
    ("procrastinate", ROW, 3),
)
NOTE = (
    f"Each runs {CONCURRENCY} threads or coroutines (pgqueuer up to {2 * CONCURRENCY}), or {WORKER_PROCESSES} "
    "processes, started before the clock. The "
    "median of three rounds, in which all take turns. Jobs are submitted in bulk where the program has a way to, else "
    "one by one. Processor time is that of all processes, PostgreSQL and Valkey included. Muster, procrastinate, "
    "pgqueuer and django-tasks-db commit what they accept to disk; the others leave it to Valkey, which keeps it in "
    "memory. Half the load is half of what the program has done when jobs were submitted one by one. All jobs are of "
    "one owner, whom Muster gives half of a queue's slots (OWNER_SLOT_SHARE): where jobs wait, half run at once."
)


@benchmark("ordinary", "Ordinary jobs: a handler is called for each")
def ordinary(bench: Bench) -> Iterator[Finding]:
    programs = [program for program in PROGRAMS if BASELINES.exists() or program.module == MUSTER]
    if len(programs) < len(PROGRAMS):
        bench.say("The others are not installed, so they are left out; `make bench` installs them.")
    found = measured(bench, programs)
    yield from ratios(found)
    for measure in MEASURES:
        for program, values in found.items():
            yield Finding(
                what=f"{program}: {measure}",
                value=values[measure],
                unit="jobs/s",
                target=TARGETS.get((program, measure)),
                plot=f"Jobs a second: {measure}",
            )
    for measure in (CPU, *DELAYS):
        for program, values in found.items():
            yield Finding(
                what=f"{program}: {measure}",
                value=values[measure],
                unit="µs" if measure == CPU else "ms",
                target=TARGETS.get((program, measure)),
                at_most=True,
                note=NOTE,
            )
    left_out = [program.name for program in programs if program.name not in found]
    yield Finding(
        what=f"programs that did not do all jobs right in time{': ' if left_out else ''}{', '.join(left_out)}",
        value=len(left_out),
        unit="",
        target=0,
        at_most=True,
    )


def ratios(found: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    """What Muster is to reach of what others do in the same run."""
    for other, measure, target in RATIOS:
        if other in found:
            ratio = found[ON_THREADS][measure] / found[other][measure]
            yield Finding(what=f"{ON_THREADS}: {measure}, times {other}", value=ratio, unit="×", target=target)


def measured(bench: Bench, programs: Sequence[Program]) -> dict[str, dict[str, float]]:
    """The medians of each program's measures, by its name. In each round all have their turn.

    One that does not do what is asked of it in time is left out. If that is Muster, NotSo is raised.
    """
    answers: dict[str, dict[str, list[float]]] = {program.name: defaultdict(list) for program in programs}
    for _ in range(bench.size(3, 1)):
        for program in programs:
            if program.name in answers:
                take_turn(bench, program, answers)
    return {
        name: {measure: statistics.median(values) for measure, values in each.items()}
        for name, each in answers.items()
    }


def take_turn(bench: Bench, program: Program, answers: dict[str, dict[str, list[float]]]) -> None:
    try:
        found = one_turn(bench, program)
    except NotSo as failure:
        if program.module == MUSTER:
            raise
        bench.say(f"{program.name} is left out: {failure}")
        del answers[program.name]
        return
    for measure, answer in found.items():
        answers[program.name][measure].append(answer)
    told = ", ".join(f"{measure} {found[measure]:,.0f}/s" for measure in MEASURES)
    bench.say(f"{program.name}: {told}, {found[CPU]:,.0f} µs, p99 {found[HALF[0.99]]:,.1f} ms")


def one_turn(bench: Bench, program: Program) -> dict[str, float]:
    """All measures of a program whose workers run before the first of them."""
    found: dict[str, float] = {}
    with started(bench.servers, program) as turn:
        turn.warm_up()
        for measure, (how, job, full, quick) in MEASURES.items():
            if how == "one" and not program.takes_many:
                found[measure] = found[NO_OP]  # That is how they were submitted.
                continue
            outcome = turn.run(how, job, bench.size(full, quick))
            found[measure] = outcome.rate
            if measure == NO_OP:
                found[CPU] = outcome.cpu_seconds / len(outcome.delays) * 1e6
        found[COLD] = statistics.median(turn.run("apart", "no-op", bench.size(20, 5)).delays) * 1e3
        outcome = turn.run(f"{found[ONE_BY_ONE] / 2:.1f}/s", "no-op", bench.size(600, 20))
        found |= {measure: percentile(outcome.delays, share) * 1e3 for share, measure in HALF.items()}
    return found


@contextmanager
def started(servers: Servers, program: Program) -> Iterator[Turn]:
    """The program's workers, on a database of its own and an empty Valkey."""
    environment = {**program.settings, "TRACES": str(servers.folder / "traces")}
    with stack_of(servers, program, environment) as stack, closing(connect(stack.database_url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE effect (id bigserial PRIMARY KEY, number int NOT NULL)")
        yield Turn(program, stack, connection)


def stack_of(servers: Servers, program: Program, environment: Mapping[str, str]) -> AbstractContextManager[Stack]:
    if program.module == MUSTER:
        return muster(servers, tuple(program.workers), **environment)
    environment = {**environment, "BROKER_URL": servers.valkey.url, "PYTHONPATH": str(BASELINES)}

    def create_schema(url: str) -> None:
        if program.has_schema:
            run(program.program("schema"), {**environment, "DATABASE_URL": url})

    url = servers.fresh(program.table or program.module.rpartition(".")[2], create_schema)
    return Stack(servers, program.workers, {**environment, "DATABASE_URL": url})


@dataclass(frozen=True)
class Outcome:
    """How some jobs went, from before the first was sent until the last was completed."""

    seconds: float
    # Of all processes that had a part in it.
    cpu_seconds: float
    # From when each was sent until it began.
    delays: list[float]

    @property
    def rate(self) -> float:
        return len(self.delays) / self.seconds


class Turn:
    """A program whose workers run."""

    def __init__(self, program: Program, stack: Stack, connection: Any) -> None:
        self.program, self.stack = program, stack
        self._connection = connection
        self._traces = Path(stack.environment["TRACES"])

    def warm_up(self) -> None:
        """Runs jobs until each worker process has, so that all have begun, imported what they need and connected."""
        seen: set[int] = set()

        def all_seen() -> bool:
            self.run("one", "row", 2 * CONCURRENCY)
            self.run("one", "wait", CONCURRENCY)
            seen.update(trace.pid for trace in traces(self._traces))
            return len(seen) >= self.program.processes

        until(all_seen, START_SECONDS)

    def run(self, how: str, job: str, count: int) -> Outcome:
        """Submits so many jobs, by a process of its own, and waits for them; each must have run exactly once."""
        self._forget()
        before = self.stack.cpu_seconds()
        with ThreadPoolExecutor(1) as pool:
            command = self.program.program(how, job, str(count))
            submission = pool.submit(run, command, self.stack.environment, timeout_seconds=LONGEST_SECONDS)
            self.stack.wait_until(lambda: has_not_failed(submission) and self.are_done(count), LONGEST_SECONDS)
            ended_at = time.time()
            used = sum(spent(before, self.stack.cpu_seconds()).values())
            answer = json.loads(submission.result())
        delays = [began - sent for began, sent in zip(self.beginnings(count), answer["sent_at"], strict=True)]
        if job == "row":
            self.require_rows(count)
        return Outcome(ended_at - answer["sent_at"][0], used + answer["cpu_seconds"], delays)

    def are_done(self, count: int) -> bool:
        """Whether so many jobs, and the first ahead of them, ran to their end and are noted as completed."""
        return count_traces(self._traces) > count and (
            not self.program.completed or value(self._connection, self.program.completed) > count
        )

    def beginnings(self, count: int) -> list[float]:
        """When each began; raises NotSo unless each ran exactly once."""
        left = traces(self._traces)
        numbers = [trace.number for trace in left]
        ran = f"{len(numbers):,} ran, {len(set(numbers)):,} of them different"
        require(numbers == [FIRST, *range(count)], f"Each of {count + 1:,} jobs must run once, but {ran}.")
        return [trace.began_at for trace in left[1:]]

    def require_rows(self, count: int) -> None:
        [outcome] = rows(self._connection, "SELECT count(*), count(DISTINCT number) FROM effect")
        require(outcome == (count, count), f"Of {count:,} jobs: (rows, different ones) = {outcome}.")

    def _forget(self) -> None:
        self._traces.write_bytes(b"")
        tables = ", ".join(filter(None, ("effect", self.program.table)))
        with self._connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {tables} CASCADE")


def has_not_failed(submission: Future[str]) -> bool:
    """True, also while it runs; raises what it failed with."""
    if submission.done():
        submission.result()
    return True
