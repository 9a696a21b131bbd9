"""Lists in pages, each of which begins where the last one ended, so all are equally fast and rows that are added
meanwhile shift nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from orchestrator.http.links import next_page
from orchestrator.http.requests import BadInput
from orchestrator.kind_problems import Problem

if TYPE_CHECKING:
    from rest_framework.views import APIView

DEFAULT_LIMIT, MAX_LIMIT = 50, 200


class CursorPagination(BasePagination):
    """Pages in the order of a column that is unique in the list; the cursor is its value in the last row seen."""

    column = "pk"
    ordering = "-pk"
    cursor: dict[str, Any]

    def read_cursor(self, text: str) -> Any:
        """The column's value; raises ValueError for what is none."""
        raise NotImplementedError

    def paginate_queryset(self, queryset: Any, request: Request, view: APIView | None = None) -> list[Any]:
        limit, position = self.limit(request), self.position(request)
        if position is not None:
            comparison = "lt" if self.ordering.startswith("-") else "gt"
            queryset = queryset.filter(**{f"{self.column}__{comparison}": position})
        rows = list(queryset.order_by(self.ordering)[: limit + 1])
        self.set_next(request, getattr(rows[limit - 1], self.column) if len(rows) > limit else None)
        return rows[:limit]

    def limit(self, request: Request) -> int:
        """How many rows the page has at most."""
        return _limit(request)

    def position(self, request: Request) -> Any:
        """Where the page begins; None for the first."""
        cursor = request.query_params.get("cursor")
        try:
            return None if cursor is None else self.read_cursor(cursor)
        except ValueError:
            detail = "Invalid cursor; use the one in `next`."
            raise BadInput("query", [Problem("/cursor", "invalid", detail)]) from None

    def set_next(self, request: Request, cursor: Any) -> None:
        """cursor: where the next page begins; None after the last."""
        self._next = None if cursor is None else next_page(request, cursor)

    def respond(self, rows: Any, request: Request, serializer: type[BaseSerializer[Any]]) -> Response:
        """The page that the request asks for, each row as the serializer shows it."""
        return self.get_paginated_response(serializer(self.paginate_queryset(rows, request), many=True).data)

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"next": self._next, "results": data})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "required": ["next", "results"],
            "properties": {
                "next": {
                    "type": ["string", "null"],
                    "format": "uri-reference",
                    "description": "The next page; null on the last.",
                    "example": "/jobs?cursor=01980c5e-7a00-7000-8000-000000000000",
                },
                "results": schema,
            },
        }

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
        return [
            {
                "name": "cursor",
                "in": "query",
                "schema": self.cursor,
                "description": "The start of the page; follow `next` instead of building one.",
            },
            {"name": "limit", "in": "query", "schema": limit, "description": "Maximum number of rows per page."},
        ]


def _limit(request: Request) -> int:
    given = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not (given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= MAX_LIMIT):
        detail = f"The limit must be 1 to {MAX_LIMIT}, not {given[:50]!r}."
        raise BadInput("query", [Problem("/limit", "out_of_range", detail)])
    return int(given)


class NewestFirst(CursorPagination):
    """Rows by their UUIDs of version 7, which rise with time."""

    cursor = {"type": "string", "format": "uuid"}

    def read_cursor(self, text: str) -> UUID:
        if not re.fullmatch(r"[0-9A-Fa-f-]{1,36}", text):  # Python reads other digits, too.
            raise ValueError(text)
        return UUID(text)


class LastNumberFirst(CursorPagination):
    """Rows by their ids where those are numbers, the highest first."""

    cursor = {"type": "string", "pattern": "^[0-9]{1,18}$"}

    def read_cursor(self, text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise ValueError(text)
        return int(text)
