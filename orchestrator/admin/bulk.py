"""Actions on all jobs that match a list's filters, however many: a job in the background does them."""

from __future__ import annotations

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html

from access.permissions import owner_of
from orchestrator.admin.base import ask_first, is_across
from orchestrator.admin.filters import PipelineFilter
from orchestrator.admin.unfold import ModelAdmin
from orchestrator.client_limits import QuotaExceeded, limits_of
from orchestrator.models import Job
from orchestrator.steering.actions import eligible, start
from orchestrator.steering.batches import Verb
from orchestrator.steering.changing import Change
from orchestrator.steering.selection import BULK_ACTION

NOTE = (
    "It is done to those that match when you confirm, as a job in the background whose page shows how far it is. "
    "Children of pipelines are left alone unless the list is one of child jobs."
)
# Parts of a list's address by which children, and jobs of bulk actions, are meant.
CHILDREN_MEANT, BULK_ACTIONS_MEANT = {PipelineFilter.parameter_name, "parent", "parent__id__exact"}, {"kind"}


def act_on_all(
    model_admin: ModelAdmin, request: HttpRequest, verb: Verb, jobs: QuerySet[Job], change: Change | None = None
) -> TemplateResponse | None:
    """Asks, with the number of jobs, and then does it to all to which it can be done: those that are selected, or all
    that match.
    """
    matching = eligible(verb, _meant(request, jobs) if is_across(request) else jobs, change)
    if question := ask_first(model_admin, request, matching, verb.capitalize(), NOTE, in_background=True):
        return question
    filters = {"list": request.GET.urlencode()}
    try:
        started = start(
            verb, matching, filters, owner=owner_of(request.user), change=change, quotas=limits_of(request.user).quotas
        )
    except QuotaExceeded as refusal:
        model_admin.message_user(request, str(refusal), messages.WARNING)
        return None
    if started.job is None:
        model_admin.message_user(request, "No job matches any more.", messages.WARNING)
        return None
    page = reverse("admin:orchestrator_job_change", args=[started.job.id])
    done = f"{verb.capitalize()} {started.matched:,} jobs"
    text = format_html('{}: <a href="{}">this job</a> does it.', done, page)
    model_admin.message_user(request, text, messages.SUCCESS)
    if started.more:
        model_admin.message_user(request, "More match: choose the action again for them.", messages.WARNING)
    return None


def _meant(request: HttpRequest, jobs: QuerySet[Job]) -> QuerySet[Job]:
    if not CHILDREN_MEANT & request.GET.keys():
        jobs = jobs.filter(parent=None)
    return jobs if BULK_ACTIONS_MEANT & request.GET.keys() else jobs.exclude(kind=BULK_ACTION)
