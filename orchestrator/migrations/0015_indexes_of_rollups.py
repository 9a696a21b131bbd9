"""What leads the rollups to attempts and to children of pipelines by the time of their end."""

from django.db import migrations
from django.db.models import Index, Q

from orchestrator.migrations._indexes import add_index


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0014_rollups"),
    ]

    operations = [
        add_index(
            "attempt", "orchestrator_attempt", Index(name="attempt_by_ended_at", fields=["ended_at"]), "(ended_at)"
        ),
        add_index(
            "job",
            "orchestrator_job",
            Index(
                name="job_child_finished_by_kind",
                fields=["kind", "finished_at"],
                condition=Q(finished_at__isnull=False, parent__isnull=False),
            ),
            "(kind, finished_at) WHERE finished_at IS NOT NULL AND parent_id IS NOT NULL",
        ),
    ]
