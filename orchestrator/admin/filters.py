"""Filters of jobs, by what an index leads to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

from django.conf import settings
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from orchestrator import queries
from orchestrator.kinds import all_kinds
from orchestrator.models import Job, Kind
from orchestrator.steering.waiting import REASONS, waiting_for


class KindFilter(admin.SimpleListFilter):
    """By kind. The names come from the registry and the workers' reports, not from the jobs."""

    title = parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = {kind.name for kind in all_kinds()} | set(Kind.objects.values_list("name", flat=True))
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


class QueueFilter(admin.SimpleListFilter):
    """By the queue that jobs of their kind are served by now. An index leads to kinds, none to queues."""

    title = parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in settings.QUEUES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        if not self.value():
            return queryset
        return queryset.filter(kind__in=list(Kind.objects.filter(queue=self.value()).values_list("name", flat=True)))


class ScheduleFilter(admin.SimpleListFilter):
    """By the schedule that submitted them, which a link names: there are too many to offer. Also serves tasks."""

    title = parameter_name = "schedule"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        value = self.value()
        return [(value, value)] if value else []

    def has_output(self) -> bool:
        return bool(self.value())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        try:
            return queryset.filter(schedule_id=UUID(self.value())) if self.value() else queryset
        except ValueError:
            return queryset.none()


class WaitingFilter(admin.SimpleListFilter):
    """By what they wait for, as the list says it."""

    title, parameter_name = "waiting for", "waiting_for"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(reason, reason.replace("_", " ").capitalize()) for reason in REASONS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        reason = self.value()
        return queryset.filter(waiting_for([reason])) if reason in REASONS else queryset


class PipelineFilter(admin.SimpleListFilter):
    """Top-level jobs, or children of pipelines."""

    title = "pipeline"
    parameter_name = "part"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("whole", "Top-level jobs"), ("child", "Child jobs")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(parent__isnull=self.value() == "whole") if self.value() else queryset


class CreatedFilter(admin.SimpleListFilter):
    """By age."""

    title = parameter_name = "created"
    # By its name in the address: its label, and how far it reaches back.
    spans: ClassVar = {
        "minute": ("Past minute", timedelta(minutes=1)),
        "hour": ("Past hour", timedelta(hours=1)),
        "day": ("Past 24 hours", timedelta(days=1)),
        "week": ("Past 7 days", timedelta(days=7)),
        "month": ("Past 30 days", timedelta(days=30)),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, label) for name, (label, _) in self.spans.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        _, span = self.spans.get(self.value() or "", ("", None))
        return queries.created_between(queryset, timezone.now() - span, None) if span else queryset
