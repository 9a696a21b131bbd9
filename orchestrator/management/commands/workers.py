"""`manage.py workers`: lists the worker processes."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import CommandParser
from django.db.models import Count

from orchestrator.management.base import OperatorCommand
from orchestrator.management.terminal import add_json, print_json, print_table
from orchestrator.models import Worker

EXAMPLES = """
Examples:
  manage.py workers             those that are alive
  manage.py workers --all       also those that ended, the latest first
  manage.py workers --json
"""
COLUMNS = ("name", "state", "queues", "slots", "running", "host", "pid", "started_at", "seen_at")
MAX_ENDED = 100


class Command(OperatorCommand):
    help = "Lists the worker processes: what they serve, and how many jobs each runs."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog, parser.formatter_class = EXAMPLES, RawDescriptionHelpFormatter
        parser.add_argument("action", nargs="?", choices=["list"], default="list", help="list if not given.")
        parser.add_argument("--all", action="store_true", help=f"Also those that ended, at most {MAX_ENDED}.")
        add_json(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        workers = Worker.objects.annotate(running=Count("jobs"))
        listed = list(workers.filter(ended_at=None).order_by("name", "id"))
        if options["all"]:
            listed += workers.exclude(ended_at=None).order_by("-ended_at")[:MAX_ENDED]
        rows = [_row(each) for each in listed]
        if options["json"]:
            print_json(self, {"results": rows})
        else:
            shown = [[*row.values()] for row in rows]
            for row in shown:
                row[2] = ", ".join(row[2])
            print_table(self, [name.removesuffix("_at") for name in COLUMNS], shown)


def _row(worker: Any) -> dict[str, Any]:
    return {name: state_of(worker) if name == "state" else getattr(worker, name) for name in COLUMNS}


def state_of(worker: Worker) -> str:
    if worker.ended_at is not None:
        return "LOST" if worker.lost else "ENDED"
    return "DRAINING" if worker.draining_at else "ALIVE"
