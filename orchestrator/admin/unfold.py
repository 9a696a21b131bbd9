"""Unfold's classes. It has no types of its own, so for the type checker they are Django's, which they extend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin as DjangoModelAdmin
    from django.contrib.admin import StackedInline as DjangoStackedInline
    from django.contrib.admin import TabularInline as DjangoTabularInline
    from django.db.models import Model

    ModelAdmin = DjangoModelAdmin[Any]
    StackedInline = DjangoStackedInline[Model, Model]
    TabularInline = DjangoTabularInline[Model, Model]
else:
    from unfold.admin import ModelAdmin, StackedInline, TabularInline

__all__ = ["ModelAdmin", "StackedInline", "TabularInline"]
