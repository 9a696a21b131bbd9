"""The log as JSON: each line names the request or the attempt that it is about."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from django.utils.functional import SimpleLazyObject
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from orchestrator.http.request_context import RequestIdMiddleware
from orchestrator.running import RunningJob
from orchestrator.submission import submit
from orchestrator.telemetry import json_lines
from orchestrator.worker.process import WorkerProcess
from tests.api import Api, as_user, asks_for_tokens
from tests.orchestrator.workbench import DeclareKind, run

__all__ = ["as_user", "asks_for_tokens"]

BOTH = pytest.mark.parametrize("execution", ["leased", "transactional"])
MIDDLEWARE = ["orchestrator.http.request_context.RequestIdMiddleware", *django_settings.MIDDLEWARE]

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What a process with LOG_FORMAT=json has logged."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(json_lines.formatter())
    logging.root.addHandler(handler)
    with override_settings(MIDDLEWARE=MIDDLEWARE):
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.root.removeHandler(handler)


@BOTH
def test_every_line_of_an_attempt_names_it(
    execution: Any, kind: DeclareKind, worker: WorkerProcess, lines: Lines
) -> None:
    def handler(running: RunningJob) -> None:
        running.log.warning("by its own log", extra={"path": "/a.txt"})
        logging.getLogger("library").warning("by a library's")
        thread = threading.Thread(target=running.log.warning, args=["in a thread"])
        thread.start()
        thread.join()
        raise ValueError("no")

    failing = kind(handler, execution=execution, max_attempts=1)
    job = submit(failing, owner="ada")

    run(failing, worker)

    found = [line for line in lines() if line["level"] in ("WARNING", "ERROR")]
    named = {"job_id": str(job.id), "attempt": 1, "kind": failing.name, "owner": "ada"}
    assert [named.items() <= line.items() for line in found] == [True] * 4
    own, library, in_thread, failed = found
    assert (own["message"], own["path"]) == ("by its own log", "/a.txt")
    assert (library["logger"], library["message"]) == ("library", "by a library's")
    assert in_thread["message"] == "in a thread"
    assert (failed["level"], failed["outcome"]) == ("ERROR", "RAISED")
    assert 'raise ValueError("no")' in failed["exception"]


@pytest.mark.usefixtures("asks_for_tokens")
def test_every_line_of_a_request_names_it_and_whose_it_is(as_user: Callable[..., Api], lines: Lines) -> None:
    given = as_user("ada").get("/jobs?nothing=1", x_request_id="from-the-proxy-1")
    made = Api().get("/jobs")

    refused, unauthorized = [line for line in lines() if line["logger"] == "django.request"]
    assert given["X-Request-ID"] == refused["request_id"] == "from-the-proxy-1"
    assert made["X-Request-ID"] == unauthorized["request_id"]
    assert len(made["X-Request-ID"]) == 32
    assert (refused["owner"], refused["status_code"]) == ("ada", 400)
    assert (unauthorized["owner"], unauthorized["status_code"]) == ("", 401)


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", "é"])
def test_an_id_that_could_not_be_searched_for_is_replaced(given: str) -> None:
    request = RequestFactory().get("/", headers={"X-Request-ID": given})

    response = RequestIdMiddleware(lambda request: HttpResponse())(request)

    assert len(response["X-Request-ID"]) == 32


def test_a_user_who_is_not_known_yet_is_not_asked_for(lines: Lines) -> None:
    """The session's user would be looked up in the database, perhaps by the line that says that it is away."""

    def view(request: HttpRequest) -> HttpResponse:
        request.user = SimpleLazyObject(lambda: 1 / 0)  # type: ignore[assignment]
        logging.getLogger("view").warning("early")
        return HttpResponse()

    RequestIdMiddleware(view)(RequestFactory().get("/"))

    assert [(line["message"], line["owner"]) for line in lines()] == [("early", "")]


def test_a_line_within_a_span_names_its_trace(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)

    with trace.get_tracer("test").start_as_current_span("outer") as span:
        logging.getLogger("any").warning("inside")

    [line] = lines()
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert line["span_id"] == f"{span.get_span_context().span_id:016x}"


def test_whatever_is_logged_is_one_line_of_json(lines: Lines) -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    log = logging.getLogger("any")
    log.warning("two\nlines \udc80", extra={"event": "its own", "level": "mine", "object": Mute(), "kind": "k"})
    try:
        raise Silent
    except Silent:
        log.exception("failed")

    first, second = lines()
    assert (first["message"], first["level"], first["kind"]) == ("two\nlines \udc80", "WARNING", "k")
    assert first["object"] == "<Mute>"
    assert "Silent" in second["exception"]
