"""Finds the steps of which items may not start yet."""

from django.db import migrations
from django.db.models import Index, Q

from orchestrator.migrations._indexes import add_index


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0043_items_of_steps"),
    ]

    operations = [
        add_index(
            "step",
            "orchestrator_step",
            Index(name="step_released", fields=["job"], condition=Q(released__isnull=False)),
            "(job_id) WHERE released IS NOT NULL",
        )
    ]
