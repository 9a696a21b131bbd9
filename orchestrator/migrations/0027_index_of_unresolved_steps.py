"""What leads the tick to steps that are left to resolve."""

from django.db import migrations
from django.db.models import Index, Q

from orchestrator.migrations._indexes import add_index


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0026_steps_of_graphs"),
    ]

    operations = [
        add_index(
            "job",
            "orchestrator_job",
            Index(
                name="job_unresolved",
                fields=["id"],
                condition=Q(status="CREATED", unfinished_dependencies=0, unresolved=True),
            ),
            "(id) WHERE status = 'CREATED' AND unfinished_dependencies = 0 AND unresolved",
        ),
    ]
