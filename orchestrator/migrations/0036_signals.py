"""Signals that jobs wait for, who may send them, and what was sent."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0035_cap_without_owner"),
    ]

    operations = [
        migrations.CreateModel(
            name="Signal",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=100)),
                ("body", models.JSONField(default=dict)),
                (
                    "sent_by",
                    models.CharField(
                        blank=True, help_text="Empty for a default, and for anonymous users.", max_length=150
                    ),
                ),
                ("is_default", models.BooleanField(default=False, help_text="None came in time, so this was taken.")),
                ("sent_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.AlterModelOptions(
            name="job",
            options={
                "permissions": [
                    ("cancel_job", "Can cancel jobs"),
                    ("retry_job", "Can retry jobs"),
                    ("signal_job", "Can send signals to jobs"),
                    ("reschedule_job", "Can change the priority and the start of jobs"),
                    ("submit_for_others", "Can submit jobs for other users"),
                    ("exceed_client_limits", "Can ask for more than the limits of clients allow"),
                    ("view_payload", "Can see payloads and results of jobs"),
                ]
            },
        ),
        migrations.AddField(
            model_name="step",
            name="signal",
            field=models.CharField(blank=True, db_default="", help_text="The signal it waits for.", max_length=100),
        ),
        migrations.AddField(
            model_name="step",
            name="wait",
            field=models.JSONField(help_text="What else is said of the signal: see graphs.waits.", null=True),
        ),
        migrations.AddField(
            model_name="step",
            name="waits_since",
            field=models.DateTimeField(help_text="Since when nothing but the signal is awaited.", null=True),
        ),
        migrations.AddField(
            model_name="step",
            name="waits_until",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="signal",
            name="job",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="signals",
                to="orchestrator.job",
            ),
        ),
        migrations.AddConstraint(
            model_name="signal",
            constraint=models.UniqueConstraint(fields=("job", "name"), name="signal_is_sent_once"),
        ),
    ]
