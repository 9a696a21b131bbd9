"""Finds the pipelines that took too long."""

from django.db import migrations
from django.db.models import Index, Q

from orchestrator.migrations._indexes import add_index


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0046_deadlines_and_reused_steps"),
    ]

    operations = [
        add_index(
            "step",
            "orchestrator_step",
            Index(name="step_deadline", fields=["deadline_at"], condition=Q(deadline_at__isnull=False)),
            "(deadline_at) WHERE deadline_at IS NOT NULL",
        )
    ]
