"""Builds the index that becomes the primary key of results, which saves them one."""

from django.db import migrations

# By this name until it is the key, and takes the key's.
CREATE = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS result_key ON scheduler_taskresult (task_id, id)"


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("scheduler", "0016_held_schedules"),
    ]

    operations = [
        migrations.RunSQL(CREATE, "DROP INDEX CONCURRENTLY IF EXISTS result_key"),
    ]
