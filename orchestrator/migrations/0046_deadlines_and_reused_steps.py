"""Pipelines with deadlines, and steps whose results are those of an earlier pipeline."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0045_traceparent"),
    ]

    operations = [
        migrations.AlterField(
            model_name="step",
            name="outcome",
            field=models.CharField(
                blank=True,
                choices=[
                    ("SKIPPED", "it was not to run"),
                    ("PASSING", "it failed, and what comes after it is to go on"),
                    ("PASSED", "it failed, and what comes after it goes on"),
                    ("REUSED", "its result is that of an earlier pipeline"),
                ],
                db_default="",
                max_length=7,
            ),
        ),
        migrations.AddField(
            model_name="step",
            name="deadline_seconds",
            field=models.FloatField(help_text="Of a pipeline: it fails if it takes longer.", null=True),
        ),
        migrations.AddField(
            model_name="step",
            name="deadline_at",
            field=models.DateTimeField(help_text="When that is; null once it has passed.", null=True),
        ),
    ]
