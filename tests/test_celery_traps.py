"""What docs/celery-traps.md says: that its tests exist, and that what it says is not used is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.celery import app
from orchestrator.queue.bell import Doorbell

BASE_DIR = Path(__file__).resolve().parent.parent
DOCUMENTS = ("docs/celery-traps.md", "docs/rabbitmq.md")
APPS = ("config", "orchestrator", "scheduler", "ingestion")
# What would hand work, time or state to Celery.
NOT_OURS = {"chain", "chord", "group", "chunks", "starmap", "signature", "AsyncResult", "GroupResult"}
NOT_OUR_OPTIONS = {"countdown", "eta", "link", "link_error", "retry_policy", "autoretry_for", "acks_late"}
NOT_OUR_CALLS = {"revoke", "retry", "delay"}


def named_tests() -> list[tuple[str, str]]:
    text = "".join((BASE_DIR / document).read_text() for document in DOCUMENTS)
    return re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", text)


@pytest.mark.parametrize(("path", "name"), sorted(set(named_tests())))
def test_every_test_that_the_table_of_traps_names_exists(path: str, name: str) -> None:
    tree = ast.parse((BASE_DIR / path).read_text())

    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}

    assert not name or name in names


def test_of_celery_only_doorbells_are_used() -> None:
    tasks = {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}

    # The one that Beat's admin runs by hand makes tasks, which are rows.
    assert {name for name, task in tasks.items() if not isinstance(task, Doorbell)} == {"scheduler.fire"}
    assert {used for node in our_code() for used in names_used(node)} & (NOT_OURS | NOT_OUR_CALLS) == set()
    assert {
        word.arg for node in our_code() if isinstance(node, ast.Call) for word in node.keywords
    } & NOT_OUR_OPTIONS == set()


def our_code() -> Iterator[ast.AST]:
    for folder in APPS:
        for path in (BASE_DIR / folder).rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text()))


def names_used(node: ast.AST) -> set[str]:
    """Names imported from Celery, and methods called that a task or its result would have."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("celery"):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.Attribute) and node.attr in NOT_OUR_CALLS and isinstance(node.value, ast.Attribute):
        return {node.attr} if node.value.attr in ("task", "control") else set()
    return set()


def test_messages_are_acknowledged_early_and_carry_no_result() -> None:
    conf = app.conf

    assert (conf.task_acks_late, conf.task_reject_on_worker_lost) == (False, None)
    assert conf.result_backend is None
    assert conf.task_ignore_result
    assert (conf.task_serializer, list(conf.accept_content)) == ("json", ["json"])
    assert conf.worker_cancel_long_running_tasks_on_connection_loss is False
    assert (conf.broker_connection_retry_on_startup, conf.broker_connection_max_retries) == (True, None)
    assert conf.task_create_missing_queues is False
    assert (conf.worker_max_tasks_per_child, conf.worker_max_memory_per_child) == (None, None)
