"""Finds the few schedules with occurrences that wait for earlier jobs to end."""

from django.db import migrations
from django.db.models import Index, Q

from orchestrator.migrations._indexes import add_index


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("scheduler", "0009_schedules_of_any_kind"),
    ]

    operations = [
        add_index(
            "taskschedule",
            "scheduler_taskschedule",
            Index(name="schedule_with_queue", fields=["id"], condition=~Q(queued=[])),
            "(id) WHERE NOT (queued = '{}')",
        )
    ]
