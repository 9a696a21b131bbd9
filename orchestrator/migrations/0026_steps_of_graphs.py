"""What steps of graphs have beside their jobs, and which jobs wait for what those say."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0025_paused_queues"),
    ]

    operations = [
        migrations.CreateModel(
            name="Step",
            fields=[
                (
                    "job",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="step",
                        serialize=False,
                        to="orchestrator.job",
                    ),
                ),
                (
                    "payload",
                    models.JSONField(
                        help_text="The payload with references to earlier results, if it has any.", null=True
                    ),
                ),
                ("condition", models.JSONField(help_text="When it runs; null: always.", null=True)),
                ("on_failure", models.CharField(default="fail", max_length=10)),
                (
                    "outcome",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("SKIPPED", "it was not to run"),
                            ("PASSING", "it failed, and what comes after it is to go on"),
                            ("PASSED", "it failed, and what comes after it goes on"),
                        ],
                        db_default="",
                        max_length=7,
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.AddField(
            model_name="job",
            name="unresolved",
            field=models.BooleanField(
                db_default=False,
                help_text="A step whose payload or condition depends on earlier results, which are awaited.",
            ),
        ),
        migrations.AddIndex(
            model_name="step",
            index=models.Index(condition=models.Q(("outcome", "PASSING")), fields=["job"], name="step_passing"),
        ),
    ]
