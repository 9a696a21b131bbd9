"""Numbers and operations as clients write them, read exactly, and as they are shown."""

from __future__ import annotations

import re
from decimal import Context, Decimal
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from orchestrator.http.fields import StrictCharField
from scheduler.jobs import shown
from scheduler.models import DECIMALS, DIGITS, MAX_OPERATION_LENGTH

_NUMBER = re.compile(r"\s*[+-]?(\d{1,100}(\.\d{0,100})?|\.\d{1,100})([eE][+-]?\d{1,3})?\s*", re.ASCII)
_OPERATION = re.compile(r"[ \t]*(\d+(?:\.\d+)?)[ \t]*\+[ \t]*(\d+(?:\.\d+)?)[ \t]*", re.ASCII)
# The same for JSON Schema, with bounds on the digits. Those with an exponent are within them, whatever their digits.
_BLANKS, _UP_TO_POINT = r"[ \t\n\r\f\v]*", f"0{{0,70}}[0-9]{{1,{DIGITS}}}"
_NUMBER_PATTERN = (
    rf"^{_BLANKS}[+-]?({_UP_TO_POINT}(\.[0-9]{{0,100}})?|\.[0-9]{{1,100}}"
    r"|([0-9]{1,15}(\.[0-9]{0,100})?|\.[0-9]{1,100})[eE](\+?(0{0,2}[0-9]|0?1[0-4])|-[01]?[0-9]{1,2}))"
    rf"{_BLANKS}$"
)
_TERM_PATTERN = rf"[ \t]*{_UP_TO_POINT}(\.[0-9]{{1,100}})?[ \t]*"
_SMALLEST = Decimal(1).scaleb(-DECIMALS)
_ROOMY = Context(prec=DIGITS + DECIMALS + 10)

BOUNDS = f"At most {DIGITS} digits before the decimal point and {DECIMALS} after it."
NO_NUMBER = 'A number such as 1.5, or a string such as "1.5".'
NOT_BOTH = "Give either a and b, or operation."
NO_OPERATION = 'Two unsigned numbers with a plus between them, such as "1.5+2".'

# A sum as it is shown: exact in any of its forms.
NUMBER_SCHEMA = {
    "type": ["integer", "number", "string"],
    "description": "Exact: an integer if it is whole, a number if a double can represent it, else a string.",
}
OPERAND_SCHEMA = {
    "type": ["number", "string"],
    "exclusiveMinimum": -(10**DIGITS),
    "exclusiveMaximum": 10**DIGITS,
    "pattern": _NUMBER_PATTERN,
    "description": f"A number, or a string that contains one; taken exactly as written. {BOUNDS}",
    "example": 1.5,
}
OPERATION_SCHEMA = {
    "type": "string",
    "maxLength": MAX_OPERATION_LENGTH,
    "pattern": rf"^{_TERM_PATTERN}\+{_TERM_PATTERN}$",
    "description": "a and b in one string.",
    "example": "1.5+2",
}


def read_operand(value: Any) -> Decimal:
    """A number as a client wrote it, exactly; raises ValueError for what is none or has too many digits."""
    if type(value) is int or type(value) is Decimal:
        number = Decimal(value)
    elif type(value) is str and _NUMBER.fullmatch(value):
        number = Decimal(value.strip())
    else:
        raise ValueError(NO_NUMBER)
    if not number.is_finite() or number.adjusted() >= DIGITS:
        raise ValueError(BOUNDS)
    rounded = _ROOMY.quantize(number, _SMALLEST)
    if rounded != number:
        raise ValueError(BOUNDS)
    return number


def read_operation(value: Any) -> tuple[str, Decimal, Decimal]:
    """An operation without the blanks around it, and its operands; raises ValueError for what is none."""
    if type(value) is not str or len(value) > MAX_OPERATION_LENGTH or not (match := _OPERATION.fullmatch(value)):
        raise ValueError(NO_OPERATION)
    return value.strip(), read_operand(match[1]), read_operand(match[2])


@extend_schema_field(NUMBER_SCHEMA)
class Number(serializers.Field[Decimal, Any, Any, Any]):
    """A number that is shown exactly."""

    def to_representation(self, value: Decimal) -> int | float | str:
        return shown(value)


@extend_schema_field(OPERAND_SCHEMA)
class Operand(serializers.Field[Decimal, Any, Any, Any]):
    def to_internal_value(self, data: Any) -> Decimal:
        try:
            return read_operand(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error), "invalid") from None


@extend_schema_field(OPERATION_SCHEMA)
class Operation(StrictCharField):
    """Two numbers in one text."""

    def to_internal_value(self, data: Any) -> str:
        try:
            return read_operation(data)[0]
        except ValueError as error:
            raise serializers.ValidationError(str(error), "invalid") from None
