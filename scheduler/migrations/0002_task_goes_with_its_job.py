"""A task is pruned with its latest run. Only Django knows of it; the database is as it was."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("scheduler", "0001_initial"),
    ]

    operations = [
        migrations.AlterField(
            model_name="task",
            name="job",
            field=models.ForeignKey(
                help_text="The latest run of it, with which it is pruned.",
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to="orchestrator.job",
            ),
        ),
    ]
