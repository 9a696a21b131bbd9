"""What the admin's templates use as `{% load muster %}`: see TEMPLATES in the settings."""

from collections.abc import Callable
from typing import Any

from django import template

from orchestrator.shown import lists, words

register = template.Library()

FILTERS: tuple[Callable[[Any], Any], ...] = (
    words.age,
    words.duration,
    words.for_how_long,
    words.number,
    words.rate,
    lists.chips,
    lists.headers,
    lists.rows,
)
for function in FILTERS:
    register.filter(function.__name__, function)
