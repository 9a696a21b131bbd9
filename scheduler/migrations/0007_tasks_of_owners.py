"""No index entry for a task that has no owner. See decision 34."""

from django.db import migrations
from django.db.models import Index, Q

from orchestrator.migrations._indexes import add_index, remove_index

TASK = ("task", "scheduler_task")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("scheduler", "0006_exact_results"),
    ]

    operations = [
        add_index(
            *TASK,
            Index(name="task_of_owner", fields=["owner", "-id"], condition=~Q(owner="")),
            "(owner, id DESC) WHERE owner <> ''",
        ),
        remove_index(*TASK, "task_by_owner", "(owner, id DESC)"),
    ]
