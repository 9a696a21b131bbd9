"""What every page of the admin builds on: lists that open as fast over millions of rows, exact searches, actions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.utils import model_ngettext
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.forms import Form
from django.http import HttpRequest
from django.template.response import TemplateResponse

from access.permissions import is_granted
from orchestrator.admin.unfold import ModelAdmin
from orchestrator.shown.lists import KeyedList, NumberedList

# Rows counted for a list. What lies further back is found by filters, so no list reads or skips millions.
MAX_COUNTED = 10_000
# Rows that one action processes, the time it has for that, and refusals shown one by one.
MAX_AT_ONCE = 10_000
MAX_SECONDS = 20
MAX_REFUSALS_SHOWN = 10

MAX_EXAMPLES = 5

NOTHING = Q(pk__in=[])

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList


def dialog(title: str, description: str, submit: str, form: type[Form] | None = None) -> dict[str, Any]:
    """Unfold's dialog before a button acts. submit: what its own button says; form: what is asked."""
    return {"title": title, "description": description, "form_class": form, "form_submit_text": submit}


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts MAX_COUNTED rows at most, so that a list opens as fast over millions."""

    template_name = "orchestrator/pagination.html"

    @cached_property
    def count(self) -> int:
        rows = cast("QuerySet[Any]", self.object_list)
        return rows.order_by()[:MAX_COUNTED].count()

    @property
    def is_cut(self) -> bool:
        return self.count >= MAX_COUNTED


class BoundedAdmin(ModelAdmin):
    """A list that opens as fast with millions of rows, with actions that need permissions of their own."""

    change_list_template = "orchestrator/admin/list.html"
    # Links above a list, each a name and the query of an address.
    shortcuts: ClassVar[tuple[tuple[str, str], ...]] = ()
    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    list_max_show_all = 0
    list_fullwidth = True
    # Any other order would sort the whole table.
    sortable_by: ClassVar = ()

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        """A list in the order of its key goes by that; the others are short, and their pages are numbered."""
        return KeyedList if tuple(self.ordering or ()) == ("-id",) else NumberedList

    def shown_of(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """What the template of the row's page shows, besides its form."""
        return {}

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        row = self.get_object(request, object_id) if object_id else None
        shown = self.shown_of(request, row) if row else {}
        return super().changeform_view(request, object_id, form_url, {**(extra_context or {}), **shown})

    def is_granted(self, request: HttpRequest, verb: str) -> bool:
        """Whether the user may do that to such rows, by the rule that the API goes by."""
        return is_granted(request.user, f"{self.opts.app_label}.{verb}_{self.opts.model_name}")

    def has_cancel_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.is_granted(request, "cancel")

    def has_retry_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.is_granted(request, "retry")

    def has_pause_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.is_granted(request, "pause")

    def has_run_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.is_granted(request, "run")


class ReadOnly:
    """Rows that only Muster itself writes: shown here, and changed by actions alone."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyAdmin(ReadOnly, BoundedAdmin):
    """A bounded list of rows that only Muster itself writes."""


class ExactSearch(BoundedAdmin):
    """A search for exact values, which an index leads to: for an id, or for any other text."""

    # The lookup for a term that is a UUID, and the lookups for any other.
    id_lookup: ClassVar[str] = ""
    text_lookups: ClassVar[tuple[str, ...]] = ()
    # Django shows the search where there are some.
    search_fields: ClassVar = ("pk",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if term := search_term.strip():
            queryset = queryset.filter(self._condition(term))
        return queryset, False

    def _condition(self, term: str) -> Q:
        if self.id_lookup and (id := _as_id(term)):
            return Q((self.id_lookup, id))
        return Q.create([(lookup, term) for lookup in self.text_lookups], Q.OR) if self.text_lookups else NOTHING


def _as_id(term: str) -> UUID | None:
    try:
        return UUID(term)
    except ValueError:
        return None


def ask_first(
    model_admin: ModelAdmin,
    request: HttpRequest,
    rows: QuerySet[Any],
    verb: str,
    note: str = "",
    *,
    in_background: bool = False,
) -> TemplateResponse | None:
    """The page that asks whether an action is meant for so many rows; None if that has been confirmed.

    in_background: whether it is done to all of them, not only to MAX_AT_ONCE.
    """
    if "confirmed" in request.POST:
        return None
    count = rows.order_by()[:MAX_COUNTED].count()
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.opts,
        "title": f"{verb} {shown_count(count)} {model_ngettext(model_admin.opts, count)}?",
        "count": count,
        "note": note,
        "verb": verb,
        "examples": list(rows[:MAX_EXAMPLES]),
        "action": request.POST.get("action", ""),
        "select_across": request.POST.get("select_across", "0"),
        "selected": request.POST.getlist("_selected_action"),
        "max_at_once": MAX_AT_ONCE,
        "is_cut": not in_background and (count > MAX_AT_ONCE or count >= MAX_COUNTED),
    }
    return TemplateResponse(request, "orchestrator/admin/confirm.html", context)


def is_across(request: HttpRequest) -> bool:
    """Whether an action is meant for all rows that match, not for a selection."""
    return request.POST.get("select_across") == "1"


def shown_count(count: int) -> str:
    return f"{count:,} or more" if count >= MAX_COUNTED else f"{count:,}"


def act_on_each(
    model_admin: ModelAdmin,
    request: HttpRequest,
    ids: Sequence[UUID],
    act: Callable[[UUID], Any],
    done: str,
    refusals: tuple[type[Exception], ...],
) -> None:
    """Acts on each row in a transaction of its own, for a limited time, and shows how many were done, what was
    refused, and how many are left.
    """
    refused = []
    count = 0
    ends_at = time.monotonic() + MAX_SECONDS
    left = 0
    for n, id in enumerate(ids):
        if time.monotonic() > ends_at:
            left = len(ids) - n
            break
        try:
            act(id)
            count += 1
        except refusals as refusal:
            refused.append(f"{id}: {refusal}")
    if count:
        rows = model_ngettext(model_admin.opts, count)
        model_admin.message_user(request, f"{done} {count:,} {rows}.", messages.SUCCESS)
    if left:
        message = f"{left:,} were left after {MAX_SECONDS} s: choose the action again for them."
        model_admin.message_user(request, message, messages.WARNING)
    for message in refused[:MAX_REFUSALS_SHOWN]:
        model_admin.message_user(request, message, messages.WARNING)
    if len(refused) > MAX_REFUSALS_SHOWN:
        more = f"{len(refused) - MAX_REFUSALS_SHOWN:,} more refused."
        model_admin.message_user(request, more, messages.WARNING)
