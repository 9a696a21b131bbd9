"""The admin: what it shows of jobs, attempts, workers and kinds, what it lets people do, and what it costs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from unfold.admin import ModelAdmin

from orchestrator.models import Attempt, Job, Kind, Worker
from orchestrator.queue import bell
from orchestrator.queue.pausing import pause_kind, resume_kind
from orchestrator.states import Status
from orchestrator.submission import cancel, submit, submit_many
from tests.factories import staff_with
from tests.moves import put

pytestmark = pytest.mark.django_db
# As `config.urls` does, and now: each page is a test.
admin.autodiscover()

UNKNOWN = "01980c5e-7a00-7000-8000-000000000000"
JOBS = "admin:orchestrator_job_changelist"
KINDS = "admin:orchestrator_kind_changelist"
# A page of a list reads the session, the user, the count and the rows; the jobs' also what two filters offer and the
# kinds that are paused.
MAX_QUERIES = 10


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
    """Chooses an action for the rows, confirms it, and answers the page that follows."""
    chosen = {"action": action, "_selected_action": [str(row.pk) for row in rows], "confirmed": "yes"}
    return client.post(reverse(page), chosen, follow=True).content.decode()


def failed_job(**fields: Any) -> Job:
    job = submit("demo.slices", owner="ada")
    fields = {"error": "ValueError: no", "attempt": 3, **fields}
    put(Job.objects.filter(id=job.id), status=Status.FAILED, ready=False, finished_at=Now(), **fields)
    return Job.objects.get(id=job.id)


def test_the_newest_job_comes_first(admin_client: Client) -> None:
    first, second = submit("demo.slices"), submit("demo.slices")

    assert listed(admin_client) == [second, first]


def test_a_list_of_many_jobs_takes_as_few_queries_as_one_of_few(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    submit_many("demo.slices", [{}] * 200)
    submit("orchestration.two_batches", owner="ada")

    with django_assert_max_num_queries(MAX_QUERIES):
        listed(admin_client)


def test_a_list_does_not_read_payloads_and_results(admin_client: Client) -> None:
    submit("demo.slices")

    assert {"payload", "result"} <= listed(admin_client)[0].get_deferred_fields()


def test_jobs_are_counted_up_to_a_limit(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.admin.base.MAX_COUNTED", 3)
    submit_many("demo.slices", [{}] * 5)

    page = admin_client.get(reverse(JOBS))

    assert page.context["cl"].result_count == 3
    assert "or more" in page.content.decode()


def test_an_id_finds_its_job(admin_client: Client) -> None:
    wanted = submit("demo.slices")
    submit("demo.slices")

    assert listed(admin_client, q=f" {wanted.id} ") == [wanted]


@pytest.mark.parametrize("term", ["0192", "no-such-id", UNKNOWN, "%", "\\"])
def test_a_search_for_something_other_than_an_id_finds_nothing(admin_client: Client, term: str) -> None:
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
    monkeypatch.setattr("orchestrator.admin.filters.timezone.now", lambda: in_two_hours)

    assert listed(admin_client, created="hour") == []
    assert len(listed(admin_client, created="day")) == 1


def test_a_job_shows_its_work_and_every_attempt(admin_client: Client) -> None:
    job = failed_job(celery_task_id="by an older release")
    Attempt.objects.create(job=job, number=3, outcome="RAISED", error="ValueError: no", traceback="Traceback <here>")

    page = shown(admin_client, job)

    assert "&quot;slices&quot;: 5" in page
    assert "Traceback &lt;here&gt;" in page
    assert f'href="http://testserver:5555/task/{job.id}"' in page
    assert f'href="/jobs/{job.id}"' in page


def test_times_are_shown_to_the_second(admin_client: Client) -> None:
    job = submit("demo.slices")
    second = f"{job.created_at:%Y-%m-%d %H:%M:%S}"

    assert second in shown(admin_client, job)
    assert second in admin_client.get(reverse(JOBS)).content.decode()


def test_a_result_is_shown_as_json_even_when_it_is_null(admin_client: Client) -> None:
    job = failed_job()
    put(Job.objects.filter(id=job.id), status=Status.COMPLETED, error="", result={"sum": {"of": [1]}})

    assert "&quot;sum&quot;: {" in shown(admin_client, job)


def test_what_is_too_large_is_cut(admin_client: Client) -> None:
    job = failed_job(payload={"text": "x" * 100_000})

    page = shown(admin_client, job)

    assert len(page) < 200_000
    assert "more characters" in page


def test_a_pipeline_leads_to_its_children_and_they_to_it(admin_client: Client) -> None:
    parent = submit("orchestration.two_batches", owner="ada")
    child = parent.children.get(name="first_sum")

    page = shown(admin_client, parent)

    assert "all 12 children</a>" in page
    assert "12 CREATED" in page
    assert len(listed(admin_client, parent__id__exact=parent.id)) == 12
    assert reverse("admin:orchestrator_job_change", args=[parent.id]) in shown(admin_client, child)


def test_a_page_follows_the_last_key_of_the_one_before(admin_client: Client) -> None:
    ids = submit_many("demo.slices", [{}] * 120)[::-1]

    def page(address: str) -> tuple[list[Any], Any]:
        cl = admin_client.get(reverse(JOBS) + address).context["cl"]
        return [job.id for job in cl.result_list], cl

    first, cl = page("")
    second, cl = page(cl.older_url)
    submit("demo.slices")
    third, cl = page(cl.older_url)
    back, _ = page(cl.newer_url)

    assert (first, second, third) == (ids[:50], ids[50:100], ids[100:])
    assert back == second
    assert not cl.older_url


@pytest.mark.parametrize("place", ["older-than-nonsense", "newer-than-", "7", "x" * 50])
def test_a_place_that_makes_no_sense_is_the_first_page(admin_client: Client, place: str) -> None:
    job = submit("demo.slices")

    assert listed(admin_client, p=place) == [job]


@pytest.mark.parametrize(
    ("term", "found"),
    [
        ("payload.slices=7", True),
        ("payload.slices = 8", False),
        ("payload.nothing.here=7", False),
        ("bank", True),
        ("error:503 from", True),
        ("error:504", False),
        ("demo.slices", True),
        ("kind:demo.slices", True),
        ("kind:orchestration.draw", False),
        ("owner:ada", True),
        ("owner:bob", False),
    ],
)
def test_jobs_are_found_by_payload_error_kind_and_owner(admin_client: Client, term: str, found: bool) -> None:
    job = failed_job(error="Refused: 503 from the bank", payload={"slices": 7})

    assert listed(admin_client, q=term) == ([job] if found else [])


def test_only_the_newest_are_looked_through_and_that_is_said(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.admin.search.MAX_LOOKED_THROUGH", 2)
    for number in range(3):
        submit("demo.slices", {"slices": number + 1})

    page = admin_client.get(reverse(JOBS), {"q": "payload.slices=1"})

    assert list(page.context["cl"].result_list) == []
    assert "Among the newest 2 jobs" in page.content.decode()
    assert len(listed(admin_client, q="payload.slices=2")) == 1


def test_active_filters_are_named_and_removable(admin_client: Client) -> None:
    page = admin_client.get(reverse(JOBS), {"status__exact": "FAILED", "kind": "demo.slices", "q": "x"})

    content = page.content.decode()
    assert 'aria-label="Remove the filter status Failed"' in content
    assert 'aria-label="Remove the filter search x"' in content
    assert 'href="?q=x&amp;status__exact=FAILED"' in content


def test_an_action_asks_first_with_the_number_of_jobs(admin_client: Client) -> None:
    jobs = [submit("demo.slices") for _ in range(2)]

    chosen = {"action": "cancel_selected", "_selected_action": [str(job.pk) for job in jobs]}
    page = admin_client.post(reverse(JOBS), chosen).content.decode()

    assert "Cancel 2 jobs?" in page
    assert set(Job.objects.values_list("status", flat=True)) == {Status.CREATED}


def test_an_action_on_all_that_match_reaches_beyond_the_page(
    admin_client: Client, django_capture_on_commit_callbacks: Any
) -> None:
    failed = [failed_job() for _ in range(3)]
    other = submit("demo.slices")

    chosen = {
        "action": "retry_selected",
        "select_across": "1",
        "_selected_action": [str(failed[0].pk)],
        "confirmed": "yes",
    }
    with django_capture_on_commit_callbacks(execute=True):
        page = admin_client.post(f"{reverse(JOBS)}?kind=demo.slices", chosen, follow=True).content.decode()

    assert "Retry 3 jobs: <a href" in page
    assert set(Job.objects.filter(id__in=[job.id for job in failed]).values_list("status", flat=True)) == {"CREATED"}
    assert Job.objects.get(id=other.id).attempt == 0


def test_an_action_on_all_that_match_asks_with_their_number_and_leaves_children_alone(admin_client: Client) -> None:
    submit("orchestration.two_batches", owner="ada")
    chosen = {"action": "cancel_selected", "select_across": "1", "_selected_action": [str(failed_job().pk)]}

    page = admin_client.post(reverse(JOBS), chosen).content.decode()
    of_children = admin_client.post(f"{reverse(JOBS)}?part=child", chosen).content.decode()

    assert "Cancel 1 job?" in page
    assert "Cancel 12 jobs?" in of_children


@pytest.mark.parametrize(
    ("action", "priority", "ready"),
    [("urgent_selected", 0, False), ("least_urgent_selected", 9, False), ("start_selected", 5, True)],
)
def test_places_of_jobs_are_changed(
    admin_client: Client, django_capture_on_commit_callbacks: Any, action: str, priority: int, ready: bool
) -> None:
    job = submit("demo.slices", run_at=timezone.now() + timedelta(hours=1))

    with django_capture_on_commit_callbacks(execute=True):
        act(admin_client, action, job)

    changed = Job.objects.get(id=job.id)
    assert (changed.priority, changed.ready) == (priority, ready)


def test_an_action_stops_when_its_time_is_up_and_says_how_many_are_left(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.admin.base.MAX_SECONDS", -1)
    jobs = [submit("demo.slices") for _ in range(2)]

    page = act(admin_client, "cancel_selected", *jobs)

    assert "2 were left" in page
    assert set(Job.objects.values_list("status", flat=True)) == {Status.CREATED}


def test_jobs_can_be_cancelled(admin_client: Client, admin_user: User) -> None:
    first, second, third = (submit("demo.slices") for _ in range(3))

    page = act(admin_client, "cancel_selected", first, second)

    assert "Requested cancellation of 2 jobs." in page
    assert [Job.objects.get(id=job.id).status for job in (first, second, third)] == ["CANCELLED"] * 2 + ["CREATED"]
    assert LogEntry.objects.filter(user=admin_user, object_id=str(first.id)).count() == 1


def test_jobs_can_be_retried(admin_client: Client) -> None:
    job = failed_job()

    page = act(admin_client, "retry_selected", job)

    assert "Retried 1 job." in page
    assert Job.objects.get(id=job.id).status == Status.CREATED


def test_a_refusal_is_shown_and_holds_up_no_other_job(admin_client: Client) -> None:
    failed, waiting = failed_job(), submit("demo.slices")

    page = act(admin_client, "cancel_selected", failed, waiting)

    assert f"{failed.id}: The job is already FAILED" in page
    assert "Requested cancellation of 1 job." in page
    assert Job.objects.get(id=waiting.id).status == Status.CANCELLED


def test_many_refusals_are_summed_up(admin_client: Client) -> None:
    jobs = [failed_job() for _ in range(12)]

    page = act(admin_client, "cancel_selected", *jobs)

    assert page.count("The job is already FAILED") == 10
    assert "2 more refused." in page


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

    with django_assert_max_num_queries(MAX_QUERIES):
        assert listed(admin_client, page) == attempts[::-1]

    assert listed(admin_client, page, q=str(wanted.id)) == attempts[:1]
    assert listed(admin_client, page, q="no id") == []
    assert admin_client.get(reverse("admin:orchestrator_attempt_change", args=[attempts[0].id])).status_code == 200


def hired(name: str, **fields: Any) -> Worker:
    return Worker.objects.create(name=name, queues=["io"], host="here", pid=1, process_started="1", **fields)


def test_workers_alive_come_first_with_the_number_of_their_jobs(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    alive, ended, draining = (
        hired("a"),
        hired("b", ended_at=Now()),
        hired("c", draining_at=Now(), in_flight_batch={"x": 1}),
    )
    for _ in range(2):
        job = submit("demo.slices")
        Job.objects.filter(id=job.id).update(status=Status.RUNNING, ready=False, worker=alive)

    with django_assert_max_num_queries(MAX_QUERIES):
        rows = listed(admin_client, "admin:orchestrator_worker_changelist")

    assert rows == [draining, alive, ended]
    assert [row.leased_jobs for row in rows] == [0, 2, 0]


def test_a_worker_whose_slots_hang_is_marked(admin_client: Client) -> None:
    worker = hired("a", slots=8)
    job = submit("demo.slices")
    Job.objects.filter(id=job.id).update(
        status=Status.RUNNING, ready=False, worker=worker, deadline_at=Now() - timedelta(minutes=1)
    )

    page = admin_client.get(reverse("admin:orchestrator_worker_changelist"))

    assert "1 OF 8 HUNG" in page.content.decode()


@pytest.mark.parametrize("state", ["alive", "draining", "ended", "lost"])
def test_workers_are_filtered_by_their_state(admin_client: Client, state: str) -> None:
    workers = {
        "alive": hired("a"),
        "draining": hired("b", draining_at=Now()),
        "ended": hired("c", ended_at=Now()),
        "lost": hired("d", ended_at=Now(), lost=True),
    }

    assert listed(admin_client, "admin:orchestrator_worker_changelist", state=state) == [workers[state]]
    assert admin_client.get(reverse("admin:orchestrator_worker_change", args=[workers[state].id])).status_code == 200


def test_kinds_show_how_many_of_their_jobs_are_ready_and_running(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    for name in ("demo.slices", "orchestration.draw"):
        Kind.objects.create(name=name, queue="io")
    job, *_ = [submit("demo.slices") for _ in range(3)]
    Job.objects.filter(id=job.id).update(status=Status.RUNNING, ready=False)

    with django_assert_max_num_queries(MAX_QUERIES):
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

    assert "Paused demo.slices." in page
    assert paused_at is not None
    assert Kind.objects.get().paused_at is None


def test_kinds_are_filtered_by_whether_they_are_paused(admin_client: Client) -> None:
    active = Kind.objects.create(name="demo.slices", queue="io")
    paused = Kind.objects.create(name="orchestration.draw", queue="io", paused_at=timezone.now())

    assert listed(admin_client, KINDS, state="active") == [active]
    assert listed(admin_client, KINDS, state="paused") == [paused]


def test_pausing_twice_keeps_the_first_time() -> None:
    Kind.objects.create(name="demo.slices", queue="io")
    pause_kind("demo.slices")
    first = Kind.objects.get().paused_at

    pause_kind("demo.slices")

    assert Kind.objects.get().paused_at == first


def test_resuming_wakes_the_workers(monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any) -> None:
    rung: list[Any] = []
    monkeypatch.setattr(bell, "ring", rung.append)
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
def test_every_list_and_form_uses_unfolds_templates(admin_client: Client, model: Any) -> None:
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"

    pages = [admin_client.get(reverse(f"{name}_changelist")), admin_client.get(reverse(f"{name}_add"))]

    assert pages[0].status_code == 200
    assert pages[1].status_code in (200, 403)
    assert isinstance(admin.site._registry[model], ModelAdmin)


def test_a_token_can_be_made_for_a_user(admin_client: Client, admin_user: User) -> None:
    page = admin_client.post(reverse("admin:knox_authtoken_add"), {"user": admin_user.pk}, follow=True)

    assert "TOKEN" in page.content.decode()
