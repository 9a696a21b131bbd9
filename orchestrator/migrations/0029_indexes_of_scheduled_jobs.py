"""What leads to a schedule's jobs, and keeps an occurrence from being two of them."""

from django.db import migrations
from django.db.models import Index, Q, UniqueConstraint

from orchestrator.migrations._indexes import add_index

JOB = ("job", "orchestrator_job")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0028_jobs_of_schedules"),
    ]

    operations = [
        add_index(
            *JOB,
            Index(name="job_by_schedule", fields=["schedule_id", "-id"], condition=Q(schedule_id__isnull=False)),
            "(schedule_id, id DESC) WHERE schedule_id IS NOT NULL",
        ),
        add_index(
            *JOB,
            Index(
                name="job_unfinished_by_schedule",
                fields=["schedule_id", "id"],
                condition=Q(schedule_id__isnull=False, status__in=("CREATED", "RUNNING")),
            ),
            "(schedule_id, id) WHERE schedule_id IS NOT NULL AND status IN ('CREATED', 'RUNNING')",
        ),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddConstraint(
                    "job",
                    UniqueConstraint(
                        name="job_once_an_occurrence",
                        fields=["schedule_id", "scheduled_for"],
                        condition=Q(scheduled_for__isnull=False),
                    ),
                )
            ],
            database_operations=[
                migrations.RunSQL(
                    "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS job_once_an_occurrence"
                    " ON orchestrator_job (schedule_id, scheduled_for) WHERE scheduled_for IS NOT NULL",
                    "DROP INDEX CONCURRENTLY IF EXISTS job_once_an_occurrence",
                )
            ],
        ),
    ]
