"""A connection to a database that only reads is left for one that may take writes by now."""

from __future__ import annotations

import pytest
from celery import signals
from django.contrib.auth.models import Group
from django.db import InternalError, close_old_connections, connection

from orchestrator import tasks
from tests.api import Api

pytestmark = pytest.mark.django_db(transaction=True)


def backend() -> int:
    connection.ensure_connection()
    return int(connection.connection.info.backend_pid)


def lose_the_right_to_write() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")


def test_a_worker_asks_for_another_before_its_next_message() -> None:
    lose_the_right_to_write()
    before = backend()
    with pytest.raises(InternalError) as refused:
        Group.objects.create(name="too late")

    signals.task_failure.send(sender=None, exception=refused.value)
    tasks.renew_connection()

    Group.objects.create(name="in time")
    assert backend() != before


def test_other_errors_keep_the_connection() -> None:
    before = backend()

    signals.task_failure.send(sender=None, exception=ValueError("no"))
    tasks.renew_connection()

    assert backend() == before


def test_the_web_asks_for_another_after_the_request() -> None:
    api = Api()
    lose_the_right_to_write()

    first = api.post("/jobs", {"kind": "demo.slices", "payload": {"slices": 1}})
    close_old_connections()
    second = api.post("/jobs", {"kind": "demo.slices", "payload": {"slices": 1}})

    assert (first.status_code, second.status_code) == (503, 202)
