"""What the pages of this app have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse

from orchestrator.admin.base import MAX_AT_ONCE, ExactSearch, act_on_each, ask_first
from orchestrator.admin.unfold import ModelAdmin
from orchestrator.client_limits import QuotaExceeded
from orchestrator.kind_problems import BadPayload, InternalKind, UnknownKind
from orchestrator.submission import BadSubmission, NotUnique, TooManyUnfinished
from scheduler.models import Task, TaskSchedule
from scheduler.recurrence.rules import BadRecurrence
from scheduler.services.schedules import DeclaredInCode
from scheduler.services.tasks import NotEnded, NotPending

REFUSALS = (
    NotPending,
    NotEnded,
    DeclaredInCode,
    BadRecurrence,
    UnknownKind,
    InternalKind,
    NotUnique,
    QuotaExceeded,
    BadPayload,
    BadSubmission,
    TooManyUnfinished,
    Task.DoesNotExist,
    TaskSchedule.DoesNotExist,
)


class IdOrOwnerSearch(ExactSearch):
    id_lookup = "id"
    text_lookups = ("owner",)
    search_help_text = "Id or owner"


def act_on_rows(
    model_admin: ModelAdmin,
    request: HttpRequest,
    rows: QuerySet[Any],
    act: Callable[[UUID], Any],
    verb: str,
    done: str,
) -> TemplateResponse | None:
    """Asks first; then acts on each row."""
    if (question := ask_first(model_admin, request, rows, verb)) is None:
        ids = rows.order_by("pk").values_list("pk", flat=True)[:MAX_AT_ONCE]
        act_on_each(model_admin, request, list(ids), act, done, REFUSALS)
    return question
