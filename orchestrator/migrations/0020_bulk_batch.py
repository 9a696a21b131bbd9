"""The jobs that a bulk action is for, in batches."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0019_checkpoints"),
    ]

    operations = [
        migrations.CreateModel(
            name="BulkBatch",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.IntegerField()),
                ("size", models.IntegerField(help_text="How many jobs they were.")),
                (
                    "job_ids",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.UUIDField(), help_text="Empty once it is done.", size=None
                    ),
                ),
                ("found_at", models.DateTimeField(help_text="What has ended since then is another attempt's end.")),
                ("asked_by", models.JSONField(default=dict, help_text="As the audit trail has it.")),
                ("begun_at", models.DateTimeField(help_text="When somebody last began to do it.", null=True)),
                ("done_at", models.DateTimeField(null=True)),
                ("outcome", models.JSONField(default=dict, help_text="What became of how many jobs.")),
                (
                    "refusals",
                    models.JSONField(default=dict, help_text="Why, by the ids of the first jobs that were refused."),
                ),
                (
                    "action",
                    models.ForeignKey(
                        db_index=False,
                        help_text="The job that does it.",
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="batches",
                        to="orchestrator.job",
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.AddConstraint(
            model_name="bulkbatch",
            constraint=models.UniqueConstraint(fields=("action", "number"), name="bulk_batch_is_numbered"),
        ),
    ]
