"""`make chaos`: hurts a whole stack for some minutes and says whether anything was lost or done twice."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.chaos.faults import FAULTS
from tests.chaos.invariants import Books
from tests.chaos.report import Report
from tests.chaos.run import Run, plan
from tests.chaos.servers import BROKERS
from tests.chaos.world import World

KEPT = Path(__file__).resolve().parents[2] / "data" / "chaos"


def main() -> int:
    options = arguments()
    console = Console()
    # Ended like Ctrl-C ends it: nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="muster-chaos-"))
    folder.chmod(0o711)  # PostgreSQL, another user when root runs this, must pass through.
    kept = KEPT / f"{options.broker}-{options.seed}"
    console.print(f"{options.seconds:g} s of chaos on {options.broker}, seed {options.seed}; it takes a minute more.")
    world = World(folder, BROKERS[options.broker](folder / "broker"))
    try:
        run = Run(world, "chaos", seed=options.seed)
        faults = [FAULTS[name] for name in options.only] if options.only else FAULTS.values()
        run.go(plan(options.seed, options.seconds, faults), options.seconds)
        report = Report(Books(run))
    finally:
        world.stop()
        left = world.left_processes()
        keep(folder, kept)
    report.write(kept / "report.json")
    report.show(console)
    for process in left:
        console.print(f"[red]A process was left behind[/]: {process}")
    verdict = "Nothing was lost, and nothing was done twice." if report.holds else "[red]It does not hold.[/]"
    console.print(f"{verdict} All of it: {kept}\nAgain: make chaos SEED={options.seed} SECONDS={options.seconds:g}")
    return 0 if report.holds and not left else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="of load and faults; 300 if not given")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of load and faults")
    parser.add_argument("--broker", choices=sorted(BROKERS), default="valkey")
    parser.add_argument("--only", nargs="*", choices=sorted(FAULTS), metavar="FAULT", help="these faults alone")
    return parser.parse_args()


def keep(folder: Path, kept: Path) -> None:
    """Keeps the ledger and the logs; the data of the servers goes."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for path in (*folder.glob("*.log"), *folder.glob("*.jsonl"), *(folder / "data" / "logs").glob("*")):
        shutil.copy(path, kept / path.name)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
