"""Lists: pages that follow the key, so the thousandth is as fast as the first; rows of one line; filters named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from django.contrib import admin
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.admin.utils import display_for_field, display_for_value, label_for_field, lookup_field
from django.contrib.admin.views.main import PAGE_VAR, SEARCH_VAR
from django.core.exceptions import FieldDoesNotExist, ObjectDoesNotExist, ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList
else:
    from unfold.views import ChangeList

Display = TypeVar("Display", bound=Callable[..., Any])

OLDER, NEWER = "older-than-", "newer-than-"
CHECKBOX = "action_checkbox"


def column(description: str, css: str = "") -> Callable[[Display], Display]:
    """Makes a method a column of a list, or a field of a page; css: the classes of its cells."""

    def decorate(method: Display) -> Display:
        method.css = css  # type: ignore[attr-defined]
        return admin.display(description=description)(method)

    return decorate


class Chip(NamedTuple):
    """A filter that is active: what it says, and the address of the list without it."""

    name: str
    value: str
    without: str


class NumberedList(ChangeList):
    """A list whose pages are numbered. How many rows there are without its filters is not counted."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.full_result_count = self.result_count


class KeyedList(ChangeList):
    """A list in the order of its key, newest first. A page begins after the last key of the one before it: nothing is
    skipped over, and nothing is shown twice because something was added meanwhile.
    """

    older_url = newer_url = ""

    def get_results(self, request: HttpRequest) -> None:
        paginator = self.model_admin.get_paginator(request, self.queryset, self.list_per_page)
        rows, has_older, has_newer = self._page(request.GET.get(PAGE_VAR, ""))
        if rows and has_older:
            self.older_url = self.get_query_string({PAGE_VAR: f"{OLDER}{rows[-1].pk}"})
        if rows and has_newer:
            self.newer_url = self.get_query_string({PAGE_VAR: f"{NEWER}{rows[0].pk}"})
        self.result_list = rows
        # The pages are not numbered, so only those who filter by something are told how many fit.
        self.result_count = paginator.count
        self.full_result_count = self.result_count
        self.show_full_result_count = False
        self.show_admin_actions = True
        self.can_show_all = self.multi_page = False
        self.paginator = paginator

    def _page(self, place: str) -> tuple[list[Any], bool, bool]:
        """The rows, and whether there are older and newer ones. A place that makes no sense is the first page."""
        wanted = self.list_per_page + 1
        for word in (OLDER, NEWER):
            if not place.startswith(word):
                continue
            try:
                key = self.lookup_opts.pk.to_python(place.removeprefix(word))
            except ValidationError:
                break
            if word == OLDER:
                rows = list(self.queryset.filter(pk__lt=key)[:wanted])
                return rows[: self.list_per_page], len(rows) == wanted, True
            rows = list(self.queryset.filter(pk__gt=key).order_by("pk")[:wanted])
            return rows[: self.list_per_page][::-1], True, len(rows) == wanted
        rows = list(self.queryset[:wanted])
        return rows[: self.list_per_page], len(rows) == wanted, False


def chips(cl: ChangeList) -> list[Chip]:
    """The active filters, also those that only an address has."""
    found, left = [], dict(cl.filter_params)
    for spec in cl.filter_specs:
        names = [name for name in spec.expected_parameters() if name in left]
        if names:
            value = next((str(each["display"]) for each in spec.choices(cl) if each.get("selected")), "")
            found.append(Chip(str(spec.title), value, cl.get_query_string(remove=names)))
        for name in names:
            del left[name]
    for name, values in left.items():
        if name != SEARCH_VAR:
            text = ", ".join(map(str, values if isinstance(values, list) else [values]))
            found.append(Chip(name.partition("__")[0], text, cl.get_query_string(remove=[name])))
    if cl.query:
        found.append(Chip("search", cl.query, cl.get_query_string(remove=[SEARCH_VAR])))
    return found


class Header(NamedTuple):
    name: str
    text: str
    css: str


def headers(cl: ChangeList) -> list[Header]:
    return [_header(cl, name) for name in cl.list_display]  # type: ignore[arg-type]


def _header(cl: ChangeList, name: str) -> Header:
    if name == CHECKBOX:
        return Header(name, "", "m-check")
    text, attribute = label_for_field(name, cl.model, cl.model_admin, return_attr=True)
    return Header(name, str(text), getattr(attribute, "css", ""))


def rows(cl: ChangeList) -> Iterator[SafeString]:
    """The rows of the table, each a line; on a phone the style sheet makes a card of each."""
    columns = headers(cl)
    links = set(cl.list_display_links or [columns[1 if columns[0].name == CHECKBOX else 0].name])
    for row in cl.result_list:
        yield format_html("<tr>{}</tr>", SafeString("".join(_cells(cl, row, columns, links))))


def _cells(cl: ChangeList, row: Model, columns: Iterable[Header], links: set[Any]) -> Iterator[str]:
    for header in columns:
        value = _value(cl, row, header.name)
        if header.name in links:
            url = add_preserved_filters(
                {"preserved_filters": cl.preserved_filters, "opts": cl.opts}, cl.url_for_result(row)
            )
            yield format_html('<th scope="row" class="{}"><a href="{}">{}</a></th>', header.css, url, value)
        elif header.name == CHECKBOX:
            yield format_html('<td class="m-check">{}</td>', value)
        else:
            yield format_html('<td class="{}" data-label="{}">{}</td>', header.css, header.text, value)


def _value(cl: ChangeList, row: Model, name: str) -> Any:
    if name == CHECKBOX:
        return format_html(
            '<input type="checkbox" name="_selected_action" value="{}" class="action-select" aria-label="Select {}">',
            row.pk,
            row,
        )
    try:
        field, _, value = lookup_field(name, row, cl.model_admin)
    except (ObjectDoesNotExist, FieldDoesNotExist):
        return "–"
    if value == "":
        return ""
    return display_for_value(value, "–") if field is None else display_for_field(value, field, "–")


def newest(rows: QuerySet[Any], count: int) -> QuerySet[Any]:
    """The newest so many of the rows: for what no index leads to."""
    beyond = rows.order_by("-pk").values_list("pk", flat=True)[count : count + 1].first()
    return rows if beyond is None else rows.filter(pk__gt=beyond)
