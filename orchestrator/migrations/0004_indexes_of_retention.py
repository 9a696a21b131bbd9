"""Finds finished jobs by age."""

from django.db import migrations, models


def index(name: str, definition: str, described: models.Index) -> migrations.SeparateDatabaseAndState:
    """Built without anybody waiting; one that an earlier try has finished is taken as it is."""
    return migrations.SeparateDatabaseAndState(
        state_operations=[migrations.AddIndex("job", described)],
        database_operations=[
            migrations.RunSQL(
                f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON orchestrator_job {definition}",
                f"DROP INDEX CONCURRENTLY IF EXISTS {name}",
            )
        ],
    )


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0003_job_pruning"),
    ]

    operations = [
        index(
            "job_finished_by_kind",
            "(kind, finished_at) WHERE finished_at IS NOT NULL AND parent_id IS NULL",
            models.Index(
                condition=models.Q(("finished_at__isnull", False), ("parent", None)),
                fields=["kind", "finished_at"],
                name="job_finished_by_kind",
            ),
        ),
        index(
            "job_pruning",
            "(id) WHERE pruning",
            models.Index(condition=models.Q(("pruning", True)), fields=["id"], name="job_pruning"),
        ),
    ]
