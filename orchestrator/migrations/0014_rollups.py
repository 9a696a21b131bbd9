"""Figures of each kind by the minute and the hour, and what waits and runs now."""

import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0013_fewer_index_entries"),
    ]

    operations = [
        migrations.CreateModel(
            name="Backlog",
            fields=[
                ("kind", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("waiting", models.IntegerField(help_text="Jobs that could start now, counted up to a limit.")),
                ("oldest_since", models.DateTimeField(help_text="Since when the oldest of them could.", null=True)),
                ("running", models.IntegerField(help_text="Leased jobs, counted up to a limit.")),
                ("counted_at", models.DateTimeField()),
            ],
            options={"verbose_name_plural": "backlog", "default_permissions": ()},
        ),
        migrations.CreateModel(
            name="Rollup",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("span", models.CharField(choices=[("minute", "Minute"), ("hour", "Hour")], max_length=6)),
                ("begins_at", models.DateTimeField()),
                ("kind", models.CharField(max_length=100)),
                ("completed", models.IntegerField(help_text="Jobs that ended so.")),
                ("failed", models.IntegerField()),
                ("cancelled", models.IntegerField()),
                ("errors", models.IntegerField(help_text="Attempts that failed, whether or not there was another.")),
                (
                    "waits",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.IntegerField(),
                        help_text="How many jobs waited how long: see rollups.durations.",
                        size=None,
                    ),
                ),
                (
                    "runs",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.IntegerField(),
                        help_text="How many jobs that completed ran for how long.",
                        size=None,
                    ),
                ),
                ("first_failure_at", models.DateTimeField(null=True)),
                ("last_failure_at", models.DateTimeField(null=True)),
                (
                    "last_failed",
                    models.UUIDField(help_text="The job that failed last, or had an attempt fail.", null=True),
                ),
                ("last_error", models.TextField(blank=True)),
            ],
            options={"default_permissions": ()},
        ),
        migrations.AddConstraint(
            model_name="rollup",
            constraint=models.UniqueConstraint(fields=("span", "begins_at", "kind"), name="rollup_is_written_once"),
        ),
    ]
