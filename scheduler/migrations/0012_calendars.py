"""Calendars, and what schedules take from their times and add to them."""

import django.contrib.postgres.fields
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("scheduler", "0011_constraints_of_schedules"),
    ]

    operations = [
        migrations.CreateModel(
            name="Calendar",
            fields=[
                ("name", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("description", models.TextField(blank=True, db_default="", default="", max_length=2000)),
                (
                    "country",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        help_text="Closed on its public holidays: DE.",
                        max_length=3,
                    ),
                ),
                (
                    "subdivision",
                    models.CharField(
                        blank=True, db_default="", default="", help_text="The part of the country: BY.", max_length=10
                    ),
                ),
                (
                    "weekdays",
                    models.JSONField(
                        blank=True,
                        db_default=models.Value([], models.JSONField()),
                        default=list,
                        help_text="The open ones, MO to SU; all if there are none.",
                    ),
                ),
                (
                    "hours",
                    models.JSONField(
                        blank=True,
                        db_default=models.Value([], models.JSONField()),
                        default=list,
                        help_text="Open from one time to another: 09:00-17:00; at any time if there are none.",
                    ),
                ),
                (
                    "closed_days",
                    models.JSONField(
                        blank=True,
                        db_default=models.Value([], models.JSONField()),
                        default=list,
                        help_text="Days, or from one to another: 2030-12-24, 2030-12-24/2031-01-01.",
                    ),
                ),
                (
                    "open_days",
                    models.JSONField(
                        blank=True,
                        db_default=models.Value([], models.JSONField()),
                        default=list,
                        help_text="Days that are open whatever else is said.",
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                ),
                (
                    "updated_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                ),
            ],
        ),
        migrations.AddField(
            model_name="taskschedule",
            name="calendars",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=100),
                blank=True,
                db_default=models.Value(
                    [],
                    django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=100), size=None),
                ),
                default=list,
                help_text="Names of calendars, all of which have to be open.",
                size=None,
            ),
        ),
        migrations.AddField(
            model_name="taskschedule",
            name="exclude",
            field=models.JSONField(
                blank=True,
                db_default=models.Value([], models.JSONField()),
                default=list,
                help_text="Days and times at which it does not run.",
            ),
        ),
        migrations.AddField(
            model_name="taskschedule",
            name="include",
            field=models.JSONField(
                blank=True,
                db_default=models.Value([], models.JSONField()),
                default=list,
                help_text="Times at which it runs besides, and days on which it runs whatever excludes them.",
            ),
        ),
        migrations.AddField(
            model_name="taskschedule",
            name="on_closed",
            field=models.CharField(
                choices=[
                    ("skip", "do not run"),
                    ("next", "run on the next open day"),
                    ("previous", "run on the last open day before"),
                ],
                db_default="skip",
                default="skip",
                max_length=8,
            ),
        ),
    ]
