"""Finds the steps whose wait for a signal is over."""

from django.db import migrations
from django.db.models import Index, Q

from orchestrator.migrations._indexes import add_index


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0041_turns_of_waiting_jobs"),
    ]

    operations = [
        add_index(
            "step",
            "orchestrator_step",
            Index(name="step_waits_until", fields=["waits_until"], condition=Q(waits_until__isnull=False)),
            "(waits_until) WHERE waits_until IS NOT NULL",
        )
    ]
