"""What holds of schedules of any kind; and an owner's names are told apart."""

from django.contrib.postgres.operations import ValidateConstraint
from django.db import migrations
from django.db.models import Q, UniqueConstraint

from orchestrator.migrations._indexes import add_unique_index


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("scheduler", "0010_queued_occurrences"),
        ("orchestrator", "0029_indexes_of_scheduled_jobs"),
    ]

    operations = [
        ValidateConstraint("taskschedule", "schedule_adds_or_has_payload"),
        ValidateConstraint("taskschedule", "schedule_max_running_is_positive"),
        ValidateConstraint("taskschedule", "schedule_jitter_is_not_negative"),
        add_unique_index(
            "taskschedule",
            "scheduler_taskschedule",
            UniqueConstraint(name="schedule_name_is_its_owners_only", fields=["owner", "name"], condition=~Q(name="")),
            "(owner, name) WHERE NOT (name = '')",
        ),
    ]
