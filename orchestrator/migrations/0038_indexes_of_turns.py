"""The indexes by which a claim finds the jobs of an owner: those that are ready, and those that hold a slot."""

from django.db import migrations
from django.db.models import Index, Q

from orchestrator.migrations._indexes import add_index

JOB = ("job", "orchestrator_job")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0037_owner_turns"),
    ]

    operations = [
        add_index(
            *JOB,
            Index(name="job_ready_by_owner", fields=["kind", "owner", "rank", "id"], condition=Q(ready=True)),
            "(kind, owner, rank, id) WHERE ready",
        ),
        add_index(
            *JOB,
            Index(name="job_leased_by_owner", fields=["queue", "owner"], condition=Q(worker__isnull=False)),
            "(queue, owner) WHERE worker_id IS NOT NULL",
        ),
    ]
