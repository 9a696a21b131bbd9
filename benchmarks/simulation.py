"""How far PostgreSQL goes: 300,000 users who watch their jobs, and 10,000 jobs a second, on 8, 32 and 96 cores.

    python -m benchmarks.simulation [--users 300000] [--poll-seconds 10] [--jobs 10000] [--unchanged 0.9]

A worked estimate from the processor times in benchmarks/results.json, with a discrete simulation as its check; it
prints a table and draws benchmarks/simulation.svg. PostgreSQL is taken for c servers with one queue:

- Offered load: a = Σ rate × processor time, in cores (Erlang 1917; by Little 1961, also the mean number in service).
- Cores do not add up: c of them are worth c / (1 + σ (c − 1) + κ c (c − 1)), the Universal Scalability Law (Gunther,
  "Guerrilla Capacity Planning", 2007). σ and κ are assumed, not measured: measure them where it matters.
- Waiting: of an M/M/c queue, Erlang's C formula (Kleinrock, "Queueing Systems" 1, 1975, section 3.5); for other
  service times that mean wait times (1 + their squared coefficient of variation) / 2 (Lee and Longton 1959).

Left out: waiting for disks, networks and locks, whose rates no number of cores raises.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import percentile
from benchmarks.report import FOLDER, findings_in, number, read

CORES = (8, 32, 96)
# What contention and coherence cost, by the Universal Scalability Law. Assumed: at 96 cores half of them are lost.
SIGMA, KAPPA = 0.01, 0.000_01
# Beyond this share of its cores a server has no room for bursts, vacuum and checkpoints.
BUSY_ENOUGH = 0.7
# Jobs are accepted and completed in transactions of so many.
A_TRANSACTION = 200
SIMULATED_REQUESTS = 200_000

READ, UNCHANGED, JOB = "GET /jobs/{id}", "its 304", "a task"


@dataclass(frozen=True)
class Work:
    """Requests of one sort: how many a second, and PostgreSQL's processor time for each in seconds."""

    rate: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description="How far PostgreSQL goes.")
    parser.add_argument("--users", type=float, default=300_000, help="who watch a job at the same time")
    parser.add_argument("--poll-seconds", type=float, default=10, help="how often each of them requests its status")
    parser.add_argument("--jobs", type=float, default=10_000, help="a second, in batches")
    parser.add_argument("--unchanged", type=float, default=0.9, help="share of the requests that find no change (304)")
    asked = parser.parse_args()
    costs = {part: costs_of(part) for part in ("postgres", "web", "worker-default")}
    polls = asked.users / asked.poll_seconds
    print(table(works(costs["postgres"], polls, asked.jobs, asked.unchanged)))
    web = sum(work.rate * work.seconds for work in works(costs["web"], polls, asked.jobs, asked.unchanged))
    workers = asked.jobs * costs["worker-default"][JOB]
    print(f"\nAnother {web:,.1f} cores of web processes and {workers:,.1f} of workers are busy.")
    draw(costs["postgres"], asked.users, asked.poll_seconds, asked.jobs)


def costs_of(part: str) -> dict[str, float]:
    """Measured processor time of that part for a request of each sort, in seconds."""
    measured = {finding.what: finding.value / 1e6 for finding in findings_in(read())}
    names = {sort: f"processor time of {part} for {sort}" for sort in (READ, UNCHANGED, JOB)}
    if part == "worker-default":
        names = {JOB: names[JOB]}
    if missing := [name for name in names.values() if name not in measured]:
        sys.exit(f"Not measured yet: {', '.join(missing)}. First: make bench ONLY=tasks,reads")
    return {sort: measured[name] for sort, name in names.items()}


def works(costs: Mapping[str, float], polls: float, jobs: float, unchanged: float) -> list[Work]:
    """The load: requests that find a change, requests that find none, and jobs."""
    return [
        Work(polls * (1 - unchanged), costs[READ]),
        Work(polls * unchanged, costs[UNCHANGED]),
        Work(jobs / A_TRANSACTION, costs[JOB] * A_TRANSACTION),
    ]


def offered(all_work: Sequence[Work]) -> float:
    """Cores that are kept busy."""
    return sum(work.rate * work.seconds for work in all_work)


def effective(cores: int) -> float:
    """How many cores without contention so many are worth."""
    return cores / (1 + SIGMA * (cores - 1) + KAPPA * cores * (cores - 1))


def waits_at_all(servers: int, load: float) -> float:
    """Erlang's C: the share of requests that find all servers busy."""
    blocked = 1.0
    for n in range(1, servers + 1):  # Erlang's B, by its recursion: the sum of its definition would overflow.
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def mean_wait(servers: int, all_work: Sequence[Work]) -> float:
    """Seconds that a request waits on average; infinite where more comes than can be served."""
    rate, load = sum(work.rate for work in all_work), offered(all_work)
    if load >= servers:
        return float("inf")
    mean = load / rate
    # Each sort's time is exponential, so its second moment is twice the square of its mean.
    variation = sum(work.rate * 2 * work.seconds**2 for work in all_work) / rate / mean**2 - 1
    return waits_at_all(servers, load) * mean / (servers - load) * (1 + variation) / 2


def simulated_waits(servers: int, all_work: Sequence[Work], count: int, seed: int = 1) -> list[float]:
    """What each of so many requests waited: first come, first served, by whichever server is free first."""
    chance = random.Random(seed)
    rate = sum(work.rate for work in all_work)
    sorts = chance.choices(all_work, [work.rate for work in all_work], k=count)
    free_at = [0.0] * servers
    now, waits = 0.0, []
    for work in sorts:
        now += chance.expovariate(rate)
        begins_at = max(now, heapq.heappop(free_at))
        heapq.heappush(free_at, begins_at + chance.expovariate(1 / work.seconds))
        waits.append(begins_at - now)
    return waits[count // 10 :]  # The first find it empty.


def table(all_work: Sequence[Work]) -> str:
    """For each size of PostgreSQL how busy it is, and how long requests wait for it, as Markdown."""
    load = offered(all_work)
    lines = [
        f"{sum(work.rate for work in all_work):,.0f} requests a second keep {load:.1f} cores busy.",
        "",
        "| cores | effective cores | busy | mean wait, formula | mean wait, simulated | 99th percentile of the wait |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cores in CORES:
        servers = int(effective(cores))
        if load >= servers:
            lines.append(f"| {cores} | {effective(cores):.1f} | {load / effective(cores):.0%} | too few | | |")
            continue
        waits = simulated_waits(servers, all_work, SIMULATED_REQUESTS)
        found = [mean_wait(servers, all_work), sum(waits) / len(waits), percentile(waits, 0.99)]
        told = " | ".join(f"{number(seconds * 1000)} ms" if seconds > 1e-6 else "< 0.001 ms" for seconds in found)
        lines.append(f"| {cores} | {effective(cores):.1f} | {load / effective(cores):.0%} | {told} |")
    return "\n".join(lines)


def users_served(cores: int, costs: Mapping[str, float], poll_seconds: float, jobs: float, unchanged: float) -> float:
    """How many users can watch before the cores are busy enough, while so many jobs are run."""
    a_look = (1 - unchanged) * costs[READ] + unchanged * costs[UNCHANGED]
    return max(0.0, effective(cores) * BUSY_ENOUGH - jobs * costs[JOB]) / a_look * poll_seconds


def draw(costs: Mapping[str, float], users: float, poll_seconds: float, jobs: float) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "muster", "font.size": 9}):
        figure, axis = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        cores = range(2, 129)
        for unchanged in (0, 0.9):
            served = [users_served(each, costs, poll_seconds, jobs, unchanged) for each in cores]
            axis.plot(cores, served, label=f"{unchanged:.0%} of requests find no change")
        axis.axhline(users, color="black", linewidth=1, linestyle=":", label=f"{users:,.0f} users")
        for each in CORES:
            axis.axvline(each, color="#c8ced6", linewidth=1, zorder=0)
        axis.set(xscale="log", yscale="log", xlabel="cores of PostgreSQL", ylabel="users that watch a job")
        axis.set_xticks(ticks := [2, 4, *CORES, 128], labels=[str(tick) for tick in ticks], minor=False)
        axis.set_title(
            f"Users who ask every {poll_seconds:g} s, besides {jobs:,.0f} jobs a second, at {BUSY_ENOUGH:.0%} busy"
        )
        axis.legend()
        figure.savefig(FOLDER / "simulation.svg", metadata={"Date": None})
        pyplot.close(figure)


if __name__ == "__main__":
    main()
