"""`manage.py queues`: lists the queues, pauses and resumes them."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import CommandError, CommandParser

from access import audit
from orchestrator.management.base import OperatorCommand
from orchestrator.management.terminal import add_json, print_json, print_table
from orchestrator.queue.pausing import UnknownQueue, pause_queue, resume_queue
from orchestrator.steering.queues import QueueNow, queues_now

EXAMPLES = """
Examples:
  manage.py queues
  manage.py queues pause io      no job of any kind of it is started; what runs goes on
  manage.py queues resume io
"""
ACTIONS = {"pause": pause_queue, "resume": resume_queue}


class Command(OperatorCommand):
    help = "Lists the queues with what waits and runs in each, pauses and resumes them."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog, parser.formatter_class = EXAMPLES, RawDescriptionHelpFormatter
        parser.add_argument("action", nargs="?", choices=["list", *ACTIONS], default="list", help="list if not given.")
        parser.add_argument("queues", nargs="*", metavar="QUEUE", help="The queues to pause or resume.")
        add_json(parser)

    @audit.by_command()
    def handle(self, *args: Any, action: str, queues: list[str], **options: Any) -> None:
        if (action == "list") == bool(queues):
            raise CommandError("Name the queues to pause or resume." if action != "list" else "`list` takes no names.")
        for name in queues:
            try:
                ACTIONS[action](name)
            except UnknownQueue as error:
                raise CommandError(str(error)) from None
        shown = [each for each in queues_now() if not queues or each.name in queues]
        if options["json"]:
            print_json(self, {"results": [each._asdict() for each in shown]})
        else:
            names = [name.replace("_", " ") for name in QueueNow._fields]
            print_table(self, names, shown)
