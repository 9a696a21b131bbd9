"""Runs the benchmarks: `python -m benchmarks [--only tasks,reads] [--quick]`.

A full run takes an hour or two and writes benchmarks/RESULTS.md; a partial run updates its part. Only if they are
named run `flatness_50m`, which fills a table for half an hour, `admin_pages`, and `before` and `before_owners`, which
need a checkout of an earlier release. A quick run does a hundredth of the work, to show that everything works; its
numbers mean little and are not kept.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback

from rich.console import Console

from benchmarks import report
from benchmarks.measure import Bench, Benchmark, Finding, benchmarks
from benchmarks.servers import NotSo, Servers

# In the order of the results. Each module registers its benchmark.
MODULES = (
    "tasks", "singles", "latency", "flatness", "limits", "pipelines", "ingestion", "reads", "heartbeats", "footprint",
    "schedules", "scale_out", "ordinary", "watchers", "telemetry", "admin_pages", "before",
)  # fmt: skip


def main() -> None:
    for module in MODULES:
        __import__(f"benchmarks.{module}")
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compares Muster with alternatives.")
    usual = [name for name, each in benchmarks.items() if not each.only_by_name]
    parser.add_argument("--only", default=",".join(usual), help=f"some of: {', '.join(benchmarks)}")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the work; results are not saved")
    asked = parser.parse_args()
    wanted = [name.strip() for name in asked.only.split(",")]
    if unknown := [name for name in wanted if name not in benchmarks]:
        parser.error(f"There is no benchmark {', '.join(unknown)}; there are {', '.join(benchmarks)}.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ends like Ctrl-C, and cleans up.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    failed = [name for name in wanted if not run(benchmarks[name], asked.quick)]
    sys.exit(1 if failed else 0)


def run(benchmark: Benchmark, quick: bool) -> bool:
    """Runs one benchmark on servers of its own; False if it failed, which does not keep the next from running."""
    console = Console() if sys.stdout.isatty() else Console(width=120)
    began_at = time.monotonic()
    findings: list[Finding] = []
    console.rule(benchmark.name)
    try:
        with Servers() as servers:
            bench = Bench(servers, quick, lambda message: console.print(f"  {message}", style="dim", highlight=False))
            machine = report.describe_machine(servers)
            findings = list(benchmark.run(bench))
    except NotSo as failure:
        console.print(f"{benchmark.name} does not count: {failure}", style="bold red", markup=False)
        return False
    except Exception:
        console.print(f"{benchmark.name} failed:\n{traceback.format_exc()}", style="bold red", markup=False)
        return False
    report.show(console, benchmark, findings)
    if not quick:
        report.keep(benchmark, findings, machine, time.monotonic() - began_at)
    return True


if __name__ == "__main__":
    main()
