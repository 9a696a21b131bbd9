"""9. How much memory the whole idle stack takes, and how long manage.py takes to import."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.measure import Bench, Finding, benchmark
from benchmarks.servers import BASE_DIR, inherited, muster, muster_environment, procfile, pss_mb, require

PLOT = "Memory of the idle stack, MB"
IMPORTED = re.compile(r"import time: +(\d+) \|")


@benchmark("footprint", "Memory of the whole idle stack, and the import time of manage.py")
def footprint(bench: Bench) -> Iterator[Finding]:
    with muster(bench.servers, list(procfile())) as stack:
        time.sleep(bench.size(20, 2))
        memory = stack.memory() | {"valkey": pss_mb(bench.servers.valkey.pid or 0)}
    yield Finding(
        what="memory of the idle stack without PostgreSQL",
        value=sum(memory.values()),
        unit="MB",
        target=450,
        at_most=True,
        note="PSS: a page shared by n processes counts as 1/n in each. All processes of the Procfile, and Valkey.",
    )
    for name, mb in memory.items():
        yield Finding(what=f"Muster, {name}", value=mb, unit="MB", plot=PLOT)
    times = [import_seconds(bench) for _ in range(bench.size(5, 2))]
    yield Finding(
        what="import time of manage.py, best of 5",
        value=min(times),
        unit="s",
        target=1,
        at_most=True,
        note="By -X importtime, all modules that `manage.py version` imports, which sets up Django with every app.",
    )


def import_seconds(bench: Bench) -> float:
    """The time that all modules' own imports took, with their bytecode in the cache."""
    environment = {**inherited(), **muster_environment(bench.servers, bench.servers.url("postgres"), EXTRA_APPS="")}
    outcome = subprocess.run(
        [sys.executable, "-X", "importtime", "manage.py", "version"],
        cwd=BASE_DIR,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    times = [int(microseconds) for microseconds in IMPORTED.findall(outcome.stderr)]
    require(len(times) > 300, "Django and all apps must have been imported.")
    return sum(times) / 1e6
