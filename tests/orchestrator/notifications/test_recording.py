"""Each end of a job that somebody wants to know of is written down in the transaction that ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction
from pytest_django import DjangoAssertNumQueries

from orchestrator.claimed import Claimed
from orchestrator.kinds import Child, Kind
from orchestrator.models import Delivery, Job
from orchestrator.queue import endings, ends, pipelines, transitions
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.submission import BadSubmission, cancel, retry, submit, submit_many
from orchestrator.worker.process import WorkerProcess
from tests.factories import make_worker_row
from tests.orchestrator.notifications.conftest import Notify
from tests.orchestrator.workbench import DeclareKind, complete, fail, lease, returns_nothing, run, write

pytestmark = pytest.mark.django_db

UNKNOWN = "01980c5e-7a00-7000-8000-000000000000"


def raises(running: Any) -> None:
    raise ValueError("no")


def writes(running: Any) -> None:
    write("written")


def told() -> list[tuple[str, str]]:
    """Of which jobs' ends, in order."""
    return [(str(job), type) for job, type in Delivery.objects.order_by("id").values_list("job_id", "type")]


def claimed(kind: Kind) -> Claimed:
    """The kind's next job, which a worker runs from now on."""
    row = make_worker_row()
    [job] = transitions.claim(kind, worker_id=row.id, worker_name=row.name).jobs
    return job


def sending_jobs() -> int:
    return Job.objects.filter(kind="notifications.deliver").count()


def run_dry(kind: Any, worker: WorkerProcess) -> None:
    while run(kind, worker):
        pass


def test_whichever_way_a_job_ends_it_is_told_by_a_job(
    notify: Notify, kind: DeclareKind, worker: WorkerProcess, make_worker: Any
) -> None:
    notify()
    ways: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
        (writes, {}, "job.completed"),
        (returns_nothing, {}, "job.completed"),
        (returns_nothing, {"atomic": False}, "job.completed"),
        (returns_nothing, {"execution": "transactional"}, "job.completed"),
        (raises, {"max_attempts": 1}, "job.failed"),
        (raises, {"max_attempts": 1, "execution": "transactional"}, "job.failed"),
    ]
    expected = []
    for handler, options, type in ways:
        made = kind(handler, **options)
        expected += [(str(id), type) for id in submit_many(made, [{}, {}] if handler is not writes else [{}])]
        run_dry(made, worker)
    dead, lost = make_worker("dead@here"), submit(only_once := kind(max_attempts=1))
    lease(only_once, dead)
    declare_dead(dead.row_id)
    take_back_from_ended()

    assert told() == [*expected, (str(lost.id), "job.failed")]
    assert sending_jobs() == len(expected) + 1


def test_what_is_rolled_back_is_told_to_nobody(notify: Notify, kind: DeclareKind) -> None:
    notify()
    job = submit(kind())

    with transaction.atomic():
        cancel(job.id)
        transaction.set_rollback(True)

    assert told() == []
    assert sending_jobs() == 0


def test_of_a_pipeline_only_the_parent_is_told_unless_children_are_asked_for(
    notify: Notify, kind: DeclareKind
) -> None:
    notify(name="parents")
    of_all = notify(name="all", children=True)
    step = kind(max_attempts=1)
    parent = submit(kind(), children=[Child(name="a", kind=step.name), Child(name="b", kind=step.name, after=["a"])])

    fail(claimed(step))
    pipelines.unwind(parent.id)

    a, b = Job.objects.filter(parent=parent).order_by("id")
    by_all = Delivery.objects.filter(notification_id=of_all.id).values_list("job_id", flat=True)
    assert set(by_all) == {a.id, b.id, parent.id}
    assert Delivery.objects.exclude(notification_id=of_all.id).get().job_id == parent.id


def test_a_job_is_told_to_those_that_it_names_and_to_those_that_match(notify: Notify, kind: DeclareKind) -> None:
    made, other = kind(), kind()
    named = notify(name="named", automatic=False)
    of_kind = notify(name="kind", kind=made.name)
    of_owner = notify(name="owner", owner="ada")
    notify(name="another kind", kind=other.name)
    notify(name="another owner", owner="bob")
    notify(name="failures", statuses=["FAILED"])
    notify(name="off", enabled=False)
    notify(name="not named", automatic=False)
    submit(made, owner="ada", notify=[named.id])

    complete(claimed(made))

    assert set(Delivery.objects.values_list("notification_id", flat=True)) == {named.id, of_kind.id, of_owner.id}


def test_a_job_that_runs_again_is_told_again(notify: Notify, kind: DeclareKind) -> None:
    notify()
    made = kind()
    job = submit(made)
    fail(claimed(made))

    retry(job.id)
    complete(claimed(made))

    assert told() == [(str(job.id), "job.failed"), (str(job.id), "job.completed")]
    assert Delivery.objects.first().data["error"] == "ValueError: no"  # type: ignore[union-attr]


def test_nobody_is_told_of_the_jobs_that_tell(notify: Notify, kind: DeclareKind) -> None:
    notify()
    cancel(submit(kind()).id)
    sending = Job.objects.get(kind="notifications.deliver")

    cancel(sending.id)

    assert Delivery.objects.get().job_id != sending.id


def test_a_notification_counts_for_a_job_that_is_claimed_right_after(notify: Notify, kind: DeclareKind) -> None:
    """The process has read the notifications a moment ago."""
    made = kind()
    submit(made)
    complete(claimed(made))
    notify()
    job = submit(made)

    complete(claimed(made))

    assert told() == [(str(job.id), "job.completed")]


def test_for_a_job_that_runs_already_it_counts_a_moment_later(
    notify: Notify, kind: DeclareKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = kind()
    submit(made)
    running = claimed(made)
    notify()

    monkeypatch.setattr(ends, "REREAD_SECONDS", 0)
    complete(running)

    assert len(told()) == 1


def test_a_job_that_nobody_wants_to_know_of_costs_no_statement(
    kind: DeclareKind,
    db: None,
    monkeypatch: pytest.MonkeyPatch,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    made = kind()
    submit_many(made, [{}, {}])
    monkeypatch.setattr(ends, "REREAD_SECONDS", 0)
    complete(claimed(made))
    monkeypatch.setattr(ends, "REREAD_SECONDS", 60)
    running = claimed(made)

    with transaction.atomic(), django_assert_num_queries(1):
        endings.complete(running, "null")


def test_a_job_cannot_name_a_notification_that_is_not_there(kind: DeclareKind, db: None) -> None:
    with pytest.raises(BadSubmission, match=f"no notification {UNKNOWN}"):
        submit(kind(), notify=[UNKNOWN])  # type: ignore[list-item]
