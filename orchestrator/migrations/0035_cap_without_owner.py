"""What has no owner counts for the cap on unfinished jobs, too; only jobs of kinds with such a cap have an entry."""

from django.db import migrations
from django.db.models import Index, Q

from orchestrator.migrations._indexes import add_index


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0034_exceed_client_limits"),
    ]

    operations = [
        add_index(
            "job",
            "orchestrator_job",
            Index(
                name="job_unfinished_unowned",
                fields=["kind"],
                condition=Q(limited=True, parent=None, status__in=("CREATED", "RUNNING"), owner=""),
            ),
            "(kind) WHERE limited AND parent_id IS NULL AND status IN ('CREATED', 'RUNNING') AND owner = ''",
        ),
    ]
