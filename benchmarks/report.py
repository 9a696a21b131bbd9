"""Results: a table for the terminal, benchmarks/results.json for programs, RESULTS.md and a plot for people."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import psutil
import redis
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Benchmark, Finding, benchmarks
from benchmarks.servers import BASE_DIR, BASELINES, POSTGRES_SETTINGS, Servers

FOLDER = BASE_DIR / "benchmarks"
# What the results name of benchmarks/baselines/requirements.in.
RIVALS = ("procrastinate", "pgqueuer", "dramatiq", "huey", "django-tasks-db", "django-celery-results")
RESULTS, PAGE, PLOT = FOLDER / "results.json", FOLDER / "RESULTS.md", FOLDER / "results.svg"


def describe_machine(servers: Servers) -> dict[str, str]:
    """The machine and the versions that the results are valid for."""
    valkey = redis.Redis.from_url(servers.valkey.url).info("server")
    packages = {name: version(name) for name in ("Django", "djangorestframework", "celery", "granian")}
    return {
        "cores": f"{os.cpu_count()} × {_processor()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "PostgreSQL": str(servers.value(servers.url("postgres"), "SHOW server_version")).split()[0]
        + f" ({', '.join(f'{name} {value}' for name, value in POSTGRES_SETTINGS.items())})",
        "Valkey": str(valkey.get("valkey_version", valkey["redis_version"])),
        **packages,
        **{name: _version_of(name) for name in RIVALS},
    }


def _version_of(baseline: str) -> str:
    found = distributions(name=baseline, path=[str(BASELINES)])
    return next((each.version for each in found), "not installed")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> str:
    """The measured commit; changed results do not count as changes."""
    own = [f":!{path.relative_to(BASE_DIR)}" for path in (RESULTS, PAGE, PLOT)]
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *own)
    return (_git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=BASE_DIR, capture_output=True, text=True, check=False
    ).stdout.strip()


# The terminal


def show(console: Console, benchmark: Benchmark, findings: Sequence[Finding]) -> None:
    table = Table("what", "measured", "target", "of target", "", box=box.SIMPLE, title=benchmark.title)
    for column in (1, 2, 3):
        table.columns[column].justify = "right"
    for finding in findings:
        style = None if finding.is_met is None else "green" if finding.is_met else "bold red"
        table.add_row(*_cells(finding), style=style)
    console.print(table)


def _cells(finding: Finding) -> tuple[str, str, str, str, str]:
    target = share = met = ""
    if finding.target is not None and finding.share is not None:
        target = f"{'≤' if finding.at_most else '≥'} {number(finding.target)} {finding.unit}"
        share = f"{finding.share:.2f}"
        met = "met" if finding.is_met else "NOT MET"
    return finding.what, f"{number(finding.value)} {finding.unit}", target, share, met


def number(value: float) -> str:
    """Three significant digits, or all digits of a larger number."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3g}"


# What is kept


def keep(benchmark: Benchmark, findings: Sequence[Finding], machine: dict[str, str], seconds: float) -> None:
    """Saves the results beside those of the other parts, and redraws the page and the plot."""
    kept = read()
    kept["benchmarks"][benchmark.name] = {
        "title": benchmark.title,
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "seconds": round(seconds),
        "machine": machine,
        "findings": [asdict(finding) for finding in findings],
    }
    kept["benchmarks"] = {name: kept["benchmarks"][name] for name in benchmarks if name in kept["benchmarks"]}
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(kept))
    draw(kept)


def read() -> dict[str, Any]:
    if not RESULTS.exists():
        return {"benchmarks": {}}
    return dict(json.loads(RESULTS.read_text()))


def findings_in(kept: dict[str, Any]) -> list[Finding]:
    return [Finding(**finding) for each in kept["benchmarks"].values() for finding in each["findings"]]


def page(kept: dict[str, Any]) -> str:
    parts = list(kept["benchmarks"].values())
    usual = max((part["machine"] for part in parts), key=[part["machine"] for part in parts].count)
    findings = findings_in(kept)
    missed = [finding.what for finding in findings if finding.is_met is False]
    targeted = [finding for finding in findings if finding.target is not None]
    lines = [
        "# Results of the benchmarks",
        "",
        "Written by `make bench`; each part says when and on which commit it ran. One machine was shared by",
        "one PostgreSQL, which syncs every commit to disk, one Valkey, all programs and the clients. Compare",
        "ratios, not absolute numbers.",
        "",
        *(f"- {name}: {value}" for name, value in usual.items()),
        "",
        f"{len(targeted) - len(missed)} of {len(targeted)} targets are met."
        + (f" Not met: {'; '.join(missed)}." if missed else ""),
        "",
        "![Measured relative to target, and rates compared with alternatives](results.svg)",
    ]
    for each in parts:
        other = [f"{name}: {value}" for name, value in each["machine"].items() if value != usual.get(name)]
        lines += [
            "",
            f"## {each['title']}",
            "",
            f"{each['at']}, commit {each['commit']}, {each['seconds']} s."
            + (f" On another machine: {', '.join(other)}." if other else ""),
            "",
            "| what | measured | target | of target | |",
            "| --- | ---: | ---: | ---: | --- |",
        ]
        notes = []
        for finding in (Finding(**finding) for finding in each["findings"]):
            lines.append(f"| {' | '.join(_cells(finding))} |")
            if finding.note and finding.note not in notes:
                notes.append(finding.note)
        lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def draw(kept: dict[str, Any]) -> None:
    """One panel for measured over target, and one for each group of findings that belong side by side."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    findings = findings_in(kept)
    targeted = [finding for finding in findings if finding.share is not None]
    groups = {finding.plot: [each for each in findings if each.plot == finding.plot] for finding in findings}
    groups.pop("", None)
    panels = ([targeted] if targeted else []) + list(groups.values())
    heights = [1 + 0.3 * len(panel) for panel in panels]
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "muster", "font.size": 9}):
        figure, axes = pyplot.subplots(
            len(panels), figsize=(9, sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
        )
        for axis, panel in zip(axes[:, 0], panels, strict=True):
            _draw_targets(axis, panel) if panel is targeted else _draw_rates(axis, panel)
        figure.savefig(PLOT, metadata={"Date": None})
        pyplot.close(figure)


def _draw_targets(axis: Any, findings: Sequence[Finding]) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    for row, finding in enumerate(findings):
        # Nothing at all has no place on this axis.
        share, colour = max(finding.share or 0, 0.01), "#2a7f62" if finding.is_met else "#b5442e"
        axis.plot([1, share], [row, row], color=colour, linewidth=2)
        axis.plot([share], [row], "o", color=colour)
        axis.annotate(f"{finding.share:.2f}", (share, row), (0, 5), textcoords="offset points", ha="center")
    axis.set_yticks(range(len(findings)), [finding.what for finding in findings])
    axis.axvline(1, color="black", linewidth=1)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_title("Measured relative to target: met from the line on")
    axis.set_ylim(len(findings) - 0.4, -0.8)
    axis.margins(x=0.1)


def _draw_rates(axis: Any, findings: Sequence[Finding]) -> None:
    ours = ["#1f4e79" if finding.what.startswith("Muster") else "#9aa5b1" for finding in findings]
    bars = axis.barh([finding.what for finding in findings], [finding.value for finding in findings], color=ours)
    axis.bar_label(bars, [number(finding.value) for finding in findings], padding=3)
    axis.set_title(findings[0].plot)
    axis.invert_yaxis()
    axis.margins(x=0.1)
