"""`manage.py owners`: lists what is set for owners, pauses and resumes them, and changes their shares."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError, CommandParser

from access import audit
from orchestrator.inputs import BadSubmission
from orchestrator.management.base import OperatorCommand
from orchestrator.management.terminal import add_json, print_json, print_table
from orchestrator.models import OwnerShare
from orchestrator.queue import owners

EXAMPLES = """
Examples:
  manage.py owners list
  manage.py owners pause ada                   none of its jobs is started; what runs goes on
  manage.py owners resume ada
  manage.py owners share ada --weight 2        twice as much as others
  manage.py owners share ada --slots 0.25      at most a quarter of the slots of each queue
  manage.py owners share ada --slots default   as OWNER_SLOT_SHARE says
  manage.py owners forget ada                  as any other again
  manage.py owners pause ""                    all jobs that have no owner

Each change takes effect with the next claim.
"""
# What an operator says for None: the share that the setting declares.
DEFAULT = "default"


class Command(OperatorCommand):
    help = "Lists what is set for owners of jobs, pauses and resumes them, and changes their shares of the slots."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog, parser.formatter_class = EXAMPLES, RawDescriptionHelpFormatter
        parser.set_defaults(action="list", act=None, json=False)
        actions = parser.add_subparsers(dest="action", metavar="ACTION", help="list if not given")
        for name, help, act in (
            ("list", "Lists the owners for whom something is set.", None),
            ("pause", "Keeps workers from starting jobs of these owners.", owners.pause_owner),
            ("resume", "Lets workers start jobs of these owners again.", owners.resume_owner),
            ("share", "Changes how much of the slots these owners get.", None),
            ("forget", "Forgets what is set for these owners.", owners.forget_share),
        ):
            added = actions.add_parser(
                name, help=help, description=help, epilog=EXAMPLES, formatter_class=RawDescriptionHelpFormatter
            )
            added.set_defaults(act=act)
            add_json(added)
            if name != "list":
                added.add_argument("owners", nargs="+", metavar="OWNER", help='"" for jobs that have no owner.')
            if name == "share":
                added.add_argument("--weight", type=float, help="0.01 to 100; others have 1.")
                added.add_argument("--slots", help=f"The most of a queue's slots, 0.001 to 1, or {DEFAULT}.")

    @audit.by_command()
    def handle(self, *args: Any, action: str, act: Callable[[str], None] | None, **options: Any) -> None:
        names: list[str] = options.get("owners", [])
        changes = _changes(options) if action == "share" else {}
        for name in names:
            try:
                act(name) if act else owners.change_share(name, **changes)
            except (owners.BadShare, BadSubmission) as refusal:
                raise CommandError(str(refusal)) from None
        shown = [owners.share_of(name) for name in names] or list(OwnerShare.objects.order_by("owner"))
        rows = [(each.owner, each.weight, each.slot_share, each.paused_at) for each in shown]
        columns = ("owner", "weight", "slot_share", "paused_at")
        if options["json"]:
            print_json(self, {"results": [dict(zip(columns, row, strict=True)) for row in rows]})
        else:
            print_table(
                self,
                ("owner", "weight", "slot share", "paused"),
                [(str(each), *row[1:]) for each, row in zip(shown, rows, strict=True)],
            )


def _changes(options: dict[str, Any]) -> dict[str, float | None]:
    changes: dict[str, float | None] = {}
    if options["weight"] is not None:
        changes["weight"] = options["weight"]
    if options["slots"] is not None:
        try:
            changes["slot_share"] = None if options["slots"] == DEFAULT else float(options["slots"])
        except ValueError:
            raise CommandError(f"--slots is a number or {DEFAULT}, not {options['slots']!r}.") from None
    if not changes:
        raise CommandError("Say what changes: --weight, --slots.")
    return changes
