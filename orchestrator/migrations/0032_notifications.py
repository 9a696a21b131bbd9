"""Who is told of the ends of jobs, and what became of each message."""

import django.contrib.postgres.fields
import django.core.validators
import django.db.models.functions.datetime
from django.db import migrations, models

import orchestrator.ids
import orchestrator.models.notifications


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0031_indexes_of_unique_keys"),
    ]

    operations = [
        migrations.CreateModel(
            name="Delivery",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "message_id",
                    models.UUIDField(
                        default=orchestrator.ids.uuid7, editable=False, help_text="The same for each attempt at it."
                    ),
                ),
                ("notification_id", models.UUIDField()),
                ("job_id", models.UUIDField(help_text="Null for a test message.", null=True)),
                ("kind", models.CharField(blank=True, max_length=100)),
                (
                    "type",
                    models.CharField(
                        help_text="The event: job.completed, job.failed, job.cancelled, or test.", max_length=50
                    ),
                ),
                ("data", models.JSONField(help_text="What is told of the job: as it was when it ended.")),
                (
                    "state",
                    models.CharField(
                        choices=[("PENDING", "to be sent"), ("DELIVERED", "Delivered"), ("GAVE_UP", "not delivered")],
                        default="PENDING",
                        max_length=9,
                    ),
                ),
                ("attempts", models.IntegerField(default=0)),
                ("response_status", models.IntegerField(null=True)),
                ("response", models.CharField(blank=True, default="", max_length=1000)),
                ("error", models.CharField(blank=True, default="", max_length=1000)),
                ("by_digest", models.BooleanField(default=False)),
                ("digest_job", models.UUIDField(help_text="The job that sends it together with others.", null=True)),
                (
                    "sending_until",
                    models.DateTimeField(help_text="An attempt is under way until then, at most.", null=True),
                ),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("delivered_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name_plural": "deliveries",
                "indexes": [
                    models.Index(
                        condition=models.Q(("state", "PENDING")),
                        fields=["notification_id", "id"],
                        name="delivery_pending",
                    ),
                    models.Index(fields=["notification_id", "-id"], name="delivery_of_notification"),
                    models.Index(fields=["job_id"], name="delivery_of_job"),
                    models.Index(fields=["created_at"], name="delivery_by_age"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Notification",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=orchestrator.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("name", models.CharField(max_length=100)),
                (
                    "owner",
                    models.CharField(
                        blank=True,
                        default="",
                        help_text="Whose jobs it is about; empty: everyone's.",
                        max_length=150,
                    ),
                ),
                (
                    "via",
                    models.CharField(
                        choices=[
                            ("webhook", "webhook (Standard Webhooks)"),
                            ("slack", "Slack, or what takes its webhooks"),
                            ("mail", "mail"),
                        ],
                        max_length=7,
                    ),
                ),
                (
                    "target",
                    models.CharField(help_text="A URL, or mail addresses separated by commas.", max_length=2000),
                ),
                (
                    "secret",
                    models.CharField(
                        blank=True, default="", help_text="Signs the messages of a webhook.", max_length=100
                    ),
                ),
                (
                    "old_secret",
                    models.CharField(blank=True, default="", help_text="Signs them, too, until then.", max_length=100),
                ),
                ("old_secret_until", models.DateTimeField(null=True)),
                (
                    "automatic",
                    models.BooleanField(
                        default=True, help_text="For every job that matches; otherwise only for jobs that name it."
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        blank=True, default="", help_text="Jobs of this kind; empty: of any.", max_length=100
                    ),
                ),
                (
                    "statuses",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(
                            choices=[("COMPLETED", "COMPLETED"), ("FAILED", "FAILED"), ("CANCELLED", "CANCELLED")],
                            max_length=9,
                        ),
                        default=orchestrator.models.notifications.all_ends,
                        help_text="The ends that it is about: COMPLETED, FAILED, CANCELLED.",
                        size=None,
                    ),
                ),
                ("children", models.BooleanField(default=False, help_text="Also for the children of pipelines.")),
                (
                    "digest_seconds",
                    models.IntegerField(
                        default=0,
                        help_text="At most one message in this time, about all that ended meanwhile; 0: one for each job.",
                        validators=[django.core.validators.MaxValueValidator(86400)],
                    ),
                ),
                ("digested_at", models.DateTimeField(null=True)),
                ("digest_job", models.UUIDField(help_text="The job that sends the latest digest.", null=True)),
                ("enabled", models.BooleanField(default=True)),
                ("disabled_reason", models.CharField(blank=True, default="", max_length=200)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("changed_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "indexes": [models.Index(fields=["owner", "-id"], name="notification_of_owner")],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("digest_seconds__range", (0, 86400))),
                        name="notification_digest_is_bounded",
                    )
                ],
            },
        ),
    ]
