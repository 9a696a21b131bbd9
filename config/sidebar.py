"""The admin's sidebar, in Muster's words: what one looks at daily first, Beat's internals last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.urls import reverse_lazy

from orchestrator.admin.home import failed_lately


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """Unfold asks for it on each page."""
    failed = failed_lately(request)
    daily = [
        {"title": "Home", "icon": "monitoring", "link": reverse_lazy("admin:index")},
        _item("Jobs", "work", "orchestrator", "job", badge=f"{failed:,}" if failed else ""),
        _item("Tasks", "calculate", "scheduler", "task"),
        _item("Schedules", "event_repeat", "scheduler", "taskschedule"),
        _item("Ingestions", "upload_file", "ingestion", "ingestion"),
    ]
    engine = [
        _item("Kinds", "category", "orchestrator", "kind"),
        _item("Owners", "group_work", "orchestrator", "ownershare"),
        _item("Workers", "memory", "orchestrator", "worker"),
        _item("Failed attempts", "error", "orchestrator", "attempt"),
        _item("Notifications", "notifications", "orchestrator", "notification"),
        _item("Deliveries", "outgoing_mail", "orchestrator", "delivery"),
    ]
    records = [
        _item("Students", "school", "ingestion", "record"),
        _item("Rejected records", "rule", "ingestion", "recorderror"),
    ]
    access = [
        _item("Users", "person", "auth", "user"),
        _item("Groups", "group", "auth", "group"),
        _item("Tokens", "key", "knox", "authtoken"),
        _item("Audit", "history", "access", "auditentry"),
    ]
    beat = [
        _item("Periodic tasks", "task", "django_celery_beat", "periodictask"),
        _item("Intervals", "timer", "django_celery_beat", "intervalschedule"),
        _item("Crontabs", "schedule", "django_celery_beat", "crontabschedule"),
        _item("Solar events", "wb_sunny", "django_celery_beat", "solarschedule"),
        _item("Clocked", "alarm", "django_celery_beat", "clockedschedule"),
    ]
    return [
        {"items": daily},
        _section("Engine", engine),
        _section("Records", records),
        _section("Access", access),
        _section("Beat’s internals", beat, collapsible=True),
    ]


def _section(title: str, items: list[dict[str, Any]], **options: bool) -> dict[str, Any]:
    return {"title": title, "separator": True, "items": items, **options}


def _item(title: str, icon: str, app: str, model: str, badge: str = "") -> dict[str, Any]:
    shown = {"badge": badge, "badge_variant": "danger"} if badge else {}
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{app}_{model}_changelist"),
        "permission": _may_see(app, model),
        **shown,
    }


def _may_see(app: str, model: str) -> Callable[[HttpRequest], bool]:
    names = (f"{app}.view_{model}", f"{app}.change_{model}")
    return lambda request: any(request.user.has_perm(name) for name in names)
