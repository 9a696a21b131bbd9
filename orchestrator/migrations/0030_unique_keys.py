"""What makes a job the same as another, and how long it keeps that once it has completed."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0029_indexes_of_scheduled_jobs"),
    ]

    operations = [
        migrations.AddField(
            "job",
            "unique_key",
            models.UUIDField(null=True, help_text="What it shares with the same jobs: see orchestrator.unique."),
        ),
        migrations.AddField(
            "job",
            "unique_until",
            models.DateTimeField(null=True, help_text="It keeps its key until then, once it has completed."),
        ),
    ]
