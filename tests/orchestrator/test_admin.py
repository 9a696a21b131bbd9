"""The admin: what it shows of jobs, attempts, workers and kinds, what it lets people do, and what it costs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from unfold.admin import ModelAdmin

from orchestrator import bell
from orchestrator.models import Attempt, Job, Kind, Worker
from orchestrator.pausing import pause_kind, resume_kind
from orchestrator.states import Status
from orchestrator.submission import cancel, submit, submit_many

pytestmark = pytest.mark.django_db
# As `config.urls` does, and now: each page is a test.
admin.autodiscover()

UNKNOWN = "01980c5e-7a00-7000-8000-000000000000"
JOBS = "admin:orchestrator_job_changelist"
KINDS = "admin:orchestrator_kind_changelist"
# A page of a list reads the session, the user, the count and the rows; the jobs' also what two filters offer and the
# kinds that are paused.
MOST_QUERIES = 10


def listed(client: Client, page: str = JOBS, **parameters: Any) -> list[Any]:
    """What the list shows."""
    answer = client.get(reverse(page), parameters)
    assert answer.status_code == 200
    return list(answer.context["cl"].result_list)


def shown(client: Client, job: Job) -> str:
    answer = client.get(reverse("admin:orchestrator_job_change", args=[job.id]))
    assert answer.status_code == 200
    return answer.content.decode()


def act(client: Client, action: str, *rows: Any, page: str = JOBS) -> str:
    """Chooses an action for the rows, and answers the page that follows."""
    chosen = {"action": action, "_selected_action": [str(row.pk) for row in rows]}
    return client.post(reverse(page), chosen, follow=True).content.decode()


def failed_job(**fields: Any) -> Job:
    job = submit("demo.slices", owner="ada")
    fields = {"error": "ValueError: no", "attempt": 3, **fields}
    Job.objects.filter(id=job.id).update(status=Status.FAILED, ready=False, finished_at=Now(), **fields)
    return Job.objects.get(id=job.id)


def staff_with(*permissions: str) -> Client:
    user = User.objects.create_user("guest", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def test_the_newest_job_comes_first(admin_client: Client) -> None:
    first, second = submit("demo.slices"), submit("demo.slices")

    assert listed(admin_client) == [second, first]


def test_a_list_of_many_jobs_takes_as_few_queries_as_one_of_few(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    submit_many("demo.slices", [{}] * 200)
    submit("orchestration.two_batches", owner="ada")

    with django_assert_max_num_queries(MOST_QUERIES):
        listed(admin_client)


def test_a_list_does_not_read_payloads_and_results(admin_client: Client) -> None:
    submit("demo.slices")

    assert {"payload", "result"} <= listed(admin_client)[0].get_deferred_fields()


def test_jobs_are_counted_up_to_a_limit(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.admin.MOST_COUNTED", 3)
    submit_many("demo.slices", [{}] * 5)

    page = admin_client.get(reverse(JOBS))

    assert page.context["cl"].result_count == 3
    assert "or more" in page.content.decode()


def test_an_id_finds_its_job(admin_client: Client) -> None:
    wanted = submit("demo.slices")
    submit("demo.slices")

    assert listed(admin_client, q=f" {wanted.id} ") == [wanted]


@pytest.mark.parametrize("term", ["0192", "no-such-id", UNKNOWN, "%", "\\"])
def test_what_is_no_jobs_id_finds_nothing(admin_client: Client, term: str) -> None:
    submit("demo.slices", owner="ada")

    assert listed(admin_client, q=term) == []


def test_an_owner_finds_their_jobs(admin_client: Client) -> None:
    wanted = submit("demo.slices", owner="ada")
    submit("demo.slices", owner="adam")

    assert listed(admin_client, q="ada") == [wanted]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"status__exact": "FAILED"}, True),
        ({"status__exact": "RUNNING"}, False),
        ({"kind": "demo.slices"}, True),
        ({"kind": "orchestration.draw"}, False),
        ({"queue": "io"}, True),
        ({"queue": "default"}, False),
        ({"created": "hour"}, True),
        ({"created": "no such span"}, True),
        ({"part": "whole"}, True),
        ({"part": "child"}, False),
    ],
)
def test_a_filter_keeps_what_fits(admin_client: Client, filters: dict[str, str], found: bool) -> None:
    Kind.objects.create(name="demo.slices", queue="io")
    job = failed_job()

    assert listed(admin_client, **filters) == ([job] if found else [])


def test_the_filter_by_age_leaves_out_older_jobs(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    submit("demo.slices")
    in_two_hours = timezone.now() + timedelta(hours=2)
    monkeypatch.setattr("orchestrator.admin.timezone.now", lambda: in_two_hours)

    assert listed(admin_client, created="hour") == []
    assert len(listed(admin_client, created="day")) == 1


def test_a_job_shows_its_work_and_every_attempt(admin_client: Client) -> None:
    job = failed_job(celery_task_id="5f0e")
    Attempt.objects.create(job=job, number=3, outcome="RAISED", error="ValueError: no", traceback="Traceback <here>")

    page = shown(admin_client, job)

    assert "&quot;slices&quot;: 5" in page
    assert "Traceback &lt;here&gt;" in page
    assert 'href="http://testserver:5555/task/5f0e"' in page
    assert f'href="/jobs/{job.id}"' in page


def test_a_result_is_shown_as_json_even_when_it_is_null(admin_client: Client) -> None:
    job = failed_job()
    Job.objects.filter(id=job.id).update(status=Status.COMPLETED, error="", result={"sum": {"of": [1]}})

    assert "&quot;sum&quot;: {" in shown(admin_client, job)


def test_what_is_too_large_is_cut(admin_client: Client) -> None:
    job = failed_job(payload={"text": "x" * 100_000})

    page = shown(admin_client, job)

    assert len(page) < 200_000
    assert "characters more" in page


def test_a_pipeline_leads_to_its_children_and_they_to_it(admin_client: Client) -> None:
    parent = submit("orchestration.two_batches", owner="ada")
    child = parent.children.get(name="first_sum")

    page = shown(admin_client, parent)

    assert "12 children</a>: 12 CREATED" in page
    assert len(listed(admin_client, parent__id__exact=parent.id)) == 12
    assert reverse("admin:orchestrator_job_change", args=[parent.id]) in shown(admin_client, child)


def test_jobs_can_be_cancelled(admin_client: Client, admin_user: User) -> None:
    first, second, third = (submit("demo.slices") for _ in range(3))

    page = act(admin_client, "cancel_selected", first, second)

    assert "Asked to cancel 2 jobs." in page
    assert [Job.objects.get(id=job.id).status for job in (first, second, third)] == ["CANCELLED"] * 2 + ["CREATED"]
    assert LogEntry.objects.filter(user=admin_user, object_id=str(first.id)).count() == 1


def test_jobs_can_be_retried(admin_client: Client) -> None:
    job = failed_job()

    page = act(admin_client, "retry_selected", job)

    assert "Asked for another try of 1 job." in page
    assert Job.objects.get(id=job.id).status == Status.CREATED


def test_a_refusal_is_told_and_holds_up_no_other_job(admin_client: Client) -> None:
    failed, waiting = failed_job(), submit("demo.slices")

    page = act(admin_client, "cancel_selected", failed, waiting)

    assert f"{failed.id}: The job is already FAILED" in page
    assert "Asked to cancel 1 job." in page
    assert Job.objects.get(id=waiting.id).status == Status.CANCELLED


def test_many_refusals_are_summed_up(admin_client: Client) -> None:
    jobs = [failed_job() for _ in range(12)]

    page = act(admin_client, "cancel_selected", *jobs)

    assert page.count("The job is already FAILED") == 10
    assert "Likewise refused: 2 jobs more." in page


def test_retrying_a_job_whose_kind_is_gone_is_refused(admin_client: Client) -> None:
    job = failed_job(kind="gone.away")

    assert "There is no kind" in act(admin_client, "retry_selected", job)


@pytest.mark.parametrize(("button", "status"), [("cancel_this", "CREATED"), ("retry_this", "CANCELLED")])
def test_a_button_asks_before_it_acts(admin_client: Client, button: str, status: str) -> None:
    job = submit("demo.slices")
    if status == "CANCELLED":
        cancel(job.id)
    url = reverse(f"admin:orchestrator_job_{button}", args=[job.id])

    question = admin_client.get(url).content.decode()
    before = Job.objects.get(id=job.id).status
    answer = admin_client.post(url, {"_form_submitted": "True"})

    assert "this job" in question
    assert before == status
    assert answer["HX-Redirect"] == reverse("admin:orchestrator_job_change", args=[job.id])
    assert Job.objects.get(id=job.id).status != status


@pytest.mark.parametrize("id", ["no-such-id", UNKNOWN])
def test_a_button_of_no_job_is_not_found(admin_client: Client, id: str) -> None:
    url = reverse("admin:orchestrator_job_cancel_this", args=[id])

    assert admin_client.post(url, {"_form_submitted": "True"}).status_code == 404


def test_only_viewing_allows_no_action() -> None:
    client = staff_with("view_job")
    job = submit("demo.slices")

    act(client, "cancel_selected", job)
    answer = client.post(reverse("admin:orchestrator_job_cancel_this", args=[job.id]), {"_form_submitted": "True"})

    assert listed(client) == [job]
    assert answer.status_code == 403
    assert Job.objects.get(id=job.id).status == Status.CREATED


def test_the_permission_to_change_jobs_allows_the_actions() -> None:
    client = staff_with("view_job", "change_job")
    job = submit("demo.slices")

    act(client, "cancel_selected", job)

    assert Job.objects.get(id=job.id).status == Status.CANCELLED


@pytest.mark.parametrize("model", ["job", "attempt", "worker", "kind"])
def test_what_the_engine_writes_is_not_added_by_hand(admin_client: Client, model: str) -> None:
    assert admin_client.get(reverse(f"admin:orchestrator_{model}_add")).status_code == 403


def test_a_job_is_neither_changed_nor_deleted_by_hand(admin_client: Client) -> None:
    job = submit("demo.slices")

    change = admin_client.post(reverse("admin:orchestrator_job_change", args=[job.id]), {"status": "COMPLETED"})
    delete = admin_client.post(reverse("admin:orchestrator_job_delete", args=[job.id]), {"post": "yes"})

    assert (change.status_code, delete.status_code) == (403, 403)
    assert Job.objects.get(id=job.id).status == Status.CREATED


def test_attempts_are_found_by_their_jobs_id(admin_client: Client, django_assert_max_num_queries: Any) -> None:
    wanted, other = failed_job(), failed_job()
    attempts = [Attempt.objects.create(job=job, number=1, outcome="LOST", error="gone") for job in (wanted, other)]
    page = "admin:orchestrator_attempt_changelist"

    with django_assert_max_num_queries(MOST_QUERIES):
        assert listed(admin_client, page) == attempts[::-1]

    assert listed(admin_client, page, q=str(wanted.id)) == attempts[:1]
    assert listed(admin_client, page, q="no id") == []
    assert admin_client.get(reverse("admin:orchestrator_attempt_change", args=[attempts[0].id])).status_code == 200


def hired(name: str, **fields: Any) -> Worker:
    return Worker.objects.create(name=name, queues=["io"], host="here", pid=1, process_started="1", **fields)


def test_workers_alive_come_first_with_the_number_of_their_jobs(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    alive, ended, draining = hired("a"), hired("b", ended_at=Now()), hired("c", draining_at=Now(), trying={"x": 1})
    for _ in range(2):
        job = submit("demo.slices")
        Job.objects.filter(id=job.id).update(status=Status.RUNNING, ready=False, worker=alive)

    with django_assert_max_num_queries(MOST_QUERIES):
        rows = listed(admin_client, "admin:orchestrator_worker_changelist")

    assert rows == [draining, alive, ended]
    assert [row.leased_jobs for row in rows] == [0, 2, 0]


@pytest.mark.parametrize("life", ["alive", "draining", "ended", "lost"])
def test_workers_are_filtered_by_where_they_are_in_their_life(admin_client: Client, life: str) -> None:
    workers = {
        "alive": hired("a"),
        "draining": hired("b", draining_at=Now()),
        "ended": hired("c", ended_at=Now()),
        "lost": hired("d", ended_at=Now(), lost=True),
    }

    assert listed(admin_client, "admin:orchestrator_worker_changelist", life=life) == [workers[life]]
    assert admin_client.get(reverse("admin:orchestrator_worker_change", args=[workers[life].id])).status_code == 200


def test_kinds_tell_how_many_of_their_jobs_are_ready_and_running(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    for name in ("demo.slices", "orchestration.draw"):
        Kind.objects.create(name=name, queue="io")
    job, *_ = [submit("demo.slices") for _ in range(3)]
    Job.objects.filter(id=job.id).update(status=Status.RUNNING, ready=False)

    with django_assert_max_num_queries(MOST_QUERIES):
        rows = listed(admin_client, KINDS)

    assert [(row.name, row.ready, row.running) for row in rows] == [
        ("demo.slices", 2, 1),
        ("orchestration.draw", 0, 0),
    ]


def test_kinds_can_be_paused_and_resumed(admin_client: Client) -> None:
    kind = Kind.objects.create(name="demo.slices", queue="io")

    page = act(admin_client, "pause_selected", kind, page=KINDS)
    paused_at = Kind.objects.get().paused_at
    act(admin_client, "resume_selected", kind, page=KINDS)

    assert "Paused: demo.slices." in page
    assert paused_at is not None
    assert Kind.objects.get().paused_at is None


def test_pausing_twice_keeps_the_first_time() -> None:
    Kind.objects.create(name="demo.slices", queue="io")
    pause_kind("demo.slices")
    first = Kind.objects.get().paused_at

    pause_kind("demo.slices")

    assert Kind.objects.get().paused_at == first


def test_resuming_wakes_the_workers(monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any) -> None:
    rung = []
    monkeypatch.setattr(bell, "ring", lambda kind: rung.append(kind.name))
    Kind.objects.create(name="demo.slices", queue="io", paused_at=timezone.now())

    with django_capture_on_commit_callbacks(execute=True):
        resume_kind("demo.slices")

    assert rung == ["demo.slices"]


def test_a_kind_that_only_newer_workers_know_can_be_resumed() -> None:
    Kind.objects.create(name="newer.kind", queue="io", paused_at=timezone.now())

    resume_kind("newer.kind")

    assert Kind.objects.get().paused_at is None


@pytest.mark.parametrize("do", [pause_kind, resume_kind])
def test_an_unknown_kind_is_neither_paused_nor_resumed(do: Any) -> None:
    with pytest.raises(Kind.DoesNotExist):
        do("no.such_kind")


@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.label)
def test_every_list_and_form_opens_in_unfolds_dress(admin_client: Client, model: Any) -> None:
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"

    pages = [admin_client.get(reverse(f"{name}_changelist")), admin_client.get(reverse(f"{name}_add"))]

    assert pages[0].status_code == 200
    assert pages[1].status_code in (200, 403)
    assert isinstance(admin.site._registry[model], ModelAdmin)


def test_a_token_can_be_made_for_a_user(admin_client: Client, admin_user: User) -> None:
    page = admin_client.post(reverse("admin:knox_authtoken_add"), {"user": admin_user.pk}, follow=True)

    assert "TOKEN" in page.content.decode()
