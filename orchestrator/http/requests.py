"""What a request asks for: the variable parts of its path, its query and its body, checked and converted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

from django.conf import settings
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.fields import Field, ListField, MultipleChoiceField, UUIDField
from rest_framework.request import Request
from rest_framework.serializers import Serializer
from rest_framework.settings import api_settings

from orchestrator.http.fields import listed_unknown
from orchestrator.http.json_pointer import escaped
from orchestrator.kind_problems import Problem

Input = type[Serializer[Any]]

# Those of a query that pagination reads.
PAGE_PARAMETERS = frozenset({"cursor", "limit"})
# Those of a batch that are listed one by one.
MAX_PROBLEMS_LISTED = 1_000
REPEATED = "This parameter may be given only once."

_ID = UUIDField()


class BadInput(Exception):
    """A request is invalid; `where` is OpenAPI's word for what the problems point into: path, query or header, and
    empty for the body.
    """

    def __init__(self, where: str, problems: list[Problem]) -> None:
        self.where = where
        self.problems = problems
        super().__init__(problems[0].detail)


def read_id(**given: str) -> UUID:
    """The path's only variable part, which is an id; raises BadInput for what is none."""
    id: UUID
    [id] = read_path(dict.fromkeys(given, _ID), **given).values()
    return id


def body_bytes(request: Request) -> int:
    """How long the request's body is, or may be where that is not known before."""
    return int(request.META.get("CONTENT_LENGTH") or settings.ENV.MAX_BODY_BYTES)


def read_path(parts: Mapping[str, Field[Any, Any, Any, Any]], **given: str) -> dict[str, Any]:
    """The path's variable parts, checked and converted; raises BadInput for those that are invalid."""
    read, errors = {}, {}
    for name, text in given.items():
        try:
            read[name] = parts[name].run_validation(text)
        except ValidationError as error:
            errors[name] = error.detail
    if errors:
        raise BadInput("path", list(problems_in(errors)))
    return read


def read_query(serializer_class: Input, request: Request) -> dict[str, Any]:
    """The query's parameters, checked and converted; those of the page are left to the pagination.

    Raises BadInput for each that is invalid or unknown.
    """
    if not request.query_params:
        return dict(_defaults(serializer_class))
    lists = dict(request.query_params.lists())
    repeatable = _repeatable(serializer_class)
    repeated = [name for name, values in lists.items() if len(values) > 1 and name not in repeatable]
    if repeated:
        raise BadInput("query", [Problem(f"/{escaped(name)}", "repeated", REPEATED) for name in repeated])
    # Not as a form, in which what is empty was left out.
    given = {name: values if name in repeatable else values[0] for name, values in lists.items()}
    return _read("query", serializer_class, {name: given[name] for name in given.keys() - PAGE_PARAMETERS})


@cache
def _repeatable(serializer_class: Input) -> frozenset[str]:
    """The parameters that may be given more than once."""
    fields = serializer_class().fields.items()
    return frozenset(name for name, field in fields if isinstance(field, ListField | MultipleChoiceField))


@cache
def _defaults(serializer_class: Input) -> dict[str, Any]:
    """What a query without parameters means. Most have none, and a serializer takes its time to be made."""
    return _read("query", serializer_class, {})


def read_body(serializer_class: Input, request: Request, *, partial: bool = False) -> dict[str, Any]:
    """The body's fields, checked and converted; raises BadInput for each that is invalid or unknown.

    partial: fields that are left out get no default.
    """
    if not isinstance(request.data, dict):
        name = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}.get(
            type(request.data), "a number"
        )
        raise BadInput("", [Problem("", "not_an_object", f"The body must be a JSON object, not {name}.")])
    return _read("", serializer_class, request.data, partial=partial)


def _read(where: str, serializer_class: Input, data: Any, *, partial: bool = False) -> dict[str, Any]:
    serializer = serializer_class(data=data, partial=partial)
    if not serializer.is_valid():
        found = problems_in(serializer.errors)
        if where:  # A parameter is named, not which of its values it is.
            found = (each._replace(pointer="/".join(each.pointer.split("/")[:2])) for each in found)
        raise BadInput(where, list(found))
    validated: dict[str, Any] = serializer.validated_data
    return validated


def first_problems(problems: Sequence[Problem], *, of: int, what: str) -> list[Problem]:
    """The problems of a batch of so many, cut short where they are many."""
    if len(problems) <= MAX_PROBLEMS_LISTED:
        return list(problems)
    cut = f"{len(problems):,} errors in {of:,} {what}; only the first {MAX_PROBLEMS_LISTED:,} are listed."
    return [*problems[:MAX_PROBLEMS_LISTED], Problem("", "and_more", cut)]


def unknown_problems(names: Collection[str], known: Iterable[str], what: str = "field") -> list[Problem]:
    """A problem for each unknown name; of many, for the first, and one that says how many more there are."""
    return [
        Problem("" if name is None else f"/{escaped(name)}", code, detail)
        for name, code, detail in listed_unknown(names, known, what)
    ]


def problems_in(detail: Any, pointer: str = "") -> Iterator[Problem]:
    """What serializers found, flat: each message with the pointer to its field."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            is_whole = name == api_settings.NON_FIELD_ERRORS_KEY
            yield from problems_in(inner, pointer if is_whole else f"{pointer}/{escaped(str(name))}")
    elif isinstance(detail, list):
        for index, inner in enumerate(detail):
            is_message = isinstance(inner, ErrorDetail)
            yield from problems_in(inner, pointer if is_message else f"{pointer}/{index}")
    else:
        yield Problem(pointer, getattr(detail, "code", None) or "invalid", str(detail))
