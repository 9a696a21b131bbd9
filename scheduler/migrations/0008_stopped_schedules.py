"""Finds the few schedules that have stopped because of an error."""

from django.db import migrations
from django.db.models import Index, Q

from orchestrator.migrations._indexes import add_index


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("scheduler", "0007_tasks_of_owners"),
    ]

    operations = [
        add_index(
            "taskschedule",
            "scheduler_taskschedule",
            Index(
                name="schedule_stopped",
                fields=["id"],
                condition=Q(("enabled", True), ("next_run_at", None), ~Q(("last_error", ""))),
            ),
            "(id) WHERE enabled AND next_run_at IS NULL AND NOT (last_error = '')",
        )
    ]
