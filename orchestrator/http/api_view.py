"""What every endpoint does before its own work: it refuses query parameters that it does not document."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from drf_spectacular.utils import OpenApiParameter
from rest_framework import views
from rest_framework.request import Request

from orchestrator.http.requests import PAGE_PARAMETERS, BadInput, unknown_problems
from orchestrator.http.throttling import AddressThrottle


class APIView(views.APIView):
    """An endpoint of the API. The parameters that `extend_schema` documents are those that it knows."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if self.throttle_classes:
            self._check_address(request)
        super().initial(request, *args, **kwargs)
        if request.query_params:
            _refuse_unknown(request.query_params, parameters_of(type(self), request.method or ""))  # type: ignore[arg-type]

    def _check_address(self, request: Request) -> None:
        """Before authentication, which asks the database."""
        throttle = AddressThrottle()
        if not throttle.allow_request(request, self):
            self.throttled(request, throttle.wait())

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Says what is left of the limit on requests."""
        finalized = super().finalize_response(request, response, *args, **kwargs)
        if limit := getattr(request, "rate_limit", None):
            for name, value in limit.headers().items():
                finalized[name] = value
        return finalized


def _refuse_unknown(given: Mapping[str, Any], known: frozenset[str] | None) -> None:
    if known is not None and (unknown := given.keys() - known):
        raise BadInput("query", unknown_problems(unknown, sorted(known), "parameter"))


@cache
def parameters_of(view_class: type[APIView], method: str) -> frozenset[str] | None:
    """The query parameters that are documented for the method; None where it is not documented itself."""
    name = "get" if method == "HEAD" else method.lower()
    handler = getattr(view_class, name, None)
    if not (schema_class := getattr(handler, "kwargs", {}).get("schema")):
        return None
    schema = schema_class()
    schema.view = view_class()
    schema.view.request, schema.view.kwargs = None, {}
    names = {name for each in schema.get_override_parameters() for name in _names(each)}
    if name == "get" and getattr(view_class, "pagination_class", None):
        names |= PAGE_PARAMETERS
    return frozenset(names)


def _names(documented: Any) -> set[str]:
    if not isinstance(documented, OpenApiParameter):
        return set(documented().fields)  # A serializer of a query.
    return {documented.name} if documented.location == OpenApiParameter.QUERY else set()
