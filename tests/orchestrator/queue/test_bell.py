"""Bells: merged while unanswered, never waited for, and never a reason that a job is overlooked."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Task
from django.conf import settings
from django.core.cache import cache
from redis import Redis

from config.celery import app
from orchestrator import tasks
from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.queue import bell
from orchestrator.queue.bell import Doorbell, Ringer
from orchestrator.running import RunningJob
from orchestrator.submission import submit, submit_many
from orchestrator.worker import runner
from orchestrator.worker.leased import run_leased
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, MakeWorker, again, doorbell


class Published(list[str]):
    """The names of the messages that were sent, in order."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = threading.Event()
        self.open.set()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Published:
    sent = Published()

    def send(task: Task[Any, Any], *args: Any, **options: Any) -> str:
        sent.begun.set()
        assert sent.open.wait(PATIENCE_SECONDS)
        sent.append(task.name)
        return "sent"

    monkeypatch.setattr(Task, "apply_async", send)
    return sent


@pytest.fixture
def ringer() -> Ringer:
    return Ringer()


@pytest.fixture
def bells(kind: DeclareKind) -> Iterator[list[Kind]]:
    declared = [kind() for _ in range(3)]
    yield declared
    for each in declared:
        bell.mark_received(each.name)


def test_a_bell_is_one_message_that_carries_no_work(bells: list[Kind], published: Published, ringer: Ringer) -> None:
    ringer.ask(bells[0].name)

    assert ringer.wait_until_idle(PATIENCE_SECONDS)
    assert published == [bells[0].name]


class BrokenProducer:
    """One whose connection broke, as that of a Beat that has outlived a RabbitMQ."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError("Server unexpectedly closed connection")


def test_a_bell_is_not_sent_on_the_connection_that_its_sender_keeps(bells: list[Kind]) -> None:
    sent = doorbell(bells[0]).apply_async(producer=BrokenProducer())

    assert sent is not None


def test_bells_asked_for_while_one_is_published_merge(
    bells: list[Kind], published: Published, ringer: Ringer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell, "may_ring", lambda name: True)
    published.open.clear()
    ringer.ask(bells[0].name)
    assert published.begun.wait(PATIENCE_SECONDS)

    for _ in range(100):
        ringer.ask(bells[1].name)
        ringer.ask(bells[0].name)
    published.open.set()

    assert ringer.wait_until_idle(PATIENCE_SECONDS)
    assert sorted(published) == sorted([bells[0].name, bells[0].name, bells[1].name])


def test_while_a_message_is_outstanding_no_second_one_is_sent(bells: list[Kind], published: Published) -> None:
    answers = [doorbell(bells[0]).apply_async() for _ in range(3)]
    doorbell(bells[1]).apply_async()

    assert answers == ["sent", None, None]
    assert published == [bells[0].name, bells[1].name]


def test_bells_asked_for_while_one_is_outstanding_are_checked_together(
    bells: list[Kind], published: Published, ringer: Ringer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    resting, rested = threading.Event(), threading.Event()

    def rest(seconds: float) -> None:
        resting.set()
        assert rested.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(bell, "may_ring", lambda name: looks.append(name))
    monkeypatch.setattr("orchestrator.queue.bell.time.sleep", rest)
    ringer.ask(bells[0].name)
    assert resting.wait(PATIENCE_SECONDS)

    for _ in range(100):
        ringer.ask(bells[0].name)
    rested.set()

    assert ringer.wait_until_idle(PATIENCE_SECONDS)
    assert looks == [bells[0].name] * 2
    assert published == []


def test_a_bell_that_was_received_may_ring_again(bells: list[Kind], published: Published) -> None:
    doorbell(bells[0]).apply_async()

    bell.mark_received(bells[0].name)
    doorbell(bells[0]).apply_async()

    assert len(published) == 2


def test_a_bell_is_marked_as_received_though_a_connection_turns_out_to_be_broken(
    bells: list[Kind], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, failures, delete = bells[0].name, [BrokenPipeError("broken")], cache.delete

    def break_once(key: str) -> bool:
        if failures:
            raise failures.pop()
        return delete(key)

    assert bell.may_ring(name)
    monkeypatch.setattr(cache, "delete", break_once)

    bell.mark_received(name)

    assert bell.may_ring(name)


def test_a_lost_message_holds_up_the_next_for_a_moment_only(bells: list[Kind], published: Published) -> None:
    doorbell(bells[0]).apply_async()

    expires_in = Redis.from_url(str(settings.CACHES["default"]["LOCATION"])).ttl(
        cache.make_key(f"bell:{bells[0].name}")
    )

    assert 0 < expires_in <= bell.OUTSTANDING_SECONDS


def test_a_message_that_could_not_be_sent_does_not_count_as_outstanding(
    bells: list[Kind], published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(task: Task[Any, Any], *args: Any, **options: Any) -> None:
        raise ConnectionError("no broker")

    with monkeypatch.context() as down:
        down.setattr(Task, "apply_async", refuse)
        with pytest.raises(ConnectionError):
            doorbell(bells[0]).apply_async()

    assert doorbell(bells[0]).apply_async() == "sent"


def test_a_bell_that_fails_does_not_hold_up_the_others(
    bells: list[Kind], published: Published, ringer: Ringer, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Doorbell.apply_async

    def fail_for_one(task: Doorbell, *args: Any, **options: Any) -> Any:
        if task.name == bells[0].name:
            raise ConnectionError("no broker")
        return send(task, *args, **options)

    monkeypatch.setattr(Doorbell, "apply_async", fail_for_one)
    for each in bells:
        ringer.ask(each.name)

    assert ringer.wait_until_idle(PATIENCE_SECONDS)
    assert sorted(published) == sorted([bells[1].name, bells[2].name])


def test_a_bell_of_a_kind_that_this_process_does_not_know_is_left_to_others(
    bells: list[Kind], published: Published, ringer: Ringer
) -> None:
    ringer.ask("declared.nowhere")
    ringer.ask(bells[0].name)

    assert ringer.wait_until_idle(PATIENCE_SECONDS)
    assert published == [bells[0].name]


def test_without_a_cache_every_bell_is_rung(
    bells: list[Kind], published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no cache")

    monkeypatch.setattr(cache, "add", away)
    monkeypatch.setattr(cache, "delete", away)

    doorbell(bells[0]).apply_async()
    bell.mark_received(bells[0].name)
    doorbell(bells[0]).apply_async()

    assert len(published) == 2


def test_a_bell_is_marked_as_received_before_the_claim(
    bells: list[Kind], make_worker: MakeWorker, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[Job] = []
    claimed_at_first = threading.Event()
    claim = run_leased

    def claim_then_submit(kind: Kind, process: WorkerProcess, **options: Any) -> int:
        ran = claim(kind, process, **options)
        if not ran and not claimed_at_first.is_set():
            claimed_at_first.set()
            late.append(submit(kind))
            assert bell.wait_until_rung(PATIENCE_SECONDS)
        return ran

    worker = make_worker()
    monkeypatch.setattr(runner, "current_process", lambda: worker)
    monkeypatch.setattr(runner, "run_leased", claim_then_submit)
    doorbell(bells[0]).apply_async()
    published.clear()

    runner.handle_bell(bells[0])

    assert again(late[0]).status == "CREATED"
    assert published == [bells[0].name], "the job that came too late for the claim has a bell of its own"


def test_a_bells_worker_rings_for_the_rest_before_starting_work(
    kind: DeclareKind, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[str] = []
    seen: list[int] = []
    waiting = kind(lambda running: seen.append(len(rung)))
    for _ in range(2):
        submit(waiting)
    monkeypatch.setattr(bell, "ring", rung.append)
    worker = make_worker()
    monkeypatch.setattr(runner, "current_process", lambda: worker)

    runner.handle_bell(waiting)

    assert seen == [1, 1], "one for the second job, none after it"


def test_a_bell_runs_jobs_until_nothing_is_ready(
    kind: DeclareKind, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = kind()
    jobs = [submit(waiting) for _ in range(5)]
    worker = make_worker()
    monkeypatch.setattr(runner, "current_process", lambda: worker)

    runner.handle_bell(waiting)

    assert {again(job).status for job in jobs} == {"COMPLETED"}


def test_a_time_slice_that_is_spent_rings_for_the_rest(
    kind: DeclareKind, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[str] = []
    clock = iter(range(0, 100, 1))
    waiting = kind(execution="transactional", batch_size=2)
    jobs = [submit(waiting) for _ in range(5)]
    worker = make_worker()
    monkeypatch.setattr(runner, "current_process", lambda: worker)
    monkeypatch.setattr("orchestrator.worker.runner.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(bell, "ring", rung.append)

    runner.handle_bell(waiting)

    assert sum(again(job).status == "COMPLETED" for job in jobs) == 2
    assert rung[-1] == waiting.name


class Gathering(threading.Event):
    """Whether to stop, for a worker that is not told to: `meanwhile` happens each time it lets work gather."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self.meanwhile = meanwhile
        self.times = 0

    def wait(self, timeout: float | None = None) -> bool:
        if timeout == runner.GATHER_SECONDS:
            self.times += 1
            self.meanwhile()
        return super().wait(0)


def test_jobs_that_come_one_by_one_share_a_batch_with_those_that_come_soon_after(
    kind: DeclareKind, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def add(jobs: list[RunningJob]) -> list[int]:
        batches.append(len(jobs))
        return [0] * len(jobs)

    adding = kind(add, execution="transactional", takes_batch=True)
    submit(adding)
    worker = make_worker()
    more = iter([3, 0])
    worker.draining = Gathering(lambda: submit_many(adding, [{}] * next(more)))
    monkeypatch.setattr(runner, "current_process", lambda: worker)

    runner.handle_bell(adding)

    assert batches == [1, 3]


def test_nothing_is_waited_for_while_more_is_ready(
    kind: DeclareKind, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = kind(execution="transactional", batch_size=2)
    submit_many(full, [{}] * 4)
    alone = kind(execution="transactional", batch_size=3)
    ids = submit_many(alone, [{}] * 2)
    Job.objects.filter(id__in=ids).update(runs_alone=True)
    worker = make_worker()
    worker.draining = Gathering(lambda: None)
    monkeypatch.setattr(runner, "current_process", lambda: worker)

    runner.handle_bell(full)
    runner.handle_bell(alone)

    assert set(Job.objects.values_list("status", flat=True)) == {"COMPLETED"}
    assert worker.draining.times == 0


def test_a_process_without_a_row_claims_nothing(
    kind: DeclareKind, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = kind()
    job = submit(waiting)
    worker = make_worker()
    worker.lease.registered.clear()
    monkeypatch.setattr(runner, "REGISTRATION_SECONDS", 0)
    monkeypatch.setattr(runner, "current_process", lambda: worker)

    runner.handle_bell(waiting)

    assert again(job).status == "CREATED"


UNREACHABLE = """
import django, time
django.setup()
from orchestrator.queue import bell
from orchestrator.kinds import all_kinds
began = time.monotonic()
for kind in all_kinds():
    bell.ring(kind.name)
print(time.monotonic() - began)
"""


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:1/0", "redis://192.0.2.1:6379/0"])
def test_ringing_returns_at_once_while_the_broker_is_down_or_silent(broker: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", UNREACHABLE],
        env={**os.environ, "BROKER_URL": broker, "LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert float(ended.stdout) < 0.5


FORKED_WHILE_ANOTHER_THREAD_RINGS = """
import django, os, threading
django.setup()
from orchestrator.queue import bell
from orchestrator.kinds import all_kinds
first, second, *_ = all_kinds()
beginning, forked, ringer = threading.Event(), threading.Event(), bell.Ringer
def begin():
    beginning.set()
    forked.wait()
    return ringer()
bell.Ringer = begin
threading.Thread(target=bell.ring, args=[first.name], daemon=True).start()
beginning.wait()
child = os.fork()
if child == 0:
    bell.Ringer = ringer
    bell.ring(second.name)
    os._exit(0 if bell.wait_until_rung(20) else 1)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
"""

FORKED = """
import django, os
django.setup()
from orchestrator.queue import bell
from orchestrator.kinds import all_kinds
first, second, *_ = all_kinds()
bell.ring(first.name)
assert bell.wait_until_rung(20)
child = os.fork()
if child == 0:
    bell.mark_received(second.name)
    bell.ring(second.name)
    idle = bell.wait_until_rung(20)
    from django.core.cache import cache
    os._exit(0 if idle and cache.get(f"bell:{second.name}") else 1)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("program", [FORKED, FORKED_WHILE_ANOTHER_THREAD_RINGS], ids=["forked", "while ringing"])
def test_a_forked_child_rings_by_itself(program: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env={**os.environ}
    )

    assert ended.stdout.strip() == "0"


def test_a_message_reaches_the_kinds_own_queue_and_wakes_that_kind(
    kind: DeclareKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[str] = []
    monkeypatch.setattr(tasks, "handle_bell", lambda kind: answered.append(kind.name))
    io = kind(queue="io")

    doorbell(io).apply(("an argument of a newer release",), {"unknown": 1})

    assert answered == [io.name]
    assert app.amqp.router.route({}, io.name, task_type=type(doorbell(io)))["queue"].name == "io"


def test_a_bell_takes_no_time_when_there_is_nothing_to_run(
    kind: DeclareKind, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker()
    monkeypatch.setattr(runner, "current_process", lambda: worker)
    began = time.monotonic()

    runner.handle_bell(kind())

    assert time.monotonic() - began < 1
