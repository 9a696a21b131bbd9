"""The admin of calendars."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from orchestrator.admin.unfold import ModelAdmin
from scheduler.models import Calendar, TaskSchedule
from scheduler.recurrence.rules import BadRecurrence
from scheduler.services.calendars import change_calendar, create_calendar, delete_calendar


class CalendarForm(forms.ModelForm):  # type: ignore[type-arg]
    """A calendar, checked as the API checks it."""

    class Meta:
        model = Calendar
        fields = (
            "name", "description", "country", "subdivision", "weekdays", "hours", "closed_days", "open_days",
        )  # fmt: skip

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        try:
            assert self.instance.rules
        except BadRecurrence as refusal:
            for name in refusal.fields:
                self.add_error(name.partition("/")[0], str(refusal))


@admin.register(Calendar)
class CalendarAdmin(ModelAdmin):
    form = CalendarForm
    list_display = ("name", "country", "subdivision", "weekdays", "hours", "updated_at")
    search_fields = ("name",)
    ordering = ("name",)
    actions = None

    def get_readonly_fields(self, request: HttpRequest, obj: Calendar | None = None) -> Any:
        """Schedules name it, so its name stays."""
        return ("name",) if obj else ()

    def save_model(self, request: HttpRequest, obj: Calendar, form: Any, change: bool) -> None:
        if change:
            change_calendar(obj.name, {name: form.cleaned_data[name] for name in form.changed_data})
        else:
            create_calendar(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Calendar | None = None) -> bool:
        """Only one that no schedule names can go."""
        used = obj is not None and self._schedules(obj).exists()
        return super().has_delete_permission(request, obj) and not used

    def delete_model(self, request: HttpRequest, obj: Calendar) -> None:
        delete_calendar(obj.name)

    def _schedules(self, calendar: Calendar) -> QuerySet[TaskSchedule]:
        return TaskSchedule.objects.filter(calendars__contains=[calendar.name])
