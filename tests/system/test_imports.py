"""What each program imports and what it leaves out: modules are most of the memory of an idle process."""

from __future__ import annotations

import re
import sys

import pytest

from tests.system.test_start import OURS, start

IMPORTED = re.compile(r"^import '([\w.]+)' #", re.MULTILINE)
# Celery's shell, Flower, the web's framework, and our own pages.
OF_NO_USE_TO_A_WORKER = {
    *("opentelemetry.trace", "opentelemetry.sdk.trace", "structlog", "sentry_sdk"),  # By default.
    *("prompt_toolkit", "flower", "tornado", "rest_framework.views", "drf_spectacular.views", "unfold.admin"),
    *(
        "config.refusals",
        "config.urls",
        "orchestrator.admin",
        "orchestrator.http.job_views",
        "scheduler.http.task_serializers",
    ),
}


def imported(*words: str) -> set[str]:
    """The modules that Python imports for the command, which soon ends."""
    ended = start(sys.executable, "-v", *words, DJANGO_SETTINGS_MODULE="config.settings")
    modules = set(IMPORTED.findall(ended.stderr))
    assert "config.settings" in modules, ended.stderr[-1_000:]
    return modules


@pytest.mark.parametrize("command", [("worker", "-Q", "nowhere"), ("beat", "--help")], ids=["worker", "beat"])
def test_workers_and_beat_import_the_jobs_and_not_the_web(command: tuple[str, ...]) -> None:
    modules = imported(*OURS[1:], *command)

    assert {"orchestrator.jobs", "scheduler.jobs", "ingestion.jobs"} <= modules
    assert not modules & OF_NO_USE_TO_A_WORKER


def test_flower_imports_the_broker_and_not_django() -> None:
    modules = imported(*OURS[1:], "flower", "--address=an address that is none")

    assert {"config.celery", "flower.app"} <= modules
    assert not modules & {"django.apps", "django.conf", "django.db", "orchestrator", "prompt_toolkit"}


def test_the_web_server_has_every_page_before_the_first_request() -> None:
    modules = imported("-c", "import config.wsgi")

    # redis imports OpenTelemetry's API by itself, where it is installed.
    assert not modules & {"opentelemetry.sdk.trace", "structlog", "sentry_sdk"}
    assert {
        "orchestrator.admin",
        "scheduler.admin",
        "ingestion.admin",
        "knox.admin",
        "orchestrator.http.job_views",
    } <= modules


def test_djangos_checks_of_the_admin_read_every_page() -> None:
    modules = imported("manage.py", "check", "--tag", "admin")

    assert "config.urls" not in modules
    assert {"orchestrator.admin", "scheduler.admin", "ingestion.admin", "knox.admin"} <= modules
