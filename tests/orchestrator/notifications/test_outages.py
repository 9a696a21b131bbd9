"""No message is lost or sent twice: not if its receiver is down for an hour, nor if the worker that has it dies."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from orchestrator import kinds
from orchestrator.models import Delivery, Job
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.states import Status
from orchestrator.submission import cancel, retry, submit
from orchestrator.testing import worker_process
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.notifications.conftest import Notify
from tests.orchestrator.notifications.receiver import Receiver
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, lease, run

pytestmark = pytest.mark.django_db(transaction=True)

DELIVER = "notifications.deliver"
OUTAGE_SECONDS = 3_600


def send(worker: WorkerProcess) -> None:
    """Makes one attempt at each message that is to be sent."""
    while run(kinds.kind_named(DELIVER), worker):
        pass
    worker.async_jobs.wait_until_idle(PATIENCE_SECONDS)


def let_time_pass(waited: dict[UUID, float]) -> None:
    """Until each message that waits for its next attempt may be sent; adds up how long that is."""
    for job in Job.objects.filter(kind=DELIVER, status=Status.CREATED):
        waited[job.id] += (job.run_at - timezone.now()).total_seconds()
    Job.objects.filter(kind=DELIVER, status=Status.CREATED).update(run_at=Now(), ready=True)


def test_a_receiver_that_was_down_for_an_hour_gets_each_message_once_and_in_order_by_job(
    notify: Notify, receiver: Receiver, worker: WorkerProcess, kind: DeclareKind
) -> None:
    notification, made = notify(), kind()
    receiver.status = 503
    twice, once = submit(made), submit(made)
    cancel(twice.id)
    cancel(once.id)
    retry(twice.id)
    cancel(twice.id)
    waited: dict[UUID, float] = defaultdict(float)
    while not waited or min(waited.values()) < OUTAGE_SECONDS:
        send(worker)
        let_time_pass(waited)
    assert receiver.accepted == []

    receiver.status = 204
    send(worker)
    let_time_pass(waited)
    send(worker)

    messages = [headers["webhook-id"] for headers, _ in receiver.accepted]
    assert sorted(messages) == sorted(f"msg_{each.message_id.hex}" for each in Delivery.objects.all())
    told = [event["data"]["job_id"] for event in receiver.verified(notification.secret)]
    assert sorted(told) == sorted([str(twice.id), str(twice.id), str(once.id)])
    in_order = [f"msg_{each.message_id.hex}" for each in Delivery.objects.filter(job_id=twice.id).order_by("id")]
    assert [each for each in messages if each in in_order] == in_order
    assert set(Job.objects.filter(kind=DELIVER).values_list("status", flat=True)) == {"COMPLETED"}


def test_a_message_is_sent_by_another_worker_if_its_own_dies_with_it(
    notify: Notify, receiver: Receiver, worker: WorkerProcess, kind: DeclareKind
) -> None:
    notification, made = notify(), kind()
    with worker_process("dies@here", ["default"]) as dying:
        job = submit(made)
        run(made, dying)
        # It has ended the job, has told nobody, and has just taken the message when it dies.
        lease(kinds.kind_named(DELIVER), dying)
        declare_dead(dying.row_id)
        take_back_from_ended()

    let_time_pass(defaultdict(float))
    send(worker)

    [event] = receiver.verified(notification.secret)
    assert event["data"]["job_id"] == str(job.id)
