"""The scheduler app."""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class SchedulerConfig(AppConfig):
    name = "scheduler"

    def ready(self) -> None:
        post_migrate.connect(sync_declared, sender=self)


def sync_declared(**_: Any) -> None:
    """A deploy migrates, once, before its processes start."""
    # Not above, since there are no models yet when an app is loaded.
    from django.db import connection

    from access import audit
    from scheduler.declarations import declared
    from scheduler.models import TaskSchedule
    from scheduler.services.declared import sync

    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        table = TaskSchedule._meta.db_table
        columns = connection.introspection.get_table_description(cursor, table) if table in tables else []
    # Unless they were migrated back to what there was before.
    if {field.column for field in TaskSchedule._meta.concrete_fields} <= {column.name for column in columns}:
        with audit.by_command():
            sync(declared.values())
