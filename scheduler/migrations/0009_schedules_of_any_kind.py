"""Schedules of any kind of job, with names, policies for those that have not ended, and jitter."""

import django.contrib.postgres.fields
from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models

import scheduler.models


class Migration(migrations.Migration):
    dependencies = [
        ("django_celery_beat", "0019_alter_periodictasks_options"),
        ("scheduler", "0008_stopped_schedules"),
    ]

    operations = [
        migrations.AddField(
            model_name="taskschedule",
            name="description",
            field=models.TextField(blank=True, db_default="", default="", max_length=2000),
        ),
        migrations.AddField(
            model_name="taskschedule",
            name="jitter_seconds",
            field=models.IntegerField(
                db_default=0,
                default=0,
                help_text="An occurrence starts up to so much later, always by the same amount.",
            ),
        ),
        migrations.AddField(
            model_name="taskschedule",
            name="kind",
            field=models.CharField(
                db_default="scheduler.add",
                default="scheduler.add",
                help_text="The kind of job that it submits.",
                max_length=100,
            ),
        ),
        migrations.AddField(
            model_name="taskschedule",
            name="max_running",
            field=models.IntegerField(
                db_default=1,
                default=1,
                help_text="How many of its jobs may be unfinished at once, unless overlap is allowed.",
            ),
        ),
        migrations.AddField(
            model_name="taskschedule",
            name="name",
            field=models.CharField(
                blank=True, db_default="", default="", help_text="Unique among its owner's.", max_length=100
            ),
        ),
        migrations.AddField(
            model_name="taskschedule",
            name="payload",
            field=models.JSONField(
                blank=True, help_text="Of its jobs; none if it adds two numbers, which are a and b.", null=True
            ),
        ),
        migrations.AddField(
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
                help_text="Occurrences that wait until fewer of its jobs are unfinished, oldest first.",
                size=None,
            ),
        ),
        migrations.AlterField(
            model_name="taskschedule",
            name="a",
            field=scheduler.models.ExactField(blank=True, decimal_places=324, max_digits=354, null=True),
        ),
        migrations.AlterField(
            model_name="taskschedule",
            name="b",
            field=scheduler.models.ExactField(blank=True, decimal_places=324, max_digits=354, null=True),
        ),
        migrations.AlterField(
            model_name="taskschedule",
            name="overlap",
            field=models.CharField(
                choices=[
                    ("allow", "run although earlier ones have not ended"),
                    ("skip", "leave out an occurrence while earlier ones have not ended"),
                    ("queue", "let it wait until earlier ones have ended"),
                    ("cancel_running", "cancel the oldest ones that have not ended"),
                ],
                default="allow",
                max_length=14,
            ),
        ),
        AddConstraintNotValid(
            model_name="taskschedule",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("a__isnull", False),
                        ("b__isnull", False),
                        ("kind", "scheduler.add"),
                        ("payload__isnull", True),
                    ),
                    models.Q(
                        models.Q(("kind", "scheduler.add"), _negated=True),
                        ("a", None),
                        ("b", None),
                        ("payload__isnull", False),
                    ),
                    _connector="OR",
                ),
                name="schedule_adds_or_has_payload",
            ),
        ),
        AddConstraintNotValid(
            model_name="taskschedule",
            constraint=models.CheckConstraint(
                condition=models.Q(("max_running__gte", 1)), name="schedule_max_running_is_positive"
            ),
        ),
        AddConstraintNotValid(
            model_name="taskschedule",
            constraint=models.CheckConstraint(
                condition=models.Q(("jitter_seconds__gte", 0)), name="schedule_jitter_is_not_negative"
            ),
        ),
    ]
