"""Finds finished jobs by age."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0003_job_pruning"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="job",
            index=models.Index(
                condition=models.Q(("finished_at__isnull", False), ("parent", None)),
                fields=["kind", "finished_at"],
                name="job_finished_by_kind",
            ),
        ),
        AddIndexConcurrently(
            model_name="job",
            index=models.Index(condition=models.Q(("pruning", True)), fields=["id"], name="job_pruning"),
        ),
    ]
