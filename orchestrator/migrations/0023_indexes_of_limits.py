"""What limits look up. Jobs of kinds without limits have no entries there."""

from django.db import migrations
from django.db.models import Index, Q

from orchestrator.migrations._indexes import add_index, remove_index

JOB = ("job", "orchestrator_job")

COUNTS = Q(limited=True) & (Q(ready=True) | Q(worker__isnull=False))
COUNTS_SQL = "limited AND (ready OR worker_id IS NOT NULL)"
DUE = "NOT ready AND status = 'CREATED' AND unfinished_dependencies = 0"


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0022_limits_of_jobs"),
    ]

    operations = [
        add_index(
            *JOB,
            Index(
                name="job_due_by_run_at",
                fields=["run_at"],
                condition=Q(ready=False, status="CREATED", unfinished_dependencies=0, blocked_by=None),
            ),
            f"(run_at) WHERE blocked_by IS NULL AND {DUE}",
        ),
        remove_index(*JOB, "job_future_by_run_at", f"(run_at) WHERE {DUE}"),
        add_index(
            *JOB,
            Index(name="job_limited_by_owner", fields=["kind", "owner"], condition=COUNTS),
            f"(kind, owner) WHERE {COUNTS_SQL}",
        ),
        add_index(
            *JOB,
            Index(name="job_limited_by_key", fields=["kind", "limit_key"], condition=COUNTS),
            f"(kind, limit_key) WHERE {COUNTS_SQL}",
        ),
        add_index(
            *JOB,
            Index(
                name="job_blocked_by_limit",
                fields=["kind", "blocked_by", "rank", "id"],
                condition=Q(blocked_by__isnull=False, finished_at=None),
            ),
            "(kind, blocked_by, rank, id) WHERE blocked_by IS NOT NULL AND finished_at IS NULL",
        ),
    ]
