"""Unique jobs: what is the same, what a submission does about it, and that no race lets two in."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.db import IntegrityError, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.queue import duplicates
from orchestrator.states import UNFINISHED
from orchestrator.steering import batches
from orchestrator.steering.batches import BulkAction
from orchestrator.submission import (
    BadSubmission,
    Child,
    NotRetryable,
    NotUnique,
    Submission,
    Unique,
    cancel,
    retry,
    submit,
    submit_many,
)
from orchestrator.upkeep import retention, tick
from orchestrator.worker.process import WorkerProcess
from tests.concurrency import at_once, held_open, waiting
from tests.moves import put
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, again, fail, lease, run

pytestmark = pytest.mark.django_db

BY_KEY = Unique(key="nightly")
AN_HOUR = timedelta(hours=1)


class Report(msgspec.Struct, omit_defaults=True):
    customer_id: int
    month: str = "now"


def ended(kind: Kind, worker: WorkerProcess, **options: Any) -> Job:
    """A job that has completed."""
    job = submit(kind, **options)
    run(kind, worker)
    return again(job)


def long_ago(job: Job, **ago: float) -> None:
    """As if it had been submitted so long ago."""
    past = timedelta(**ago)
    Job.objects.filter(id=job.id).update(
        created_at=F("created_at") - past,
        run_at=F("run_at") - past,
        rank=F("rank") - past,
        unique_until=F("unique_until") - past,
    )


# What is the same


def test_while_it_is_unfinished_a_second_one_of_the_same_key_is_the_first_one(kind: DeclareKind) -> None:
    tidying = kind()

    first, second = submit(tidying, unique=BY_KEY), submit(tidying, {"other": 1}, unique=BY_KEY)

    assert second.id == first.id
    assert (first.duplicate, second.duplicate) == (False, True)
    assert Job.objects.get().payload == {}


def test_once_it_has_ended_the_next_one_is_let_in(kind: DeclareKind, worker: WorkerProcess) -> None:
    tidying = kind()
    first = ended(tidying, worker, unique=BY_KEY)

    assert submit(tidying, unique=BY_KEY).id != first.id


def test_other_kinds_keys_and_owners_are_not_the_same(kind: DeclareKind) -> None:
    tidying = kind()
    submit(tidying, unique=BY_KEY, owner="ada")

    others = [
        submit(tidying, unique=BY_KEY, owner="bob"),
        submit(tidying, unique=Unique(key="daily"), owner="ada"),
        submit(tidying, unique=Unique(), owner="ada"),
        submit(kind(), unique=BY_KEY, owner="ada"),
        submit(tidying, owner="ada"),
    ]

    assert not any(job.duplicate for job in others)


def test_across_owners_one_job_serves_all(kind: DeclareKind) -> None:
    tidying = kind(unique=Unique(across_owners=True))

    assert submit(tidying, owner="ada").id == submit(tidying, owner="bob").id


def test_the_chosen_fields_of_the_payload_decide(kind: DeclareKind) -> None:
    reporting = kind(payload=Report, unique=Unique(fields=["customer_id"]))
    first = submit(reporting, {"customer_id": 1, "month": "May"})

    assert submit(reporting, {"customer_id": 1}).id == first.id
    assert submit(reporting, {"customer_id": 2}).id != first.id


def test_otherwise_the_whole_payload_decides_in_whatever_order_its_fields_come(kind: DeclareKind) -> None:
    tidying = kind(unique=True)
    first = submit(tidying, {"a": 1, "b": {"c": 2, "d": 3}})

    assert submit(tidying, {"b": {"d": 3, "c": 2}, "a": 1}).id == first.id
    assert submit(tidying, {"a": 1, "b": {"c": 2, "d": 4}}).id != first.id


def test_a_field_left_out_for_its_default_is_equal_to_itself_only(kind: DeclareKind) -> None:
    reporting = kind(payload=Report, unique=Unique(fields=["month"]))
    first = submit(reporting, {"customer_id": 1})

    assert submit(reporting, {"customer_id": 2, "month": "now"}).id == first.id
    assert submit(reporting, {"customer_id": 2, "month": "May"}).id != first.id


@pytest.mark.parametrize(
    ("unique", "field", "would_be_right"),
    [
        ({"key": ""}, "key", "1 to 200 characters"),
        ({"key": "x" * 201}, "key", "1 to 200 characters"),
        ({"key": "a\0b"}, "key", "NUL"),
        ({"key": "a", "fields": ["a"]}, "fields", "not both"),
        ({"fields": []}, "fields", "1 to 20"),
        ({"fields": "customer_id"}, "fields", "1 to 20"),
        ({"for_seconds": -1}, "for_seconds", "0 to 2,678,400"),
        ({"for_seconds": float("nan")}, "for_seconds", "0 to 2,678,400"),
        ({"on_conflict": "ignore"}, "on_conflict", "return, replace, postpone, refuse"),
        ({"on_conflict": "postpone"}, "wait_seconds", "Give the seconds"),
        ({"on_conflict": "postpone", "wait_seconds": 0}, "wait_seconds", "0.001 to"),
        ({"on_conflict": "postpone", "wait_seconds": 9, "max_wait_seconds": 8}, "max_wait_seconds", "9 to"),
        ({"wait_seconds": 1}, "wait_seconds", "Only on_conflict=postpone"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_with_what_would_be_right(
    unique: dict[str, Any], field: str, would_be_right: str
) -> None:
    with pytest.raises(ValueError, match=would_be_right) as refusal:
        Unique(**unique)

    assert getattr(refusal.value, "field", None) == field


def test_fields_that_the_payload_does_not_have_are_refused(kind: DeclareKind) -> None:
    for declared, payload in [(kind(payload=Report), {"customer_id": 1}), (kind(), {"customer_id": 1, "month": ""})]:
        with pytest.raises(BadSubmission, match="no field 'customer'; it has: customer_id, month"):
            submit(declared, payload, unique=Unique(fields=["customer"]))


def test_a_kind_cannot_be_declared_with_what_could_not_work(kind: DeclareKind) -> None:
    with pytest.raises(ValueError, match="no field 'customer'"):
        kind(payload=Report, unique=Unique(fields=["customer"]))
    with pytest.raises(ValueError, match="a key is for one job"):
        kind(unique=BY_KEY)
    with pytest.raises(ValueError, match="must be return or refuse"):
        kind(plan=lambda payload: [], unique=Unique(on_conflict="replace"))
    with pytest.raises(ValueError, match="True or False as unique, not 'customer_id'"):
        kind(unique="customer_id")


# For a period


def test_a_completed_one_stays_the_one_for_the_period_since_its_submission(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    tidying = kind()
    first = ended(tidying, worker, unique_for=AN_HOUR)

    within = submit(tidying, unique_for=AN_HOUR)
    long_ago(first, hours=1)
    after = submit(tidying, unique_for=AN_HOUR)

    assert (within.id, within.duplicate) == (first.id, True)
    assert after.id != first.id


def test_an_unfinished_one_stays_the_one_even_after_the_period(kind: DeclareKind) -> None:
    tidying = kind()
    first = submit(tidying, unique_for=AN_HOUR)
    long_ago(first, hours=2)

    assert submit(tidying, unique_for=AN_HOUR).id == first.id


def test_one_that_failed_or_was_cancelled_frees_its_key_at_once(kind: DeclareKind, worker: WorkerProcess) -> None:
    tidying = kind(max_attempts=1)
    first = submit(tidying, unique_for=AN_HOUR)
    fail(lease(tidying, worker))
    second = submit(tidying, unique_for=AN_HOUR)
    cancel(second.id)
    third = submit(tidying, unique_for=AN_HOUR)

    assert len({first.id, second.id, third.id}) == 3


def test_a_job_is_not_pruned_before_its_period_is_over(kind: DeclareKind, worker: WorkerProcess) -> None:
    tidying = kind(keep_days=1)
    job = ended(tidying, worker, unique_for=timedelta(days=3))
    Job.objects.filter(id=job.id).update(finished_at=timezone.now() - timedelta(days=2))

    retention.jobs()
    kept = Job.objects.filter(id=job.id).exists()
    long_ago(job, days=3)
    retention.jobs()

    assert kept
    assert not Job.objects.filter(id=job.id).exists()


# Refuse


def test_refusing_names_the_job_that_there_is(kind: DeclareKind) -> None:
    tidying = kind(unique=Unique(on_conflict="refuse"))
    first = submit(tidying)

    with pytest.raises(
        NotUnique, match=f"The job {first.id} .* is CREATED; wait for its end, or cancel it"
    ) as refusal:
        submit(tidying)

    assert refusal.value.job_id == first.id


def test_a_refusal_says_nothing_of_somebody_elses_job(kind: DeclareKind) -> None:
    tidying = kind(unique=Unique(across_owners=True, on_conflict="refuse"))
    submit(tidying, owner="ada")

    with pytest.raises(NotUnique, match="A job of somebody else of kind"):
        submit(tidying, owner="bob")


def test_the_same_is_no_duplicate_for_the_cap_of_its_owner(kind: DeclareKind) -> None:
    tidying = kind(unique=True, max_unfinished_per_owner=1)
    first = submit(tidying, owner="ada")

    assert submit(tidying, owner="ada").id == first.id


# Replace


def test_replacing_gives_a_job_that_has_not_started_the_new_payload(kind: DeclareKind) -> None:
    tidying = kind()
    first = submit(tidying, {"n": 1}, unique=Unique(key="a", on_conflict="replace"))

    second = submit(tidying, {"n": 2}, unique=Unique(key="a", on_conflict="replace"))

    assert (second.id, second.duplicate, second.payload) == (first.id, True, {"n": 2})
    assert (second.ready, second.rank, second.run_at) == (True, first.rank, first.run_at)


def test_the_key_of_its_kinds_limits_follows_the_payload(kind: DeclareKind) -> None:
    syncing, unique = kind(key=lambda payload: payload["customer"]), Unique(key="a", on_conflict="replace")
    job = submit(syncing, {"customer": "x"}, unique=unique)
    Job.objects.filter(id=job.id).update(ready=False, blocked_by="key:x")

    submit(syncing, {"customer": "y"}, unique=unique)
    tick.make_due_ready()

    assert (again(job).limit_key, again(job).blocked_by, again(job).ready) == ("y", None, True)


def test_of_two_starts_replacing_takes_the_earlier(kind: DeclareKind) -> None:
    tidying, unique = kind(), Unique(key="a", on_conflict="replace")
    soon, later = timezone.now() + AN_HOUR, timezone.now() + 2 * AN_HOUR
    first = submit(tidying, run_at=later, unique=unique)

    sooner = submit(tidying, run_at=soon, unique=unique)
    again_later = submit(tidying, run_at=later, unique=unique)

    assert (sooner.run_at, again_later.run_at) == (soon, soon)
    assert again_later.rank - again_later.run_at == first.rank - first.run_at


def test_a_future_job_that_is_replaced_by_one_for_now_is_made_ready(kind: DeclareKind) -> None:
    tidying, unique = kind(), Unique(key="a", on_conflict="replace")
    first = submit(tidying, run_at=timezone.now() + AN_HOUR, unique=unique)

    submit(tidying, unique=unique)
    tick.make_due_ready()

    assert again(first).ready


def test_a_job_that_has_started_is_not_replaced_nor_is_one_that_waits_for_its_next_attempt(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    tidying, unique = kind(), Unique(key="a", on_conflict="replace")
    submit(tidying, {"n": 1}, unique=unique)
    claimed = lease(tidying, worker)

    with pytest.raises(NotUnique, match="has started, so it can no longer be replaced"):
        submit(tidying, {"n": 2}, unique=unique)
    fail(claimed, retryable=True)
    with pytest.raises(NotUnique, match="has started, so it can no longer be replaced"):
        submit(tidying, {"n": 2}, unique=unique)

    assert Job.objects.get().payload == {"n": 1}


@pytest.mark.django_db(transaction=True)
def test_nobody_waits_for_a_job_that_is_about_to_start(kind: DeclareKind) -> None:
    tidying, unique = kind(), Unique(key="a", on_conflict="replace")
    job = submit(tidying, unique=unique)

    with (
        held_open(lambda: Job.objects.select_for_update().get(id=job.id)),
        pytest.raises(NotUnique, match="is about to start"),
    ):
        submit(tidying, unique=unique)


# Postpone


DEBOUNCED = Unique(key="a", on_conflict="postpone", wait_seconds=10, max_wait_seconds=25)


def seconds_from_now(moment: datetime) -> float:
    return (moment - timezone.now()).total_seconds()


def test_a_debounced_job_waits_from_the_first_submission_on(kind: DeclareKind) -> None:
    job = submit(kind(), unique=DEBOUNCED)

    assert not job.ready
    assert seconds_from_now(job.run_at) == pytest.approx(10, abs=5)


def test_each_submission_postpones_it_and_the_last_payload_counts(kind: DeclareKind) -> None:
    indexing = kind()
    job = submit(indexing, {"n": 1}, unique=DEBOUNCED)
    long_ago(job, seconds=8)

    second = submit(indexing, {"n": 2}, unique=DEBOUNCED)

    assert (second.id, second.payload, second.ready) == (job.id, {"n": 2}, False)
    assert seconds_from_now(second.run_at) == pytest.approx(10, abs=5)
    assert second.rank - second.run_at == job.rank - job.run_at


def test_it_is_not_postponed_beyond_its_longest_wait(kind: DeclareKind) -> None:
    indexing = kind()
    job = submit(indexing, unique=DEBOUNCED)
    long_ago(job, seconds=20)

    second = submit(indexing, unique=DEBOUNCED)

    assert second.run_at == second.created_at + timedelta(seconds=25)


def test_ten_times_the_wait_is_the_longest_unless_it_says_otherwise() -> None:
    assert Unique(key="a", on_conflict="postpone", wait_seconds=10).longest_wait == 100
    assert Unique(key="a", on_conflict="postpone", wait_seconds=30 * 86_400).longest_wait == 31 * 86_400


def test_a_job_that_waits_for_more_of_the_same_has_no_start_of_its_own(kind: DeclareKind) -> None:
    with pytest.raises(BadSubmission, match="give one of them"):
        submit(kind(), run_at=timezone.now(), unique=DEBOUNCED)


# Many, pipelines, handlers


def test_of_many_each_is_accepted_once_and_ids_come_in_order(kind: DeclareKind) -> None:
    reporting = kind(payload=Report, unique=Unique(fields=["customer_id"]))
    there = submit(reporting, {"customer_id": 2})

    ids = submit_many(reporting, [{"customer_id": n} for n in (1, 2, 3, 1)])

    assert ids[1] == there.id
    assert ids[0] == ids[3]
    assert len(set(ids)) == 3 == Job.objects.count()


def test_of_many_the_last_payload_counts_where_it_replaces(kind: DeclareKind) -> None:
    reporting = kind(payload=Report, unique=Unique(fields=["customer_id"], on_conflict="replace"))
    submit(reporting, {"customer_id": 1, "month": "May"})

    submit_many(reporting, [{"customer_id": n, "month": month} for n in (1, 2) for month in ("June", "July")])

    assert list(Job.objects.order_by("payload").values_list("payload__month", flat=True)) == ["July", "July"]


def test_many_are_all_refused_if_one_is(kind: DeclareKind) -> None:
    reporting = kind(payload=Report, unique=Unique(fields=["customer_id"], on_conflict="refuse"))
    submit(reporting, {"customer_id": 2})

    with pytest.raises(NotUnique):
        submit_many(reporting, [{"customer_id": n} for n in (1, 2)])
    with pytest.raises(BadSubmission, match="Two of the jobs of kind"):
        submit_many(reporting, [{"customer_id": n} for n in (3, 3)])

    assert Job.objects.count() == 1


def test_the_owners_of_many_are_told_apart(kind: DeclareKind) -> None:
    ids = submit_many(kind(unique=True), [Submission(payload={}, owner=owner) for owner in ("ada", "bob", "ada")])

    assert ids[0] == ids[2] != ids[1]


def test_a_pipeline_is_unique_as_a_whole_and_its_children_are_not(kind: DeclareKind) -> None:
    step = kind(unique=True)
    building = kind(unique=True, plan=lambda payload: [Child(name=name, kind=step.name) for name in "ab"])

    first, second = submit(building), submit(building)

    assert first.id == second.id
    assert Job.objects.filter(parent=first).count() == 2 == Job.objects.count() - 1


def test_a_pipeline_is_not_replaced_since_its_children_are_planned(kind: DeclareKind) -> None:
    with pytest.raises(BadSubmission, match="use return or refuse"):
        submit(kind(), children=[Child(name="a", kind=kind().name)], unique=Unique(key="a", on_conflict="replace"))


@pytest.mark.django_db(transaction=True)
def test_a_handler_may_submit_the_next_one_only_if_its_own_key_is_another(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    ids: list[UUID] = []
    crawling = kind(lambda job: ids.extend(submit(crawling, unique=Unique(key=key)).id for key in "ab"))
    job = submit(crawling, unique=Unique(key="a"))

    run(crawling, worker)

    assert ids[0] == job.id != ids[1]


# Retries


def test_a_retry_keeps_its_key_and_never_collides(kind: DeclareKind, worker: WorkerProcess) -> None:
    tidying = kind()
    job = submit(tidying, unique=BY_KEY)
    fail(lease(tidying, worker), retryable=True)

    assert submit(tidying, unique=BY_KEY).id == job.id
    assert again(job).status == "CREATED"


def test_a_failed_job_whose_key_is_held_by_another_is_not_retried(kind: DeclareKind, worker: WorkerProcess) -> None:
    tidying = kind(max_attempts=1)
    job = submit(tidying, unique=BY_KEY)
    fail(lease(tidying, worker))
    other = submit(tidying, unique=BY_KEY)

    with pytest.raises(NotRetryable, match="Another unfinished job of the same owner has its unique key"):
        retry(job.id)
    cancel(other.id)

    assert retry(job.id).status == "CREATED"


def test_a_retry_of_all_that_failed_leaves_what_another_job_holds_the_key_of(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    tidying = kind(max_attempts=1)
    failed = [submit(tidying, unique=Unique(key=key)) for key in "ab"]
    for _ in failed:
        fail(lease(tidying, worker))
    submit(tidying, unique=Unique(key="a"))

    retry_all = BulkAction("retry", {})
    outcome, refused = batches.act(retry_all, [job.id for job in failed], timezone.now() + AN_HOUR, lambda: None)

    assert (outcome["retried"], list(refused)) == (1, [str(failed[0].id)])
    assert Job.objects.filter(status__in=UNFINISHED).count() == 2


def test_beside_a_completed_one_it_is_retried_and_counts(kind: DeclareKind, worker: WorkerProcess) -> None:
    tidying = kind(max_attempts=1)
    failed = submit(tidying, unique_for=AN_HOUR)
    fail(lease(tidying, worker))
    ended(tidying, worker, unique_for=AN_HOUR)
    retry(failed.id)

    assert submit(tidying, unique_for=AN_HOUR).id == failed.id


def test_the_database_itself_lets_no_two_unfinished_ones_be(kind: DeclareKind) -> None:
    job = submit(kind(), unique=BY_KEY)

    with pytest.raises(IntegrityError) as error:
        Job.objects.create(kind=job.kind, queue=job.queue, unique_key=job.unique_key)

    assert duplicates.is_duplicate(error.value)


# Races


@pytest.mark.django_db(transaction=True)
def test_of_32_at_once_one_is_accepted_and_all_are_given_it(kind: DeclareKind) -> None:
    tidying = kind()

    jobs = at_once(*[partial(submit, tidying, unique=BY_KEY) for _ in range(32)])

    assert Job.objects.count() == 1
    assert {job.id for job in jobs} == {Job.objects.get().id}
    assert sum(not job.duplicate for job in jobs) == 1


@pytest.mark.django_db(transaction=True)
def test_of_32_at_once_with_a_period_one_is_accepted_while_a_worker_completes_them(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    tidying = kind()

    def submit_and_run() -> Job:
        job = submit(tidying, unique_for=AN_HOUR)
        run(tidying, worker)
        return job

    jobs = at_once(*[submit_and_run for _ in range(32)])

    assert {job.id for job in jobs} == {Job.objects.get().id}


@pytest.mark.django_db(transaction=True)
def test_when_the_first_is_rolled_back_the_second_gets_in(kind: DeclareKind) -> None:
    tidying = kind()

    with transaction.atomic():
        first = submit(tidying, unique=BY_KEY)
        second = waiting(partial(submit, tidying, unique=BY_KEY))
        transaction.set_rollback(True)
    job = second.result(PATIENCE_SECONDS)

    assert (Job.objects.get().id, job.duplicate) == (job.id, False)
    assert job.id != first.id


@pytest.mark.django_db(transaction=True)
def test_when_the_first_commits_the_second_is_given_it(kind: DeclareKind) -> None:
    tidying = kind()

    with transaction.atomic():
        first = submit(tidying, unique=BY_KEY)
        second = waiting(partial(submit, tidying, unique=BY_KEY))

    assert second.result(PATIENCE_SECONDS).id == first.id


@pytest.mark.django_db(transaction=True)
def test_who_waited_while_the_first_completed_is_given_it_within_the_period(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    tidying = kind()

    with transaction.atomic():
        first = submit(tidying, unique_for=AN_HOUR)
        second = waiting(partial(submit, tidying, unique_for=AN_HOUR))
        put(Job.objects.filter(id=first.id), status="COMPLETED", ready=False, attempt=1, finished_at=Now())

    assert second.result(PATIENCE_SECONDS).id == first.id


@pytest.mark.django_db(transaction=True)
def test_two_who_submit_the_same_many_in_other_orders_do_not_wait_in_a_circle(kind: DeclareKind) -> None:
    tidying = kind(unique=True)
    payloads = [{"n": n} for n in range(200)]

    outcomes = at_once(*[partial(submit_many, tidying, payloads), partial(submit_many, tidying, payloads[::-1])] * 4)

    assert Job.objects.count() == 200
    assert all(set(ids) == set(outcomes[0]) for ids in outcomes)


@pytest.mark.django_db(transaction=True)
def test_a_retry_waits_for_a_submission_that_may_take_its_key(kind: DeclareKind, worker: WorkerProcess) -> None:
    tidying = kind(max_attempts=1)
    failed = submit(tidying, unique=BY_KEY)
    fail(lease(tidying, worker))

    with transaction.atomic():
        submit(tidying, unique=BY_KEY)
        retrying = waiting(partial(retry, failed.id))

    assert isinstance(retrying.exception(PATIENCE_SECONDS), NotRetryable)
    assert Job.objects.filter(status__in=UNFINISHED).count() == 1
