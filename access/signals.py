"""What only Django's signals report: log-ins, and users and groups changed by a command or in a shell.

What the admin changes it records itself, with the values before and after.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import Group, User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.http import HttpRequest

from access import audit


def connect() -> None:
    user_logged_in.connect(logged_in, dispatch_uid="access.logged_in")
    user_logged_out.connect(logged_out, dispatch_uid="access.logged_out")
    user_login_failed.connect(login_failed, dispatch_uid="access.login_failed")
    for model in (User, Group):
        post_save.connect(saved, sender=model, dispatch_uid=f"access.saved.{model.__name__}")
        post_delete.connect(deleted, sender=model, dispatch_uid=f"access.deleted.{model.__name__}")
    for through in (User.groups.through, User.user_permissions.through, Group.permissions.through):
        m2m_changed.connect(rights_changed, sender=through, dispatch_uid=f"access.rights.{through.__name__}")


def logged_in(user: Any, request: HttpRequest, **_: Any) -> None:
    audit.record("user.log_in", user.pk, user, request=request)


def logged_out(user: Any, request: HttpRequest, **_: Any) -> None:
    if user is not None:
        audit.record("user.log_out", user.pk, user, request=request)


def login_failed(credentials: Any, request: HttpRequest | None = None, **_: Any) -> None:
    audit.record("user.log_in_failed", "", credentials.get("username", ""), request=request)


def saved(instance: Any, created: bool, update_fields: Any = None, **_: Any) -> None:
    # Each log-in writes its time.
    if audit.has_request() or update_fields == frozenset({"last_login"}):
        return
    rights = ("username", "is_active", "is_staff", "is_superuser")
    after = {name: getattr(instance, name) for name in rights if hasattr(instance, name)}
    audit.record(f"{audit.key_of(instance)}.{'create' if created else 'change'}", instance.pk, instance, after=after)


def deleted(instance: Any, **_: Any) -> None:
    if not audit.has_request():
        audit.record(f"{audit.key_of(instance)}.delete", instance.pk, instance)


def rights_changed(instance: Any, action: str, reverse: bool, model: Any, pk_set: Any, **_: Any) -> None:
    if audit.has_request() or action not in ("post_add", "post_remove", "post_clear"):
        return
    rows = {str(model._meta.verbose_name_plural): list(model.objects.filter(pk__in=pk_set or ()))}
    before, after = (rows, None) if action == "post_remove" else (None, rows)
    audit.record(f"{audit.key_of(instance)}.change", instance.pk, instance, before=before, after=after)
