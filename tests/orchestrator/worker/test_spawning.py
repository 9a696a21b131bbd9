"""Jobs that add children while they run, and go on when those have ended."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from django.conf import settings
from django.contrib.auth.models import AnonymousUser

from orchestrator import queries, submission
from orchestrator.async_running import AsyncRunningJob
from orchestrator.diagnostics.queries import names
from orchestrator.doctor.jobs import MISCOUNTED, OVERDUE
from orchestrator.inputs import BadSubmission
from orchestrator.kind_problems import BadPayload, UnknownKind
from orchestrator.kinds import Kind
from orchestrator.models import Attempt, Job
from orchestrator.queue import pipelines
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import Cancelled, RunningJob
from orchestrator.spawning import AfterChildren, ChildEnd
from orchestrator.submission import submit
from orchestrator.testing import drain, fake_job, run_now
from orchestrator.upkeep import tick
from orchestrator.worker import runner
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, claim, complete, fail, lease, run, write, written

MakeParent = Callable[..., Kind]


@pytest.fixture
def child(kind: DeclareKind) -> Kind:
    """Returns ten times its payload; fails if that is negative."""

    def handler(running: RunningJob, payload: int) -> int:
        if payload < 0:
            raise ValueError("below zero")
        return payload * 10

    return kind(handler, payload=int, max_attempts=1, backoff_seconds=0)


@pytest.fixture
def parent(kind: DeclareKind, child: Kind) -> MakeParent:
    """Declares kinds that add a child for each number of their payload, and return what those have returned."""

    def declare(on_failure: Any = "fail", **options: Any) -> Kind:
        def handler(running: RunningJob, payload: list[int]) -> Any:
            write(f"attempt {running.attempt}")
            for number in payload:
                running.spawn(child, number, on_failure=on_failure)
            return running.after_children(gather)

        declared = kind(handler, payload=list[int], **{"max_attempts": 1, "backoff_seconds": 0} | options)

        @declared.after_children
        def gather(running: RunningJob) -> list[Any]:
            write("gathered")
            return [each.result if each.status == "COMPLETED" else each.error for each in running.children]

        return declared

    return declare


def children(job: Job) -> list[Job]:
    return list(Job.objects.filter(parent=job.id).order_by("id"))


def counters_are_right() -> bool:
    return names(MISCOUNTED, overdue=OVERDUE, most=100) == []


@pytest.mark.parametrize("atomic", [True, False])
def test_a_job_goes_on_with_the_results_of_the_children_that_it_has_added(
    atomic: bool, parent: MakeParent, child: Kind, worker: WorkerProcess
) -> None:
    declared = parent(atomic=atomic)
    job = submit(declared, [3, 1, 2], owner="ada", priority=2)

    run(declared, worker)
    waiting = again(job)
    drain(worker=worker)

    assert (waiting.status, waiting.ready, waiting.worker_id, waiting.unfinished_dependencies) == (
        "RUNNING", False, None, 3
    )  # fmt: skip
    assert (again(job).status, again(job).result) == ("COMPLETED", [30, 10, 20])
    assert [(each.name, each.owner, each.priority) for each in children(job)] == [
        (f"child[{place}]", "ada", 2) for place in range(3)
    ]
    assert all(each.id < job.id for each in children(job))
    assert written() == {"attempt 1", "gathered"}
    assert not Attempt.objects.exists()


def test_an_async_job_adds_children_likewise(kind: DeclareKind, child: Kind, worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob, payload: list[int]) -> Any:
        for number in payload:
            running.spawn(child, number)
        return running.after_children(gather)

    declared = kind(handler, payload=list[int], queue="io", max_attempts=1)

    @declared.after_children
    async def gather(running: AsyncRunningJob) -> list[Any]:
        return [each.result for each in await running.children()]

    assert run_now(declared, [5, 6], worker=worker) == [50, 60]


def test_without_a_function_to_go_on_with_the_handler_is_called_again(
    kind: DeclareKind, child: Kind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> Any:
        rounds = len(running.children)
        if rounds == 3:
            return [each.result for each in running.children]
        running.spawn(child, rounds, name=f"round {rounds}")
        return running.after_children()

    job = submit(declared := kind(handler, max_attempts=1))

    drain(worker=worker)

    assert (again(job).status, again(job).result, again(job).attempt) == ("COMPLETED", [0, 10, 20], 4)
    assert claim(declared, worker) is None


def test_an_attempt_that_fails_leaves_no_children(kind: DeclareKind, child: Kind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> Any:
        if running.children:
            return len(running.children)
        running.spawn(child, 1)
        if running.attempt == 1:
            raise ValueError("after job.spawn()")
        return running.after_children()

    job = submit(declared := kind(handler, max_attempts=2, backoff_seconds=0))

    run(declared, worker)
    left_by_the_first = children(job)
    drain(worker=worker)

    assert left_by_the_first == []
    assert (again(job).status, again(job).result, len(children(job))) == ("COMPLETED", 1, 1)


def test_a_worker_that_has_lost_the_job_adds_no_children(
    kind: DeclareKind, child: Kind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> Any:
        running.spawn(child, 1)
        declare_dead(worker.row_id)
        take_back_from_ended()
        return running.after_children()

    job = submit(declared := kind(handler, atomic=False, max_attempts=2))

    run(declared, worker)

    assert (again(job).status, children(job)) == ("CREATED", [])


def test_a_job_without_children_to_add_goes_on_at_once(parent: MakeParent, child: Kind, worker: WorkerProcess) -> None:
    assert run_now(parent(), [], worker=worker) == []


def test_a_result_instead_of_waiting_for_the_children_fails_the_attempt(
    kind: DeclareKind, child: Kind, worker: WorkerProcess
) -> None:
    job = submit(declared := kind(lambda running: running.spawn(child, 1), max_attempts=1))

    run(declared, worker)

    assert (again(job).status, children(job)) == ("FAILED", [])
    assert "return job.after_children()" in again(job).error


def test_a_failed_child_fails_the_job_and_a_retry_runs_only_what_did_not_complete(
    parent: MakeParent, child: Kind, worker: WorkerProcess
) -> None:
    job = submit(parent(), [1, -1, 2])
    drain(worker=worker)
    failed = again(job)
    ran = {each.name: each.attempt for each in children(job)}

    Job.objects.filter(parent=job.id, name="child[1]").update(payload=7)
    submission.retry(job.id)
    drain(worker=worker)

    assert (failed.status, failed.error) == ("FAILED", "The child 'child[1]' failed: ValueError: below zero")
    assert (again(job).status, again(job).result) == ("COMPLETED", [10, 70, 20])
    completed = [each.name for each in children(job) if ran[each.name] == each.attempt]
    assert "child[1]" not in completed
    assert "child[0]" in completed


def test_a_child_may_fail_without_failing_the_job(parent: MakeParent, child: Kind, worker: WorkerProcess) -> None:
    job = submit(parent(on_failure="continue"), [1, -1])

    drain(worker=worker)

    assert (again(job).status, again(job).result) == ("COMPLETED", [10, "ValueError: below zero"])
    assert counters_are_right()


def test_what_goes_on_is_tried_again_without_the_children(
    kind: DeclareKind, child: Kind, worker: WorkerProcess
) -> None:
    tries = itertools.count(1)

    def handler(running: RunningJob) -> Any:
        running.spawn(child, 1)
        return running.after_children(gather)

    declared = kind(handler, max_attempts=2, backoff_seconds=0)

    @declared.after_children
    def gather(running: RunningJob) -> int:
        if next(tries) < 3:
            raise ValueError("not yet")
        return len(running.children)

    job = submit(declared)
    drain(worker=worker)
    failed = again(job)
    submission.retry(job.id)
    drain(worker=worker)

    # The first attempt is not charged, so two of `gather` fail, and the third is that of the retry.
    assert (failed.status, failed.attempt, failed.error) == ("FAILED", 3, "ValueError: not yet")
    assert (again(job).status, again(job).result, len(children(job))) == ("COMPLETED", 1, 1)


def test_cancelling_a_job_cancels_the_children_that_have_not_started_and_asks_the_others(
    parent: MakeParent, child: Kind, worker: WorkerProcess
) -> None:
    declared = parent()
    job = submit(declared, [1, 2, 3])
    run(declared, worker)
    runs = lease(child, worker)

    asked = submission.cancel(job.id)
    unstarted = [each.status for each in children(job) if each.id != runs.id]
    complete(runs)

    assert (asked.status, unstarted) == ("RUNNING", ["CANCELLED", "CANCELLED"])
    assert Job.objects.get(id=runs.id).cancel_requested_at is not None
    assert again(job).status == "CANCELLED"
    assert counters_are_right()


def test_a_job_that_is_cancelled_while_it_adds_children_adds_none(
    kind: DeclareKind, child: Kind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> Any:
        running.spawn(child, 1)
        submission.cancel(running.row.id)
        return running.after_children()

    job = submit(declared := kind(handler, atomic=False, max_attempts=1))

    run(declared, worker)

    assert (again(job).status, children(job)) == ("CANCELLED", [])


def test_it_is_shown_what_a_job_waits_for(parent: MakeParent, child: Kind, worker: WorkerProcess) -> None:
    declared = parent()
    job = submit(declared, [1, 2])
    run(declared, worker)
    run(child, worker)

    shown = queries.job_detail(AnonymousUser(), job.id)

    assert (shown.status, queries.waiting_for(shown)) == ("RUNNING", "dependencies")
    assert shown.children_counts is not None
    assert (shown.children_counts["total"], shown.children_counts["completed"]) == (2, 1)


class TestGenerations:
    """Children that have children."""

    @pytest.fixture
    def tree(self, kind: DeclareKind, child: Kind) -> Kind:
        """Adds two children of its own kind, and so on, as many generations as its payload says; then leaves."""

        def handler(running: RunningJob, payload: int) -> Any:
            if payload == 0:
                return 1
            if running.children:
                return sum(each.result for each in running.children)
            for _ in range(2):
                running.spawn(declared, payload - 1)
            return running.after_children()

        declared = kind(handler, payload=int, max_attempts=1, backoff_seconds=0)
        return declared

    def test_results_go_up_from_one_to_the_other(self, tree: Kind, worker: WorkerProcess) -> None:
        assert run_now(tree, 3, worker=worker) == 8
        assert counters_are_right()

    def test_there_are_at_most_so_many(
        self, tree: Kind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orchestrator.queue.generations.MAX_DEPTH", 2)
        job = submit(tree, 3)

        drain(worker=worker)

        assert again(job).status == "FAILED"
        assert "It has 2 generations above it" in again(job).error

    def test_a_failure_goes_up_and_a_retry_down(
        self, parent: MakeParent, child: Kind, kind: DeclareKind, worker: WorkerProcess
    ) -> None:
        def handler(running: RunningJob) -> Any:
            if running.children:
                return [each.result for each in running.children]
            running.spawn(middle, [1, -1], name="middle")
            return running.after_children()

        middle = parent()
        job = submit(kind(handler, max_attempts=1))
        drain(worker=worker)
        failed = again(job)

        Job.objects.filter(payload=-1).update(payload=2)
        submission.retry(job.id)
        counted = counters_are_right()
        drain(worker=worker)

        assert failed.status == "FAILED"
        assert failed.error == ("The child 'middle' failed: The child 'child[1]' failed: ValueError: below zero")
        assert counted
        assert (again(job).status, again(job).result) == ("COMPLETED", [[10, 20]])

    @pytest.mark.parametrize("ends", ["cancelled", "a sibling fails"])
    def test_those_that_wait_for_children_are_cancelled_with_all_below_them(
        self, ends: str, tree: Kind, child: Kind, kind: DeclareKind, worker: WorkerProcess
    ) -> None:
        def handler(running: RunningJob) -> Any:
            running.spawn(tree, 2, name="tree")
            running.spawn(child, -1, name="leaf")
            return running.after_children()

        job = submit(first := kind(handler, max_attempts=1))
        run(first, worker)
        for _ in range(3):  # The tree, and its two children.
            runner.run_next(tree, worker, at_most=1)
        assert Job.objects.filter(status="RUNNING", worker=None).count() == 4

        if ends == "cancelled":
            submission.cancel(job.id)
        else:
            run(child, worker)

        assert again(job).status == ("CANCELLED" if ends == "cancelled" else "FAILED")
        below = Job.objects.exclude(id=job.id).exclude(name="leaf")
        assert set(below.values_list("status", flat=True)) == {"CANCELLED"}
        assert below.count() == 7
        assert counters_are_right()

    def test_a_tick_cancels_what_a_dead_process_has_left(
        self, tree: Kind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = submit(tree, 3)
        for _ in range(3):
            runner.run_next(tree, worker, at_most=1)
        with monkeypatch.context() as dying:
            dying.setattr(pipelines, "unwind", lambda parent_id: None)
            submission.cancel(job.id)
        assert again(job).status == "RUNNING"

        tick.unwind_pipelines()

        assert set(Job.objects.values_list("status", flat=True)) == {"CANCELLED"}


class TestRefusals:
    """What cannot be added, told in the handler's own call."""

    def test_what_does_not_fit(self, kind: DeclareKind, child: Kind) -> None:
        job = fake_job(kind(max_attempts=1))

        with pytest.raises(BadPayload, match="/payload"):
            job.spawn(child, {"n": 1})
        with pytest.raises(UnknownKind):
            job.spawn("shop.unknown")
        with pytest.raises(BadSubmission, match="priority"):
            job.spawn(child, 1, priority=12)
        with pytest.raises(BadSubmission, match="continue"):
            job.spawn(child, 1, on_failure="ignore")
        job.spawn(child, 1, name="one")
        with pytest.raises(BadSubmission, match="Two children are called 'one'"):
            job.spawn(child, 1, name="one")

    def test_too_many_at_once(self, kind: DeclareKind, child: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(settings, "ENV", msgspec.structs.replace(settings.ENV, MAX_CHILDREN=2))
        job = fake_job(kind())
        job.spawn(child, 1)
        job.spawn(child, 1)

        with pytest.raises(BadSubmission, match="at most 2 children"):
            job.spawn(child, 1)

    def test_too_many_in_all(
        self, kind: DeclareKind, child: Kind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def handler(running: RunningJob) -> Any:
            running.spawn(child, 1)
            return running.after_children()

        monkeypatch.setattr(settings, "ENV", msgspec.structs.replace(settings.ENV, MAX_CHILDREN=2))
        job = submit(kind(handler, max_attempts=1))

        drain(worker=worker)

        assert again(job).error.endswith("A job may have at most 2 children, not 3.")
        assert len(children(job)) == 2

    def test_a_name_that_an_earlier_child_has(self, kind: DeclareKind, child: Kind, worker: WorkerProcess) -> None:
        def handler(running: RunningJob) -> Any:
            running.spawn(child, 1, name="one")
            return running.after_children()

        job = submit(kind(handler, max_attempts=1))

        drain(worker=worker)

        assert again(job).error.endswith("Two children are called 'one'.")

    def test_by_a_transactional_job(self, kind: DeclareKind, child: Kind) -> None:
        with pytest.raises(RuntimeError, match="leased"):
            fake_job(kind(execution="transactional")).spawn(child, 1)

    def test_to_go_on_with_a_function_of_another_kind(self, kind: DeclareKind, child: Kind) -> None:
        job = fake_job(kind())
        job.spawn(child, 1)

        with pytest.raises(ValueError, match="cannot go on with"):
            job.after_children(fail)

    def test_to_wait_for_nothing(self, kind: DeclareKind) -> None:
        with pytest.raises(ValueError, match="nothing to wait for"):
            fake_job(kind()).after_children()

    def test_functions_that_no_job_could_go_on_with(self, kind: DeclareKind) -> None:
        async def not_like_the_handler(running: Any) -> None: ...

        with pytest.raises(ValueError, match="async if, and only if"):
            kind().after_children(not_like_the_handler)
        with pytest.raises(ValueError, match="leased kind"):
            kind(execution="transactional").after_children(cancelled_midway)


def cancelled_midway(running: Any) -> None:
    raise Cancelled


def test_a_unit_test_sees_what_a_handler_adds_and_gives_what_has_ended(
    parent: MakeParent, child: Kind, db: None
) -> None:
    declared = parent()
    first = fake_job(declared, [1, 2])
    [gather] = declared.resumes.values()
    second = fake_job(declared, [1, 2], attempt=2, children=[ChildEnd("child[0]", child.name, "COMPLETED", 10, "")])

    returned = first.run()

    assert returned == AfterChildren(gather.__name__)
    assert [(each.kind.name, each.payload) for each in first.spawned] == [(child.name, 1), (child.name, 2)]
    assert gather(second) == [10]
