"""Drops the index of ready jobs by rank: the one by owner has become enough for all who ask."""

from django.db import migrations

from orchestrator.migrations._indexes import remove_index


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0050_compensations"),
    ]

    operations = [
        remove_index("job", "orchestrator_job", "job_ready_by_rank", "(kind, rank, id) WHERE ready"),
    ]
