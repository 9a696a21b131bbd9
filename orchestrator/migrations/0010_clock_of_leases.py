"""The clock of leases has a row of its own; a table of its own, so a migration of its own."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0009_worker_slots"),
    ]

    operations = [
        migrations.AddField(
            model_name="upkeep",
            name="seconds",
            field=models.FloatField(db_default=0, help_text="The time of the clock of leases."),
        ),
    ]
