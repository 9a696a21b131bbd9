"""What a run tells: a summary for people, the same as JSON, and the whole history of whatever broke an invariant."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import tests.chaos.graph_invariants
import tests.chaos.limits
import tests.chaos.metrics  # noqa: F401 More invariants, as in the lines above.
from tests.chaos.faults import FAULTS
from tests.chaos.invariants import (
    Books,
    Violation,
    expected_effects,
    fenced_off,
    percentile,
    recoveries,
    submissions_without_broker,
    violations,
)

# Most violations whose history is told in full.
MAX_HISTORIES = 10
# Faults so long before and after a job's life belong to its history.
AROUND_SECONDS = 10


class Report:
    """The reckoning of a run."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.violations = violations(books)
        self.summary = summary_of(books, self.violations)

    @property
    def holds(self) -> bool:
        return not self.violations

    @property
    def broken(self) -> set[str]:
        """The names of the invariants that do not hold."""
        return {violation.invariant for violation in self.violations}

    def write(self, path: Path) -> None:
        told = self.summary | {"histories": self.histories()}
        path.write_text(json.dumps(told, indent=2, default=str))

    def histories(self) -> dict[str, Any]:
        ids = list(dict.fromkeys(violation.job_id for violation in self.violations if violation.job_id))
        return {job_id: history(self.books, job_id) for job_id in ids[:MAX_HISTORIES]}

    def show(self, console: Console | None = None) -> None:
        console = console or Console()
        show_summary(console, self.summary)
        for violation in self.violations[:30]:
            console.print(f"[red]{violation.invariant}[/]: {violation.text[:500]} {violation.job_id}", highlight=False)
        if len(self.violations) > 30:
            console.print(f"… and {len(self.violations) - 30} more; the JSON has them all.")
        for job_id, told in list(self.histories().items())[:3]:
            console.print(f"[bold]History of {job_id}[/]")
            console.print(json.dumps(told, indent=1, default=str)[:6_000], highlight=False, markup=False)

    def text(self) -> str:
        """For the message of a failed test."""
        console = Console(width=119, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        self.show(console)
        return console.export_text()


def summary_of(books: Books, broken: list[Violation]) -> dict[str, Any]:
    ledger = books.run.ledger
    answers = ledger.entries("answer")
    posts = [entry["seconds"] for entry in answers if entry["method"] == "POST"]
    without_broker = submissions_without_broker(books)
    lost, double = losses_and_doubles(books)
    return {
        "run": books.run.name,
        "seed": books.run.seed,
        "broker": getattr(books.run.world.broker, "name", ""),
        "seconds": max((entry["seconds"] for entry in ledger.entries("began")), default=0),
        "faults": Counter(entry["fault"] for entry in ledger.entries("fault")),
        "skipped": {fault.name: fault.skipped for fault in FAULTS.values() if fault.skipped},
        "accepted": Counter(entry["what"] for entry in ledger.entries("accepted")),
        "jobs": {
            kind: Counter(job["status"] for job in books.jobs.values() if job["kind"] == kind)
            for kind in sorted({job["kind"] for job in books.jobs.values()})
        },
        "attempts": Counter(attempt["outcome"] for job_id in books.jobs for attempt in books.attempts.get(job_id, [])),
        "completed at the first attempt": sum(
            job["status"] == "COMPLETED" and job["attempt"] == 1 for job in books.jobs.values()
        ),
        "fenced off": fenced_off(books),
        "answers": Counter(str(entry["status"] or "none") for entry in answers),
        "submissions": seconds_told(posts),
        "submissions without broker": seconds_told(without_broker),
        "recovery": {group: seconds_told(recoveries(books, group)) for group in ("kill", "broker", "other")},
        "recovery by fault": {
            fault: seconds_told(recoveries_from(books, fault))
            for fault in sorted({entry["fault"] for entry in ledger.entries("recovered")})
        },
        "losses": lost,
        "doubles": double,
        "violations": [vars(violation) for violation in broken],
    }


def seconds_told(seconds: list[float]) -> dict[str, Any]:
    if not seconds:
        return {"count": 0}
    told = {"median": statistics.median(seconds), "p99": percentile(seconds, 99), "most": max(seconds)}
    return {"count": len(seconds)} | {name: round(value, 2) for name, value in told.items()}


def recoveries_from(books: Books, fault: str) -> list[float]:
    return [
        max(entry["probe_seconds"] or 0, entry["affected_seconds"] or 0)
        for entry in books.run.ledger.entries("recovered")
        if entry["fault"] == fault
    ]


def losses_and_doubles(books: Books) -> tuple[int, int]:
    """Jobs that were accepted and are gone or never ended, and effects that are missing; effects that are too many."""
    lost = sum(entry["id"] not in books.jobs for entry in books.accepted("job") + books.accepted("ingestion"))
    lost += sum(job["status"] in ("CREATED", "RUNNING") for job in books.jobs.values())
    double = 0
    for job in books.jobs.values():
        expected = Counter(expected_effects(job, books))
        found = Counter(number for _, number in books.effects.get(job["id"], []))
        lost += (expected - found).total()
        double += (found - expected).total()
    return lost, double


def history(books: Books, job_id: str) -> dict[str, Any]:
    """All that is known of a job: its row, attempts, effects, what it told, what was answered, and the faults then."""
    job = books.jobs.get(job_id, {})
    about = books.run.ledger.about(job_id)
    begin = min((entry["at"] for entry in about), default=0) - AROUND_SECONDS
    end = (job["finished_at"].timestamp() if job.get("finished_at") else float("inf")) + AROUND_SECONDS
    return {
        "job": job,
        "children": [{name: child[name] for name in ("id", "name", "status")} for child in books.children[job_id]],
        "attempts": books.attempts.get(job_id, []),
        "effects": books.effects.get(job_id, []),
        "outside": books.outside.get(job_id, []),
        "ledger": about,
        "faults": [entry for entry in books.run.ledger.entries("fault") if begin <= entry["at"] <= end],
    }


def show_summary(console: Console, summary: dict[str, Any]) -> None:
    seconds = f"{summary['seconds']:g} s of chaos" if summary["seconds"] else "targeted"
    console.rule(f"{summary['run']}: {seconds} on {summary['broker']}, seed {summary['seed']}")
    show_counts(console, "Faults", "fault", summary["faults"], summary["recovery by fault"])
    jobs = Table("kind", "COMPLETED", "FAILED", "CANCELLED", "unfinished", title="Jobs")
    for kind, states in summary["jobs"].items():
        final = [states[status] for status in ("COMPLETED", "FAILED", "CANCELLED")]
        jobs.add_row(kind, *map(str, final), str(sum(states.values()) - sum(final)))
    console.print(jobs)
    rest = Table(show_header=False, title="The rest")
    for name in (
        "accepted", "attempts", "completed at the first attempt", "fenced off", "answers", "submissions",
        "submissions without broker", "skipped",
    ):  # fmt: skip
        rest.add_row(name, told(summary[name]))
    for group, seconds_taken in summary["recovery"].items():
        rest.add_row(f"recovery after {group}", told(seconds_taken))
    rest.add_row("losses", str(summary["losses"]))
    rest.add_row("doubles", str(summary["doubles"]))
    rest.add_row("violations", str(len(summary["violations"])))
    console.print(rest)


def show_counts(console: Console, title: str, what: str, counts: dict[str, int], seconds: dict[str, Any]) -> None:
    table = Table(what, "times", "recovery: median", "p99", title=title)
    for name, count in sorted(counts.items()):
        took = seconds.get(name, {})
        table.add_row(name, str(count), *(f"{took[key]:.1f} s" if key in took else "" for key in ("median", "p99")))
    console.print(table)


def told(value: Any) -> str:
    return ", ".join(f"{name}: {each}" for name, each in value.items()) if isinstance(value, dict) else str(value)
