"""`manage.py draw_states`: writes docs/states.md from the code, or with --check says whether it is as fresh."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from orchestrator.states import FINAL, MOVES, Status, diagram

DOCUMENT = settings.BASE_DIR / "docs" / "states.md"

PAGE = """\
# The life of a job

Written by `manage.py draw_states` from `orchestrator/states.py`; change that and run the command again.

```mermaid
{diagram}```

| from | to | cause |
| --- | --- | --- |
{moves}

{final} are final: exactly in these a job has a `finished_at`.
Only a retry leads out of a final state, and nothing leads out of {closed}.
"""


class Command(BaseCommand):
    help = "Writes docs/states.md from orchestrator/states.py."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="Write nothing; fail if the page is out of date.")

    def handle(self, *args: Any, check: bool, **options: Any) -> None:
        if not check:
            DOCUMENT.write_text(page())
        elif not DOCUMENT.exists() or DOCUMENT.read_text() != page():
            raise CommandError("docs/states.md is out of date. Run `manage.py draw_states`.")


def page() -> str:
    moves = [f"| {before} | {after} | {cause} |" for (before, after), cause in MOVES.items()]
    closed = [status for status in Status if not any(before == status for before, _ in MOVES)]
    *others, last = FINAL
    return PAGE.format(
        diagram=diagram(), moves="\n".join(moves), final=f"{', '.join(others)} and {last}", closed=" or ".join(closed)
    )
