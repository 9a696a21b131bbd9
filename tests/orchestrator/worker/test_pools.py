"""The pool of a worker is that which its queues declare."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency import get_implementation

from config.queues import CONTROL, Queue
from orchestrator.worker.pools import give_declared_pool

QUEUES = {
    "default": Queue("default", "prefork", 2),
    "io": Queue("io", "threads", 32),
    "mail": Queue("mail", "threads", 8),
    "gpu": Queue("gpu", "prefork", 1, 100, 500_000),
    "control": CONTROL,
}


@pytest.fixture(autouse=True)
def declared(settings: Any) -> None:
    settings.SERVED_QUEUES = QUEUES


def worker(*queues: str, pool: str = "prefork", **given: Any) -> Any:
    """A Celery worker that begins, with what its command line says."""
    options = {"concurrency": None, "max_tasks_per_child": None, "max_memory_per_child": None, **given}
    amqp = SimpleNamespace(queues=SimpleNamespace(consume_from=dict.fromkeys(queues)))
    return SimpleNamespace(
        app=SimpleNamespace(amqp=amqp),
        options=options,
        pool_cls=get_implementation(pool),
        **{name: value or 4 for name, value in options.items()},
    )


@pytest.mark.parametrize(
    ("queues", "module", "size", "limits"),
    [
        (["default"], "orchestrator.worker.children", 2, (None, None)),
        (["gpu"], "orchestrator.worker.children", 1, (100, 500_000)),
        (["default", "gpu"], "orchestrator.worker.children", 3, (100, 500_000)),
        (["io"], "celery.concurrency.thread", 32, (None, None)),
        (["io", "mail"], "celery.concurrency.thread", 40, (None, None)),
        (["control"], "celery.concurrency.solo", 1, (None, None)),
    ],
)
def test_a_worker_has_the_pool_and_the_size_of_its_queues(
    queues: list[str], module: str, size: int, limits: tuple[int | None, int | None]
) -> None:
    given = worker(*queues)

    give_declared_pool(given)

    assert given.pool_cls.__module__ == module
    assert given.concurrency == size
    assert (given.max_tasks_per_child, given.max_memory_per_child) == limits


def test_the_command_line_may_give_another_size_and_other_limits() -> None:
    given = worker("gpu", concurrency=3, max_tasks_per_child=5, max_memory_per_child=7)

    give_declared_pool(given)

    assert (given.concurrency, given.max_tasks_per_child, given.max_memory_per_child) == (3, 5, 7)


def test_the_declared_pool_may_be_given() -> None:
    given = worker("io", pool="threads", concurrency=8)

    give_declared_pool(given)

    assert (given.pool_cls.__module__, given.concurrency) == ("celery.concurrency.thread", 8)


def test_another_pool_than_the_declared_one_is_refused() -> None:
    with pytest.raises(SystemExit, match="QUEUES declares gpu with the pool prefork, so leave out -P"):
        give_declared_pool(worker("gpu", pool="threads"))


def test_queues_of_different_pools_are_refused() -> None:
    described = r"control \(solo\), default \(prefork\), io \(threads\)"

    with pytest.raises(SystemExit, match=f"-Q has to name queues of one pool, not {described}"):
        give_declared_pool(worker("default", "io", "control"))
