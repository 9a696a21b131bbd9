"""Columns that tables have in common: numbers as exact as they were given, lists of texts, ids and times."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Value
from django.db.models.functions import Now

from orchestrator.ids import uuid7

# An operand: so many digits before the point, and as many after it as the smallest number that a double holds.
DIGITS, DECIMALS = 30, 324
MAX_OPERATION_LENGTH = 100


class ExactField(models.DecimalField):  # type: ignore[type-arg]
    """A decimal that is kept with the digits it has: a column with a fixed number of them pads each with zeros."""

    def db_type(self, connection: Any) -> str:
        return "numeric"


def plain(number: Decimal | int) -> str:
    """All digits that it has, without zeros at the end of its decimals."""
    text = f"{Decimal(number):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def operand(**options: Any) -> ExactField:
    """An operand's column."""
    return ExactField(max_digits=DIGITS + DECIMALS, decimal_places=DECIMALS, **options)


def texts(**options: Any) -> Any:
    """A list of texts."""
    return models.JSONField(default=list, blank=True, db_default=Value([], models.JSONField()), **options)


class BaseModel(models.Model):
    """What every row here has."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        abstract = True


class Operands(BaseModel):
    """What to add, and how urgently."""

    a = operand()
    b = operand()
    operation = models.CharField(
        max_length=MAX_OPERATION_LENGTH, blank=True, db_default="", help_text="As it was sent, if as a string."
    )
    priority = models.SmallIntegerField(
        db_default=5,
        default=5,
        validators=[MinValueValidator(0), MaxValueValidator(9)],
        help_text="0 is the most urgent, 9 the least.",
    )

    class Meta:
        abstract = True
