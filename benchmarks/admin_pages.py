"""13. The admin's home page and list of jobs with millions of jobs in the table: processor time, statements, size."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from benchmarks.flatness import Database, Filled, fill
from benchmarks.measure import Bench, Finding, benchmark
from benchmarks.servers import muster_environment, run

# What each page may cost: milliseconds of the web process, statements, and bytes compressed. None: no bound.
BOUNDS: dict[str, tuple[float, int | None, int | None]] = {
    "the home page": (50, 12, None),
    "the list of jobs, page 1": (100, None, 60_000),
    "the list of jobs, page 1,000": (100, None, 60_000),
}


@benchmark("admin_pages", "The admin's pages with 5 million jobs in the table", only_by_name=True)
def admin_pages(bench: Bench) -> Iterator[Finding]:
    filled = Filled(finished=bench.size(4_980_000, 60_000), others=bench.size(10_000, 100))
    database = Database(bench.servers, "muster_pages")
    fill(bench, database.url, filled)
    rounds = str(bench.size(20, 2))
    environment = muster_environment(bench.servers, database.url)
    told = json.loads(run([sys.executable, "-m", "benchmarks.page_probe", rounds], environment))
    for page, (milliseconds, statements, size) in BOUNDS.items():
        found = told[page]
        yield Finding(
            what=f"{page}: processor time", value=found["ms"], unit="ms", target=milliseconds, at_most=True,
            note="The median, of the web process alone; PostgreSQL's time is in the time until the response.",
        )  # fmt: skip
        yield Finding(what=f"{page}: time until the response", value=found["wall_ms"], unit="ms")
        yield Finding(what=f"{page}: statements", value=found["statements"], unit="", target=statements, at_most=True)
        yield Finding(what=f"{page}: compressed", value=found["bytes"], unit="bytes", target=size, at_most=True)
