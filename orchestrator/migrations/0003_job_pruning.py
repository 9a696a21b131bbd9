"""Marks a job that is too much to be pruned at once."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0002_attempts_only_rise"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="pruning",
            field=models.BooleanField(db_default=False, help_text="It is being deleted, its children first."),
        ),
    ]
