"""Of the jobs that have a key only one is unfinished; and what leads to the completed one that keeps it."""

from django.db import migrations
from django.db.models import Index, Q, UniqueConstraint

from orchestrator.migrations._indexes import add_index, add_unique_index

JOB = ("job", "orchestrator_job")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0030_unique_keys"),
    ]

    operations = [
        add_unique_index(
            *JOB,
            UniqueConstraint(
                name="job_is_unique_while_unfinished",
                fields=["unique_key"],
                condition=Q(status__in=("CREATED", "RUNNING"), unique_key__isnull=False),
            ),
            "(unique_key) WHERE status IN ('CREATED', 'RUNNING') AND unique_key IS NOT NULL",
        ),
        add_index(
            *JOB,
            Index(
                name="job_completed_by_unique_key",
                fields=["unique_key"],
                condition=Q(status="COMPLETED", unique_until__isnull=False),
            ),
            "(unique_key) WHERE status = 'COMPLETED' AND unique_until IS NOT NULL",
        ),
    ]
