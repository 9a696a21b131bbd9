"""Drops the index of results by task: their primary key has become as good."""

from django.db import migrations

from orchestrator.migrations._indexes import remove_index

# Only where this is undone: it becomes the key again.
BY_ID = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS result_by_id ON scheduler_taskresult (id)"


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("scheduler", "0018_key_of_results"),
    ]

    operations = [
        remove_index("taskresult", "scheduler_taskresult", "result_by_task", "(task_id, id DESC)"),
        migrations.RunSQL("DROP INDEX CONCURRENTLY IF EXISTS result_by_id", BY_ID),
    ]
