"""No index entry for what nobody looks for, and no index where another serves as well. See decision 34."""

from django.db import migrations
from django.db.models import Index, Q

from orchestrator.migrations._indexes import add_index, remove_index

JOB = ("job", "orchestrator_job")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0012_what_celery_task_id_is"),
    ]

    operations = [
        add_index(
            *JOB,
            Index(name="job_of_owner", fields=["owner", "-id"], condition=~Q(owner="")),
            "(owner, id DESC) WHERE owner <> ''",
        ),
        remove_index(*JOB, "job_by_owner", "(owner, id DESC)"),
        remove_index(*JOB, "job_running_by_deadline", "(deadline_at) WHERE deadline_at IS NOT NULL"),
    ]
