"""What became of the jobs of each kind in all, for metrics."""

import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0038_indexes_of_turns"),
    ]

    operations = [
        migrations.CreateModel(
            name="Total",
            fields=[
                ("kind", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("completed", models.BigIntegerField()),
                ("failed", models.BigIntegerField()),
                ("cancelled", models.BigIntegerField()),
                (
                    "waits",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(),
                        help_text="How many jobs waited how long: see rollups.durations.",
                        size=None,
                    ),
                ),
                (
                    "runs",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(),
                        help_text="How many jobs that completed ran for how long.",
                        size=None,
                    ),
                ),
                (
                    "outcomes",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(),
                        help_text="Attempts that did not complete, by Attempt.Outcome.",
                        size=None,
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
    ]
