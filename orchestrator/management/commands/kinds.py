"""`manage.py kinds`: lists kinds of job, pauses and resumes them, and changes their limits."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError, CommandParser

from access import audit
from orchestrator.kinds import known_kind
from orchestrator.limits import NAMES, UNLIMITED, BadLimit, merged
from orchestrator.management.base import OperatorCommand
from orchestrator.management.terminal import add_json, print_json, print_table
from orchestrator.models import Kind
from orchestrator.queue.limiting import change_limits
from orchestrator.queue.pausing import pause_kind, resume_kind
from orchestrator.rollups import reading

EXAMPLES = f"""
Examples:
  manage.py kinds list
  manage.py kinds pause demo.slices                    what runs goes on, new jobs are accepted
  manage.py kinds resume demo.slices
  manage.py kinds limit demo.slices                    shows its limits
  manage.py kinds limit demo.slices --max-running 10 --rate 60/m
  manage.py kinds limit demo.slices --rate {UNLIMITED}     whatever its code declares
  manage.py kinds limit demo.slices --rate declared    what its code declares again

Limits take effect within a second, and make jobs wait; what runs goes on.
"""
# What an operator says for None: the limit that the code declares.
DECLARED = "declared"
WORDS = {"rate", "rate_per"}
HELP = {
    "max_running": "How many of its jobs run at once.",
    "max_running_per_owner": "How many of one owner do.",
    "max_running_per_key": "How many of one concurrency key do.",
    "rate": "How many start in a time: 10/m, 1/30s, 5000/d.",
    "rate_per": "What the rate is for: kind, owner or key.",
    "burst": "How many of a rate may start at once.",
    "max_unfinished_per_owner": "More submissions of an owner are refused.",
}


class Command(OperatorCommand):
    help = "Lists kinds of job with what waits and runs of each, pauses and resumes them, and changes their limits."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog, parser.formatter_class = EXAMPLES, RawDescriptionHelpFormatter
        parser.set_defaults(act=self._list, json=False)
        actions = parser.add_subparsers(dest="action", metavar="ACTION", help="list if not given")
        for name, help, act in (
            ("list", "Lists the kinds that workers have reported.", self._list),
            ("pause", "Keeps workers from starting jobs of these kinds.", self._pause),
            ("resume", "Lets workers start jobs of these kinds again.", self._resume),
            ("limit", "Changes the limits of a kind, or shows them.", self._limit),
        ):
            added = actions.add_parser(
                name, help=help, description=help, epilog=EXAMPLES, formatter_class=RawDescriptionHelpFormatter
            )
            added.set_defaults(act=act)
            add_json(added)
            self._add_names(added, name)

    def _add_names(self, parser: CommandParser, action: str) -> None:
        if action == "limit":
            parser.add_argument("kind", metavar="KIND", help="Its name; `kinds list` lists them.")
            group = parser.add_argument_group(
                f"limits (each takes a value, {UNLIMITED}, or {DECLARED}: as its code says)"
            )
            for name in NAMES:
                group.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=HELP[name])
        elif action != "list":
            parser.add_argument("kinds", nargs="+", metavar="KIND", help="`kinds list` lists them.")

    @audit.by_command()
    def handle(self, *args: Any, **options: Any) -> None:
        try:
            options["act"](options)
        except BadLimit as refusal:
            raise CommandError(str(refusal)) from None

    def _list(self, options: dict[str, Any]) -> None:
        limits = {row.name: _limits(row) for row in Kind.objects.all()}
        rows = [
            each._asdict()
            | {"held_back": {held.limit: held.jobs for held in each.held_back}, "limits": limits.get(each.name, {})}
            for each in reading.kinds()
        ]
        rows.sort(key=lambda row: str(row["name"]))
        if options["json"]:
            return print_json(self, {"results": rows})
        for row in rows:
            row["held_back"] = ", ".join(f"{jobs:,} by {limit}" for limit, jobs in row["held_back"].items())
            row["limits"] = ", ".join(f"{name} {value}" for name, value in row["limits"].items())
        columns = ("name", "queue", "paused", "waiting", "oldest", "running", "held back", "limits")
        return print_table(self, columns, [tuple(row.values()) for row in rows])

    def _pause(self, options: dict[str, Any]) -> None:
        self._on_each(options, pause_kind, "paused")

    def _resume(self, options: dict[str, Any]) -> None:
        self._on_each(options, resume_kind, "resumed")

    def _on_each(self, options: dict[str, Any], act: Callable[[str], None], done: str) -> None:
        for name in options["kinds"]:
            _row_of(name)
        for name in options["kinds"]:
            act(name)
        rows = [_row_of(name) for name in options["kinds"]]
        if options["json"]:
            return print_json(self, {"results": [{"name": row.name, "paused_at": row.paused_at} for row in rows]})
        for row in rows:
            still = " It waits for its queue, which is paused." if done == "resumed" and row.paused_with_queue else ""
            self.stdout.write(f"{row.name} is {done}.{still}")
        return None

    def _limit(self, options: dict[str, Any]) -> None:
        name = options["kind"]
        changes = {each: _value(each, given) for each in NAMES if (given := options[each]) is not None}
        row = _row_of(name)
        limits = change_limits(name, changes).as_json() if changes else _limits(row)
        if options["json"]:
            print_json(self, {"name": name, "limits": limits})
        else:
            self.stdout.write(
                "\n".join(f"{each} {value}" for each, value in limits.items()) or f"{name} has no limit."
            )


def _row_of(name: str) -> Kind:
    try:
        return Kind.objects.get(name=name)
    except Kind.DoesNotExist:
        unreported = " No worker has reported it yet." if known_kind(name) else " `kinds list` lists them."
        raise CommandError(f"There is no kind {name!r}.{unreported}") from None


def _limits(row: Kind) -> dict[str, Any]:
    return merged(row.declared_limits, row.limits).as_json()


def _value(name: str, given: str) -> Any:
    """As `change_limits` takes it; a text that is no number is refused there."""
    if given == DECLARED:
        return None
    return int(given) if name not in WORDS and given.isascii() and given.isdigit() and len(given) < 10 else given
