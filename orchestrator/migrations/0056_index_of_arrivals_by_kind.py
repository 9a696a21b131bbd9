"""Builds the index that becomes the primary key of arrivals, which saves them one."""

from django.db import migrations

# By this name until it is the key, and takes the key's.
CREATE = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS arrival_key ON orchestrator_arrival (kind, id)"


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0055_held_back"),
    ]

    operations = [
        migrations.RunSQL(CREATE, "DROP INDEX CONCURRENTLY IF EXISTS arrival_key"),
    ]
