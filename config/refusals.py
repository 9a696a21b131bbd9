"""The one table from refusals to HTTP, and what every error becomes: a problem (RFC 9457), with no traceback."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import DisallowedHost, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.http.request import UnreadablePostError
from django.views import defaults
from rest_framework import exceptions

from access.permissions import NotPermitted
from config.admin import is_of_admin
from orchestrator.client_limits import QuotaExceeded
from orchestrator.database_errors import is_read_only, leave_read_only
from orchestrator.graphs.checks import BadGraph
from orchestrator.http.idempotency import BadKey, IdempotencyKeyReused
from orchestrator.http.requests import BadInput, problems_in
from orchestrator.http.responses import problem, shortened
from orchestrator.http.strict_json import BadJSON
from orchestrator.kind_problems import BadConcurrencyKey, BadPayload, InternalKind, Problem, UnknownKind
from orchestrator.limits import BadLimit
from orchestrator.live.watching import TooManyWatchers, TooManyWatchersOfUser
from orchestrator.models import Delivery, Job, Kind, Notification
from orchestrator.notifications.services import BadNotification, NotRepeatable
from orchestrator.queue.pausing import UnknownQueue
from orchestrator.signalling import AlreadySent, BadSignal, NotAwaited
from orchestrator.steering.changing import NotChangeable
from orchestrator.steering.selection import BadFilter
from orchestrator.submission import BadSubmission, NotCancellable, NotRetryable, NotUnique, TooManyUnfinished
from scheduler.models import Calendar, Task, TaskSchedule
from scheduler.recurrence.rules import BadRecurrence
from scheduler.services.backfills import BadBackfill
from scheduler.services.calendars import CalendarInUse
from scheduler.services.schedules import DeclaredInCode
from scheduler.services.tasks import NotEnded, NotPending

logger = logging.getLogger(__name__)

# When to try again what failed for no fault of the client's.
UNAVAILABLE_RETRY_SECONDS = 5


class Refusal(NamedTuple):
    """What an exception becomes for the client: a status, the last part of an RFC 9457 type, and a title."""

    status: HTTPStatus
    type: str
    title: str
    detail: str = ""  # That of the exception if not given here.


BAD_INPUT = Refusal(HTTPStatus.BAD_REQUEST, "bad-input", "Invalid request")

# The one table from refusals to HTTP. An exception that is not listed here is a surprise: 500.
REFUSALS: dict[type[BaseException], Refusal] = {
    BadInput: BAD_INPUT,
    BadJSON: BAD_INPUT,
    BadConcurrencyKey: BAD_INPUT,
    BadPayload: BAD_INPUT,
    BadSubmission: BAD_INPUT,
    BadGraph: BAD_INPUT,
    BadSignal: BAD_INPUT,
    BadKey: BAD_INPUT,
    BadFilter: BAD_INPUT,
    BadNotification: BAD_INPUT,
    BadRecurrence: BAD_INPUT,
    BadBackfill: BAD_INPUT,
    NotPermitted: Refusal(HTTPStatus.FORBIDDEN, "not-permitted", "Not permitted"),
    UnknownKind: Refusal(HTTPStatus.BAD_REQUEST, "unknown-kind", "Unknown kind of job"),
    InternalKind: Refusal(HTTPStatus.BAD_REQUEST, "internal-kind", "This kind of job cannot be submitted by clients"),
    Job.DoesNotExist: Refusal(
        HTTPStatus.NOT_FOUND, "no-such-job", "Job not found", "No job has this id, or you may not see it."
    ),
    UnknownQueue: Refusal(HTTPStatus.NOT_FOUND, "no-such-queue", "Queue not found"),
    Task.DoesNotExist: Refusal(
        HTTPStatus.NOT_FOUND,
        "no-such-task",
        "Task not found",
        "No task has this id, or you may not see it.",
    ),
    TaskSchedule.DoesNotExist: Refusal(
        HTTPStatus.NOT_FOUND,
        "no-such-schedule",
        "Schedule not found",
        "No schedule has this id, or you may not see it.",
    ),
    Notification.DoesNotExist: Refusal(
        HTTPStatus.NOT_FOUND,
        "no-such-notification",
        "Notification not found",
        "No notification has this id, or you may not see it.",
    ),
    Delivery.DoesNotExist: Refusal(
        HTTPStatus.NOT_FOUND, "no-such-delivery", "Delivery not found", "The notification has no delivery of this id."
    ),
    NotRepeatable: Refusal(HTTPStatus.CONFLICT, "not-repeatable", "The message cannot be sent again yet"),
    Calendar.DoesNotExist: Refusal(
        HTTPStatus.NOT_FOUND, "no-such-calendar", "Calendar not found", "No calendar has this name."
    ),
    DeclaredInCode: Refusal(HTTPStatus.CONFLICT, "declared-in-code", "The schedule cannot be deleted"),
    CalendarInUse: Refusal(HTTPStatus.CONFLICT, "calendar-in-use", "The calendar cannot be deleted"),
    Kind.DoesNotExist: Refusal(
        HTTPStatus.NOT_FOUND,
        "no-such-kind",
        "Kind not found",
        "No kind has this name, or no worker has reported it yet; GET /kinds lists the kinds.",
    ),
    BadLimit: BAD_INPUT,
    NotPending: Refusal(HTTPStatus.CONFLICT, "not-pending", "The task cannot be cancelled"),
    NotEnded: Refusal(HTTPStatus.CONFLICT, "not-ended", "The task cannot be run again yet"),
    NotCancellable: Refusal(HTTPStatus.CONFLICT, "not-cancellable", "The job cannot be cancelled"),
    NotRetryable: Refusal(HTTPStatus.CONFLICT, "not-retryable", "The job cannot be retried"),
    NotChangeable: Refusal(HTTPStatus.CONFLICT, "not-changeable", "The job cannot be changed any more"),
    NotUnique: Refusal(HTTPStatus.CONFLICT, "not-unique", "There is such a unique job already"),
    NotAwaited: Refusal(HTTPStatus.CONFLICT, "not-awaited", "Nothing waits for this signal"),
    AlreadySent: Refusal(HTTPStatus.CONFLICT, "already-sent", "The signal was sent already"),
    IdempotencyKeyReused: Refusal(
        HTTPStatus.UNPROCESSABLE_ENTITY, "key-used-otherwise", "Idempotency-Key already used"
    ),
    QuotaExceeded: Refusal(HTTPStatus.TOO_MANY_REQUESTS, "quota-exceeded", "More than one client may have"),
    TooManyUnfinished: Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too-many-unfinished", "Too many unfinished jobs"),
    TooManyWatchersOfUser: Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too-many-watchers", "Too many event streams"),
    TooManyWatchers: Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too-many-watchers", "Too many event streams"),
}


def problem_response(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """Any exception of an API view as a problem. No traceback leaves: that of a surprise is in the log."""
    for kind in type(error).__mro__:
        if refusal := REFUSALS.get(kind):
            return _refusal_response(error, refusal)
    if isinstance(error, exceptions.APIException):
        return _rest_framework_response(error)
    if isinstance(error, Http404):
        return problem(404, "Not found." if not error.args else str(error.args[0]))
    if isinstance(error, PermissionDenied):
        return problem(403, "You are not allowed to do this.")
    if isinstance(error, RequestDataTooBig):
        return _too_large()
    if isinstance(error, UnreadablePostError):
        return _unreadable(error)
    if isinstance(error, SuspiciousOperation):
        return problem(400, _bad_request_detail(error))
    if isinstance(error, (OperationalError, InterfaceError)) or is_read_only(error):
        leave_read_only(error)
        return _unavailable(error)
    request = context["request"]
    logger.error("%s %s failed", request.method, request.path, exc_info=error)
    return _internal_error()


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
        where=where,
        errors=problems,
        headers=headers,
    )


def _in_words(problems: Sequence[Problem]) -> str:
    """The first problems as one text."""
    first = map(shortened, problems[:3])
    return " ".join(f"{each.pointer}: {each.detail}" if each.pointer else each.detail for each in first)


def _rest_framework_response(error: exceptions.APIException) -> HttpResponse:
    headers = dict(getattr(error, "headers", {}))
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = str(wait)
    if isinstance(error, exceptions.ValidationError):
        return _refusal_response(BadInput("", list(problems_in(error.detail))), BAD_INPUT)
    detail = str(error.detail)
    if isinstance(error, exceptions.UnsupportedMediaType):
        detail += " Send JSON with its content type: curl --json '{…}', or -H 'Content-Type: application/json'."
    elif isinstance(error, exceptions.NotAcceptable):
        detail += f" This is available as {' or '.join(each.media_type for each in error.available_renderers or ())}."
    elif isinstance(error, exceptions.NotAuthenticated):
        detail += " Send 'Authorization: Bearer TOKEN'; `manage.py token USERNAME` creates one."
    return problem(error.status_code, detail, headers=headers)


def _unreadable(error: UnreadablePostError) -> HttpResponse:
    if isinstance(error.__cause__, TimeoutError):
        return problem(408, str(error))
    return problem(400, "The connection closed before the whole body had arrived.")


def _unavailable(error: Exception) -> HttpResponse:
    logger.error("The database failed a request: %s", error)
    return problem(
        503,
        "The database is unreachable, read-only, or too slow. Try again; with the same "
        "Idempotency-Key nothing is done twice.",
        headers={"Retry-After": str(UNAVAILABLE_RETRY_SECONDS)},
    )


def _internal_error() -> HttpResponse:
    return problem(500, "Internal error. The server's log has the details.")


def _too_large() -> HttpResponse:
    return problem(413, f"A request body may have at most {settings.ENV.MAX_BODY_BYTES:,} bytes.")


def _bad_request_detail(error: Exception) -> str:
    if isinstance(error, DisallowedHost):
        return "The Host header is not in ALLOWED_HOSTS."
    return "The request is malformed."


# Django's handlers, for what fails outside any API view. The admin's errors stay pages.


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, RequestDataTooBig):
        return _too_large()
    return problem(400, _bad_request_detail(exception))


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if is_of_admin(request):
        return defaults.permission_denied(request, exception)
    return problem(403, "You are not allowed to do this.")


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if is_of_admin(request):
        return defaults.page_not_found(request, exception)
    return problem(404, f"There is no path {request.path[:200]!r}; /swagger/ lists all paths.")


def server_error(request: HttpRequest) -> HttpResponseBase:
    return defaults.server_error(request) if is_of_admin(request) else _internal_error()
