"""Fields of what a client sends, each as strict as JSON Schema says, and the serializer of such an input."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from heapq import nsmallest
from typing import Any, NoReturn
from uuid import UUID

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.settings import api_settings

from orchestrator.http.json_problems import MAX_DIGITS
from orchestrator.inputs import is_misread

# Unknown fields or parameters that are listed one by one.
MAX_UNKNOWN = 20
# An offset whose plus was not escaped in a query.
UNESCAPED_PLUS = re.compile(r"[T ]\d\d[\d:.]* \d\d(:?\d\d)?$")
# Years that every time zone's arithmetic, here and in PostgreSQL, has room around.
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def listed_unknown(
    names: Collection[str], known: Iterable[str], what: str = "field"
) -> Iterator[tuple[str | None, str, str]]:
    """(name, code, detail) of each of the first unknown names; then, with None for a name, how many more there are."""
    allowed = ", ".join(known) or "none"
    for name in nsmallest(MAX_UNKNOWN, names):
        yield name, "unknown", f"Unknown {what} {name!r}; allowed: {allowed}."
    if len(names) > MAX_UNKNOWN:
        yield None, "and_more", f"{len(names) - MAX_UNKNOWN:,} more unknown {what}s."


def as_integer(value: Any) -> Any:
    """The integer that a JSON number is, also if written 6.0, as JSON Schema has it; other values as they are."""
    if type(value) is float and value.is_integer():
        return int(value)
    # A Decimal of few characters can have a million digits.
    if type(value) is Decimal and value.is_finite() and value.adjusted() < MAX_DIGITS and value == int(value):
        return int(value)
    return value


class StrictIntegerField(serializers.IntegerField):
    """A JSON integer; neither a text nor true will do."""

    def to_internal_value(self, data: Any) -> int:
        number = as_integer(data)
        if type(number) is not int:
            self.fail("invalid")
        return super().to_internal_value(number)


class StrictFloatField(serializers.FloatField):
    """A JSON number; neither a text nor true will do."""

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool | str):
            self.fail("invalid")
        return super().to_internal_value(data)


class QueryIntegerField(serializers.IntegerField):
    """An integer in a query, by its plain digits."""

    def to_internal_value(self, data: Any) -> int:
        if not re.fullmatch(r"-?\d{1,18}", data, re.ASCII):
            self.fail("invalid")
        return int(data)


class QueryFloatField(serializers.FloatField):
    """A number in a query, as JSON would write it."""

    def to_internal_value(self, data: Any) -> float:
        if not re.fullmatch(r"-?\d{1,18}(\.\d{1,18})?([eE][+-]?\d{1,3})?", data, re.ASCII):
            self.fail("invalid")
        return super().to_internal_value(data)


class StrictBooleanField(serializers.BooleanField):
    """true or false; nothing that could be taken for one of them."""

    def to_internal_value(self, data: Any) -> bool:
        if type(data) is not bool:
            self.fail("invalid", input=data)
        return data


class QueryBooleanField(serializers.BooleanField):
    """true or false in a query."""

    default_error_messages = {"invalid": 'Must be true or false, not "{input}".'}
    TRUE_VALUES, FALSE_VALUES, NULL_VALUES = {"true"}, {"false"}, set[Any]()


class StrictChoiceField(serializers.ChoiceField):
    """One of several texts."""

    default_error_messages = {"invalid_choice": "Must be one of {known}, not {input!r}."}

    def fail(self, key: str, **kwargs: Any) -> NoReturn:
        super().fail(key, known=", ".join(map(str, self.choices)), **kwargs)


class StrictMultipleChoiceField(StrictChoiceField, serializers.MultipleChoiceField):
    """Any of several texts, each in a parameter of its own."""


class StrictCharField(serializers.CharField):
    """A JSON text; a number will not do."""

    default_error_messages = {"invalid": "Must be a string."}

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class StrictRegexField(StrictCharField, serializers.RegexField):
    """A JSON text that matches."""


class StrictUUIDField(serializers.UUIDField):
    """An id as a JSON text; a number will not do."""

    def to_internal_value(self, data: Any) -> UUID:
        if not isinstance(data, str):
            self.fail("invalid", value=data)
        return super().to_internal_value(data)


@extend_schema_field({"type": "string", "format": "date-time", "pattern": "^(19[7-9][0-9]|[2-8][0-9]{3})-"})
class AwareDateTimeField(serializers.DateTimeField):
    """A time with its offset from UTC: one without means something else to everyone."""

    default_error_messages = {
        "invalid": "Invalid time; write it as 2030-01-31T12:00:00Z or 2030-01-31T13:00:00+01:00.",
        "unescaped_plus": "In a URL a + means a space: write %2B instead, as in 2030-01-31T13:00:00%2B01:00.",
        "no_time_zone": "Give the offset from UTC, as in 2030-01-31T12:00:00Z or 2030-01-31T13:00:00+01:00.",
        "out_of_range": "The year must be 1970 to 8999.",
    }

    def to_internal_value(self, value: Any) -> datetime:
        if isinstance(value, str):
            value = value.upper()  # RFC 3339 allows a small t and z.
            if UNESCAPED_PLUS.search(value):
                self.fail("unescaped_plus")
            if is_misread(value):
                self.fail("invalid")
        return super().to_internal_value(value)

    def enforce_timezone(self, value: datetime) -> datetime:
        if value.utcoffset() is None:
            self.fail("no_time_zone")
        if not EARLIEST <= value < LATEST:
            self.fail("out_of_range")
        return super().enforce_timezone(value)


class DurationSecondsField(serializers.FloatField):
    """A span of time, as its seconds."""

    def to_representation(self, value: timedelta) -> float:  # type: ignore[override]
        return value.total_seconds()


@extend_schema_field({"type": "string", "format": "uri-reference"})
class LinkField(serializers.CharField):
    """A link as a path from the server's root."""


class StrictSerializer(serializers.Serializer[Any]):
    """Input in which a field that is not known is a mistake, not ignored."""

    refuses_unknown = True
    may_be_empty = False

    def to_internal_value(self, data: Any) -> Any:
        errors = self._unknown(set(data) - set(self.fields)) if isinstance(data, Mapping) else {}
        try:
            value = super().to_internal_value(data)
        except serializers.ValidationError as error:
            found: Any = error.detail
            errors |= found
        if errors:
            raise serializers.ValidationError(errors)
        return value

    def _unknown(self, names: set[str]) -> dict[str, Any]:
        return {
            api_settings.NON_FIELD_ERRORS_KEY if name is None else name: [serializers.ErrorDetail(detail, code)]
            for name, code, detail in listed_unknown(names, self.fields)
        }


class NoFields(StrictSerializer):
    """An empty body, or {}."""

    may_be_empty = True
