"""The admin of attempts that did not complete their job, and how one is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from orchestrator.admin.base import ExactSearch, ReadOnlyAdmin
from orchestrator.admin.rendering import block, cut, label
from orchestrator.models import Attempt
from orchestrator.shown.lists import column
from orchestrator.shown.words import age, duration

FRAME = re.compile(r'\s*File "([^"]+)"')
# Frames that are not the handler's: of libraries, of Python, and of what calls handlers.
LIBRARY = re.compile(
    r"site-packages|dist-packages|/lib/python3|^<frozen "
    r"|/orchestrator/(attempt|worker|telemetry)/|/orchestrator/(running|progress|handler_inputs|kind)\.py"
)


class Passage(NamedTuple):
    """A part of a traceback: shown as it is, or folded with the number of its frames."""

    text: str
    folded: int


def passages(traceback: str) -> Iterator[Passage]:
    """A traceback in its order, with what is not the handler's folded."""
    for is_library, frames in groupby(_frames(traceback), key=lambda frame: frame[0]):
        texts = [text for _, text in frames]
        yield Passage("\n".join(texts), len(texts) if is_library else 0)


def _frames(traceback: str) -> Iterator[tuple[bool, str]]:
    """Each frame with its lines of code, and whether it is a library's; other lines are frames of their own."""
    lines: list[str] = []
    is_library = False
    for line in traceback.splitlines():
        begins = FRAME.match(line)
        if begins or not line.startswith("    "):
            if lines:
                yield is_library, "\n".join(lines)
            lines, is_library = [], bool(begins and LIBRARY.search(begins[1]))
        lines.append(line)
    if lines:
        yield is_library, "\n".join(lines)


@admin.register(Attempt)
class AttemptAdmin(ExactSearch, ReadOnlyAdmin):
    list_display = ("job_and_number", "outcome_shown", "error_shown", "worker_name", "ended", "took")
    list_display_links = ("job_and_number",)
    list_filter = ("outcome",)
    list_select_related = ("job",)
    ordering = ("-id",)
    id_lookup = "job"
    search_help_text = "Job id"
    fields = (
        "job",
        ("number", "outcome_shown", "worker_name"),
        ("started_at", "ended_at"),
        "error",
        "traceback_shown",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Attempt]:
        attempts: QuerySet[Attempt] = super().get_queryset(request)
        return attempts.defer("traceback", "job__payload", "job__result")

    @column("attempt")
    def job_and_number(self, attempt: Attempt) -> str:
        return f"{attempt.job.kind} · attempt {attempt.number}"

    @column("outcome")
    def outcome_shown(self, attempt: Attempt) -> SafeString:
        return label(attempt.outcome)

    @column("error", "m-wide m-cut")
    def error_shown(self, attempt: Attempt) -> SafeString:
        return cut(attempt.error)

    @column("ended")
    def ended(self, attempt: Attempt) -> SafeString | str:
        return age(attempt.ended_at)

    @column("took", "m-number")
    def took(self, attempt: Attempt) -> str:
        return duration((attempt.ended_at - attempt.started_at).total_seconds()) if attempt.started_at else "–"

    @column("traceback")
    def traceback_shown(self, attempt: Attempt) -> str:
        return block(attempt.traceback)
