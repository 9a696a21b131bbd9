"""Notifications that a schedule names for when its jobs fail."""

import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("scheduler", "0013_declared_schedules"),
    ]

    operations = [
        migrations.AddField(
            model_name="taskschedule",
            name="on_failure",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.UUIDField(),
                blank=True,
                db_default=models.Value(
                    [], django.contrib.postgres.fields.ArrayField(base_field=models.UUIDField(), size=None)
                ),
                default=list,
                help_text="Ids of notifications that tell when one of its jobs has failed, beside those that match "
                "the job.",
                size=None,
            ),
        ),
    ]
