"""The models of Django and django-celery-beat in Unfold's look, as its documentation has them.

https://unfoldadmin.com/docs/installation/auth/ and /docs/integrations/django-celery-beat/
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django_celery_beat import admin as beat
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from orchestrator.admin.audit import AuditedAdmin
from orchestrator.admin.unfold import TabularInline

for model in (User, Group, PeriodicTask, IntervalSchedule, CrontabSchedule, SolarSchedule, ClockedSchedule):
    admin.site.unregister(model)


@admin.register(User)
class UnfoldUserAdmin(UserAdmin, AuditedAdmin):  # type: ignore[type-arg]
    """Who may change users gives nobody, and so not themselves, more than they have: that is for superusers."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fields = super().get_readonly_fields(request, obj)
        if request.user.is_superuser:
            return fields
        return (*fields, "is_staff", "is_superuser", "groups", "user_permissions")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and _may_touch(request.user, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and _may_touch(request.user, obj)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        deleted, counts, needed, protected = super().get_deleted_objects(objs, request)
        kept = [str(user) for user in objs if not _may_touch(request.user, user)]
        return deleted, counts, needed, [*protected, *kept]


def _may_touch(user: Any, other: User | None) -> bool:
    """Only superusers change users who have rights: whoever sets their password has those rights."""
    return user.is_superuser or other is None or other == user or not (other.is_superuser or other.is_staff)


@admin.register(Group)
class UnfoldGroupAdmin(GroupAdmin, AuditedAdmin):
    """What a group may do is for superusers to say, as what a user may do is."""

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return () if request.user.is_superuser else ("permissions",)


class UnfoldTaskSelect(UnfoldAdminSelectWidget, beat.TaskSelectWidget):  # type: ignore[misc]
    """The select of registered tasks."""


class UnfoldPeriodicTaskForm(beat.PeriodicTaskForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = UnfoldTaskSelect()


@admin.register(PeriodicTask)
class UnfoldPeriodicTaskAdmin(beat.PeriodicTaskAdmin, AuditedAdmin):  # type: ignore[misc]
    form = UnfoldPeriodicTaskForm
    # Beat's own template has a script in the page, which the policy of the admin forbids.
    change_form_template = None


class UnfoldPeriodicTaskInline(beat.PeriodicTaskInline, TabularInline):  # type: ignore[misc]
    pass


@admin.register(IntervalSchedule, SolarSchedule)
class UnfoldScheduleAdmin(AuditedAdmin):
    inlines = (UnfoldPeriodicTaskInline,)


@admin.register(CrontabSchedule)
class UnfoldCrontabAdmin(beat.CrontabScheduleAdmin, AuditedAdmin):  # type: ignore[misc]
    inlines = (UnfoldPeriodicTaskInline,)


@admin.register(ClockedSchedule)
class UnfoldClockedAdmin(beat.ClockedScheduleAdmin, AuditedAdmin):  # type: ignore[misc]
    inlines = (UnfoldPeriodicTaskInline,)
