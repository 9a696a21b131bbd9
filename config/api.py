"""HTTP for all apps: the one table from refusals to problems, bodies, pages, access and throttling."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import UUID

import msgspec
from django.conf import settings
from django.core.exceptions import (
    DisallowedHost,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
    ValidationError,
)
from django.core.handlers.wsgi import LimitedStream, WSGIRequest
from django.db import InterfaceError, OperationalError
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, QueryDict
from django.http.request import UnreadablePostError
from django.urls import is_valid_path
from django.utils.cache import get_conditional_response
from django.utils.functional import Promise
from django.views import defaults
from knox.auth import TokenAuthentication
from rest_framework import exceptions
from rest_framework.fields import Field, UUIDField
from rest_framework.pagination import BasePagination
from rest_framework.parsers import BaseParser
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.settings import api_settings
from rest_framework.throttling import BaseThrottle
from rest_framework.utils.urls import replace_query_param

from config import strict_json
from orchestrator.faults import is_read_only
from orchestrator.idempotency import BadKey, KeyUsedOtherwise
from orchestrator.kinds import BadPayload, Problem, UnknownKind
from orchestrator.models import Job
from orchestrator.submission import BadSubmission, NotCancellable, NotRetryable, TooManyUnfinished
from scheduler.models import Task, TaskSchedule
from scheduler.recurrence import BadRecurrence
from scheduler.services import BadBackfill, NotEnded, NotPending

# rest_framework.views imports this module while its first class is being made.
if TYPE_CHECKING:
    from rest_framework.views import APIView

logger = logging.getLogger(__name__)

# When to try again what failed for no fault of the client's.
UNAVAILABLE_RETRY_SECONDS = 5
# A token that begins so may only read. knox signs the whole token, so nobody can take the beginning off.
READ_ONLY_PREFIX = "ro_"


class BadInput(Exception):
    """What a client sent outside the body does not fit; `where` is OpenAPI's word: path, query or header."""

    def __init__(self, where: str, problems: list[Problem]) -> None:
        self.where = where
        self.problems = problems
        super().__init__(problems[0].detail)


class Refusal(NamedTuple):
    """How an exception is told to the client: its status, its RFC 9457 type's last part, and a title."""

    status: HTTPStatus
    type: str
    title: str
    detail: str = ""  # That of the exception if not given here.


BAD_INPUT = Refusal(HTTPStatus.BAD_REQUEST, "bad-input", "The request does not fit")

# The one table from refusals to HTTP. An exception that is not listed here is a surprise: 500.
REFUSALS: dict[type[BaseException], Refusal] = {
    BadInput: BAD_INPUT,
    strict_json.BadJSON: BAD_INPUT,
    BadPayload: BAD_INPUT,
    BadSubmission: BAD_INPUT,
    BadKey: BAD_INPUT,
    BadRecurrence: BAD_INPUT,
    BadBackfill: BAD_INPUT,
    UnknownKind: Refusal(HTTPStatus.BAD_REQUEST, "unknown-kind", "There is no such kind of job"),
    Job.DoesNotExist: Refusal(
        HTTPStatus.NOT_FOUND, "no-such-job", "There is no such job", "No job has this id, or it is not yours to see."
    ),
    Task.DoesNotExist: Refusal(
        HTTPStatus.NOT_FOUND,
        "no-such-task",
        "There is no such task",
        "No task has this id, or it is not yours to see.",
    ),
    TaskSchedule.DoesNotExist: Refusal(
        HTTPStatus.NOT_FOUND,
        "no-such-schedule",
        "There is no such schedule",
        "No schedule has this id, or it is not yours to see.",
    ),
    NotPending: Refusal(HTTPStatus.CONFLICT, "not-pending", "The task cannot be cancelled"),
    NotEnded: Refusal(HTTPStatus.CONFLICT, "not-ended", "The task cannot be run again yet"),
    NotCancellable: Refusal(HTTPStatus.CONFLICT, "not-cancellable", "The job cannot be cancelled"),
    NotRetryable: Refusal(HTTPStatus.CONFLICT, "not-retryable", "The job cannot be retried"),
    KeyUsedOtherwise: Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "key-used-otherwise", "The Idempotency-Key is taken"),
    TooManyUnfinished: Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too-many-unfinished", "Too many unfinished jobs"),
}


def problem(
    status: int,
    detail: str,
    *,
    type: str = "",
    title: str = "",
    errors: Iterable[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> HttpResponse:
    """A refusal as application/problem+json (RFC 9457)."""
    body = {
        "type": f"urn:muster:problem:{type}" if type else "about:blank",
        "title": title or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors := list(errors):
        body["errors"] = errors
    return HttpResponse(
        msgspec.json.encode(body), status=status, content_type="application/problem+json", headers=headers
    )


def problem_response(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """Any exception of an API view as a problem. No traceback leaves: that of a surprise is in the log."""
    for kind in type(error).__mro__:
        if refusal := REFUSALS.get(kind):
            return _refusal_response(error, refusal)
    if isinstance(error, exceptions.APIException):
        return _rest_framework_response(error)
    if isinstance(error, Http404):
        return problem(404, "There is nothing here." if not error.args else str(error.args[0]))
    if isinstance(error, PermissionDenied):
        return problem(403, "You may not do this.")
    if isinstance(error, RequestDataTooBig):
        return too_large()
    if isinstance(error, UnreadablePostError):
        return problem(400, "The body broke off before its end.")
    if isinstance(error, SuspiciousOperation):
        return problem(400, _bad_request_detail(error))
    if isinstance(error, (OperationalError, InterfaceError)) or is_read_only(error):
        return _unavailable(error)
    request = context["request"]
    logger.error("%s %s failed", request.method, request.path, exc_info=error)
    return _surprise()


def _refusal_response(error: Exception, refusal: Refusal) -> HttpResponse:
    headers = {}
    if retry_after := getattr(error, "retry_after_seconds", None):
        headers["Retry-After"] = str(retry_after)
    # A rule of the domain names the fields that break it, and knows nothing of pointers.
    named = [Problem(f"/{name}", "invalid", str(error)) for name in getattr(error, "fields", ())]
    problems, where = getattr(error, "problems", named), getattr(error, "where", "")
    return problem(
        refusal.status,
        refusal.detail or _in_words(problems) or str(error),
        type=refusal.type,
        title=refusal.title,
        errors=[({"in": where} if where else {}) | each._asdict() for each in problems],
        headers=headers,
    )


def _in_words(problems: Sequence[Problem]) -> str:
    """The problems as one text, for whoever reads no further."""
    return " ".join(f"{each.pointer}: {each.detail}" if each.pointer else each.detail for each in problems[:3])


def _rest_framework_response(error: exceptions.APIException) -> HttpResponse:
    headers = {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = str(wait)
    if isinstance(error, exceptions.ValidationError):
        return _refusal_response(BadInput("", list(problems_in(error.detail))), BAD_INPUT)
    detail = str(error.detail)
    if isinstance(error, exceptions.UnsupportedMediaType):
        detail += " Send JSON, and say so: curl --json '{…}', or -H 'Content-Type: application/json'."
    elif isinstance(error, exceptions.NotAcceptable):
        detail += " Answers here are application/json."
    elif isinstance(error, exceptions.NotAuthenticated):
        detail += " Send 'Authorization: Bearer TOKEN'; `manage.py token USERNAME` makes a token."
    return problem(error.status_code, detail, headers=headers)


def problems_in(detail: Any, pointer: str = "") -> Iterator[Problem]:
    """What serializers found, flat: each message with the pointer to its field."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            at_once = name == api_settings.NON_FIELD_ERRORS_KEY
            yield from problems_in(inner, pointer if at_once else f"{pointer}/{strict_json.escaped(str(name))}")
    elif isinstance(detail, list):
        for index, inner in enumerate(detail):
            is_message = isinstance(inner, exceptions.ErrorDetail)
            yield from problems_in(inner, pointer if is_message else f"{pointer}/{index}")
    else:
        yield Problem(pointer, getattr(detail, "code", None) or "invalid", str(detail))


def _unavailable(error: Exception) -> HttpResponse:
    logger.error("The database failed a request: %s", error)
    return problem(
        503,
        "The database cannot be reached, takes no writes, or did not answer in time. Try again; with the same "
        "Idempotency-Key nothing is done twice.",
        headers={"Retry-After": str(UNAVAILABLE_RETRY_SECONDS)},
    )


def _surprise() -> HttpResponse:
    return problem(500, "Something went wrong here that should not have; it is in the server's log.")


def too_large() -> HttpResponse:
    return problem(413, f"A request body has at most {settings.ENV.MAX_BODY_BYTES:,} bytes.")


def _bad_request_detail(error: Exception) -> str:
    if isinstance(error, DisallowedHost):
        return "The Host header names none of the ALLOWED_HOSTS."
    return "The request is not acceptable."


# What Django itself refuses, outside any API view. The admin's pages stay pages.


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, RequestDataTooBig):
        return too_large()
    return problem(400, _bad_request_detail(exception))


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if _is_admin(request):
        return defaults.permission_denied(request, exception)
    return problem(403, "You may not do this.")


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if _is_admin(request):
        return defaults.page_not_found(request, exception)
    return problem(404, f"There is no path {request.path[:200]!r}; /swagger/ shows all there are.")


def server_error(request: HttpRequest) -> HttpResponseBase:
    return defaults.server_error(request) if _is_admin(request) else _surprise()


def _is_admin(request: HttpRequest) -> bool:
    return request.path_info.startswith("/admin")


class JSONParser(BaseParser):
    """Strict JSON, see `config.strict_json`. Django bounds how much is read, before reading it."""

    media_type = "application/json"
    exact = False

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        assert parser_context is not None
        body = parser_context["request"].body
        return strict_json.read(body, exact=self.exact) if body.strip() else {}


class ExactJSONParser(JSONParser):
    """Strict JSON whose numbers with a point are the Decimals that were written."""

    exact = True


class JSONRenderer(BaseRenderer):
    """JSON by msgspec: times as ISO 8601 with Z, UUIDs as text."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        return b"" if data is None else msgspec.json.encode(data, enc_hook=_as_text)


def _as_text(value: Any) -> str:
    if isinstance(value, (str, Promise)):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON.")


def etag_of(*parts: Any) -> str:
    """An ETag that is the same for equal parts. It is weak: what is told is the same, its bytes need not be."""
    return f'W/"{hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()}"'


def not_modified(request: Request, etag: str) -> HttpResponse | None:
    """A 304 for a client that has what the ETag stands for (If-None-Match, RFC 9110); else None."""
    answer: HttpResponse | None = get_conditional_response(request, etag=etag)
    if answer is not None:
        for name, value in conditional(etag).items():
            answer[name] = value
    return answer


def conditional(etag: str) -> dict[str, str]:
    """Headers of an answer that a client may keep for itself, if it asks each time whether it is still so."""
    return {"ETag": etag, "Cache-Control": "private, no-cache"}


class NewestFirst(BasePagination):
    """Pages of rows from the newest id down. A page begins where the last one ended, so all are equally fast, and
    rows that are added meanwhile shift nothing.
    """

    default_limit, max_limit = 50, 200
    parameters = frozenset({"cursor", "limit"})

    def paginate_queryset(self, queryset: QuerySet[Any], request: Request, view: APIView | None = None) -> list[Any]:
        limit = self._limit(request)
        if cursor := request.query_params.get("cursor"):
            queryset = queryset.filter(pk__lt=self._key(queryset.model, cursor))
        rows = list(queryset.order_by("-pk")[: limit + 1])
        self._next = None
        if len(rows) > limit:
            self._next = replace_query_param(request.build_absolute_uri(), "cursor", str(rows[limit - 1].pk))
        return rows[:limit]

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"next": self._next, "results": data})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "required": ["next", "results"],
            "properties": {
                "next": {
                    "type": ["string", "null"],
                    "format": "uri",
                    "description": "The next page; null on the last.",
                    "example": "http://localhost:8000/jobs?cursor=01980c5e-7a00-7000-8000-000000000000",
                },
                "results": schema,
            },
        }

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        limit = {"type": "integer", "minimum": 1, "maximum": self.max_limit, "default": self.default_limit}
        return [
            {
                "name": "cursor",
                "in": "query",
                "schema": {"type": "string"},
                "description": "Where the page begins; follow `next` rather than make one.",
            },
            {"name": "limit", "in": "query", "schema": limit, "description": "Most rows of a page."},
        ]

    def _limit(self, request: Request) -> int:
        given = request.query_params.get("limit", str(self.default_limit))
        if not (given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= self.max_limit):
            detail = f"A limit is 1 to {self.max_limit}, not {given[:50]!r}."
            raise BadInput("query", [Problem("/limit", "out_of_range", detail)])
        return int(given)

    def _key(self, model: type[Model], cursor: str) -> Any:
        try:
            return model._meta.pk.to_python(cursor)
        except ValidationError:
            detail = "This is no cursor; take the one in `next`."
            raise BadInput("query", [Problem("/cursor", "invalid", detail)]) from None


Input = type[BaseSerializer[Any]]


_ID = UUIDField()


def read_id(**given: str) -> UUID:
    """The path's only variable part, which is an id; raises BadInput for what is none."""
    [id] = read_path(dict.fromkeys(given, _ID), **given).values()
    return id


def read_path(parts: Mapping[str, Field[Any, Any, Any, Any]], **given: str) -> dict[str, Any]:
    """The path's variable parts, checked and converted; raises BadInput for those that do not fit."""
    read, errors = {}, {}
    for name, text in given.items():
        try:
            read[name] = parts[name].run_validation(text)
        except exceptions.ValidationError as error:
            errors[name] = error.detail
    if errors:
        raise BadInput("path", list(problems_in(errors)))
    return read


def read_query(serializer_class: Input, request: Request) -> dict[str, Any]:
    """The query's parameters, checked and converted; those of the page are left to the pagination.

    Raises BadInput for each that does not fit, or is not known.
    """
    if request.query_params.keys() <= NewestFirst.parameters:
        return dict(_defaults(serializer_class))
    given = request.query_params.copy()
    for name in NewestFirst.parameters:
        given.pop(name, None)
    return _read("query", serializer_class, given)


@cache
def _defaults(serializer_class: Input) -> dict[str, Any]:
    """What a query without parameters means. Most have none, and a serializer takes its time to be made."""
    return _read("query", serializer_class, QueryDict())


def read_body(serializer_class: Input, request: Request, *, partial: bool = False) -> dict[str, Any]:
    """The body's fields, checked and converted; raises BadInput for each that does not fit, or is not known.

    partial: fields that are left out get no default.
    """
    if not isinstance(request.data, dict):
        name = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}.get(
            type(request.data), "a number"
        )
        raise BadInput("", [Problem("", "not_an_object", f"The body is to be a JSON object, not {name}.")])
    return _read("", serializer_class, request.data, partial=partial)


def _read(where: str, serializer_class: Input, data: Any, *, partial: bool = False) -> dict[str, Any]:
    serializer = serializer_class(data=data, partial=partial)
    if not serializer.is_valid():
        raise BadInput(where, list(problems_in(serializer.errors)))
    return serializer.validated_data


class Authentication(TokenAuthentication):
    """knox's bearer tokens: hashed at rest, expiring, revocable."""

    def authenticate_credentials(self, token: bytes) -> Any:
        """knox fails, rather than refuses, a token that is no text."""
        if not token.isascii():
            raise exceptions.AuthenticationFailed("Invalid token.")
        return super().authenticate_credentials(token)


class Access(BasePermission):
    """Who may ask at all: anyone where REQUIRE_AUTH is off, else users; a read-only token only reads.

    Whose jobs they see is `orchestrator.queries.visible_jobs`.
    """

    message = "This token may only read."

    def has_permission(self, request: Request, view: APIView) -> bool:
        if settings.ENV.REQUIRE_AUTH and not request.user.is_authenticated:
            raise exceptions.NotAuthenticated
        token_key = getattr(request.auth, "token_key", "")
        return request.method in SAFE_METHODS or not token_key.startswith(READ_ONLY_PREFIX)


class UserThrottle(BaseThrottle):
    """So many requests a minute for each user, or for each address where users are not known, counted by this process
    alone, in windows of a minute.
    """

    def allow_request(self, request: Request, view: APIView) -> bool:
        limit, seconds = _rate(api_settings.DEFAULT_THROTTLE_RATES["user"])
        window, passed = divmod(time.time(), seconds)
        self._wait = seconds - passed
        # The address is that of the connection: a client can write anything into X-Forwarded-For.
        who = request.user.pk if request.user.is_authenticated else request.META.get("REMOTE_ADDR", "")
        return requests_counted.add(who, window) <= limit

    def wait(self) -> float:
        return self._wait


class Counts:
    """How often each did something in the current window of time; earlier ones are forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self._window, self._counts = 0.0, Counter[Any]()

    def add(self, who: Any, window: float) -> int:
        """Counts one more, and answers how many that makes."""
        with self._lock:
            if window != self._window:
                self._window, self._counts = window, Counter()
            self._counts[who] += 1
            return self._counts[who]


requests_counted = Counts()


def _rate(text: str) -> tuple[int, int]:
    """ "100/minute" as requests and seconds."""
    number, _, period = text.partition("/")
    return int(number), {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[period[0]]


class _GetResponse(Protocol):
    def __call__(self, request: HttpRequest, /) -> HttpResponseBase: ...


class EitherSlashMiddleware:
    """Lets every path be asked for with and without its last slash, without a redirect, which would lose a POST."""

    def __init__(self, get_response: _GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.path_info
        if not is_valid_path(given):
            other = given[:-1] if given.endswith("/") else f"{given}/"
            if is_valid_path(other):
                request.path = request.path[: len(request.path) - len(given)] + other
                request.path_info = other
        return self.get_response(request)


class ChunkedBodyMiddleware:
    """Reads a body that comes in chunks, at most as much as is allowed: without Content-Length Django sees none.

    A view class with `reads_stream = True` reads its body itself.
    """

    def __init__(self, get_response: _GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(
        self, request: WSGIRequest, view: Callable[..., Any], args: Any, kwargs: Any
    ) -> HttpResponse | None:
        is_chunked = request.META.get("HTTP_TRANSFER_ENCODING") and not request.META.get("CONTENT_LENGTH")
        if not is_chunked or getattr(getattr(view, "cls", None), "reads_stream", False):
            return None
        body = request.environ["wsgi.input"].read(settings.ENV.MAX_BODY_BYTES + 1)
        if len(body) > settings.ENV.MAX_BODY_BYTES:
            return too_large()
        request.META["CONTENT_LENGTH"] = str(len(body))
        request._stream = LimitedStream(BytesIO(body), len(body))
        return None
