"""Since when a schedule's owner has no room for its occurrences."""

import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("scheduler", "0015_task_schedules_are_called_schedules"),
    ]

    operations = [
        migrations.AddField(
            model_name="taskschedule",
            name="held_since",
            field=models.DateTimeField(
                editable=False,
                help_text="Since when its owner has no room for its occurrences; None: there is.",
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="taskschedule",
            name="queued",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.DateTimeField(),
                blank=True,
                db_default=models.Value(
                    [], django.contrib.postgres.fields.ArrayField(base_field=models.DateTimeField(), size=None)
                ),
                default=list,
                editable=False,
                help_text="Occurrences that wait until fewer jobs of it, or of its owner, are unfinished; oldest first.",
                size=None,
            ),
        ),
    ]
