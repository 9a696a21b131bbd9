"""How values are shown: labels, links, two lines, text as it is laid out."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from orchestrator.admin.base import MAX_COUNTED
from orchestrator.models import Attempt
from orchestrator.states import Status

# Characters of a payload or result shown.
MAX_CHARACTERS = 20_000

# Characters of a text in a list, and of that shown to whoever points at it.
MAX_LINE, MAX_HOVER = 200, 1_000

COLOURS = {
    Status.CREATED: "info",
    Status.RUNNING: "primary",
    Status.COMPLETED: "success",
    Status.FAILED: "danger",
    Status.CANCELLED: "warning",
    Attempt.Outcome.RAISED: "danger",
    Attempt.Outcome.TIMED_OUT: "danger",
    Attempt.Outcome.LOST: "warning",
    Attempt.Outcome.INTERRUPTED: "info",
    Attempt.Outcome.UNAVAILABLE: "info",
    "ALIVE": "success",
    "DRAINING": "warning",
    "ENDED": "",
    "LOST": "danger",
    "HUNG": "danger",
    "ACTIVE": "success",
    "WITH_REJECTED": "warning",
    "PENDING": "info",
    "SUCCESS": "success",
    "PAUSED": "warning",
    "HELD": "warning",
    "WAITING": "info",
}


@lru_cache(maxsize=256)
def label(state: str, text: str = "") -> SafeString:
    return render_to_string("unfold/helpers/label.html", {"text": text or state, "type": COLOURS[state]})


def cut(text: str) -> SafeString:
    """A text in one line, as far as there is room; whoever points at it is shown more of it."""
    one_line = " ".join(text[:MAX_LINE].split())
    return format_html('<span title="{}">{}</span>', text[:MAX_HOVER], one_line)


def with_id(name: object, id: object) -> SafeString:
    """A name with the end of its id, which tells apart what was made at the same time. Pointing at it shows it all."""
    return format_html('{} <span class="m-mono m-subtle" title="{}">{}</span>', name, id, str(id)[-8:])


def block(text: str) -> str:
    """The text as it is laid out, scrolled where it is large."""
    if not text:
        return "-"
    if len(text) > MAX_CHARACTERS:
        cut = f"… and {len(text) - MAX_CHARACTERS:,} more characters; the API returns all of them."
        text = f"{text[:MAX_CHARACTERS]}\n{cut}"
    return format_html('<pre class="m-pre" tabindex="0">{}</pre>', text)


def as_indented(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def counted(number: int) -> str:
    return f"{number:,} or more" if number >= MAX_COUNTED else f"{number:,}"


def link(url: str, text: object) -> SafeString:
    return format_html('<a href="{}" class="text-link">{}</a>', url, text)


def page_link(page: str, pk: object, text: object = "") -> SafeString:
    """A link to a page of the admin; its text is the key if none is given."""
    return link(reverse(page, args=[pk]), text or pk)


def list_link(page: str, text: object, **filters: object) -> SafeString:
    """A link to a list of the admin, filtered."""
    return link(f"{reverse(page)}?{urlencode(filters)}", text)
