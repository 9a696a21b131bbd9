"""Owners take turns: their places, and what operators set for them."""

import django.core.validators
import django.db.models.functions.datetime
from django.db import migrations, models

# As those of jobs are, and for the same reason: what was read leaves dead entries where the claim looks first.
VACUUM_OFTEN = """
ALTER TABLE "orchestrator_turn" SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);
ALTER TABLE "orchestrator_arrival" SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);
"""


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0036_signals"),
    ]

    operations = [
        migrations.CreateModel(
            name="Arrival",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(max_length=100)),
                ("owner", models.CharField(blank=True, max_length=150)),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="OwnerShare",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "owner",
                    models.CharField(
                        blank=True, help_text="Empty: all jobs that have no owner.", max_length=150, unique=True
                    ),
                ),
                (
                    "weight",
                    models.FloatField(
                        db_default=1.0,
                        default=1.0,
                        help_text="Its share beside others: one of weight 2 gets twice as much of the slots as one of weight 1.",
                        validators=[
                            django.core.validators.MinValueValidator(0.01),
                            django.core.validators.MaxValueValidator(100.0),
                        ],
                    ),
                ),
                (
                    "slot_share",
                    models.FloatField(
                        blank=True,
                        help_text="The most of a queue's slots that it may hold, from 0.001 to 1; empty: OWNER_SLOT_SHARE.",
                        null=True,
                        validators=[
                            django.core.validators.MinValueValidator(0.001),
                            django.core.validators.MaxValueValidator(1.0),
                        ],
                    ),
                ),
                (
                    "paused_at",
                    models.DateTimeField(blank=True, help_text="Since when none of its jobs is started.", null=True),
                ),
            ],
            options={
                "permissions": [("pause_ownershare", "Can pause and resume owners")],
            },
        ),
        migrations.CreateModel(
            name="Turn",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(max_length=100)),
                ("owner", models.CharField(blank=True, max_length=150)),
                (
                    "clock",
                    models.FloatField(
                        help_text="Seconds of slots that it has used, by its weight; it counts on from others'."
                    ),
                ),
                (
                    "at",
                    models.FloatField(
                        help_text="Its place: its clock, less a head start for the priority of its next job."
                    ),
                ),
                (
                    "since",
                    models.BigIntegerField(
                        help_text="The arrival since which it waits; the earlier goes first at one place."
                    ),
                ),
                ("served", models.FloatField(help_text="What its clock showed when it was last served.")),
                (
                    "turn",
                    models.BigIntegerField(
                        help_text="The number of its last turn, or of the last one before it came."
                    ),
                ),
                ("new", models.BooleanField(help_text="It has had no turn since it came, or came back.")),
                ("idle", models.BooleanField(help_text="It has no ready job that may start.")),
                ("version", models.BigIntegerField(db_default=0, help_text="Rises with each job that arrives.")),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.AlterField(
            model_name="job",
            name="rank",
            field=models.DateTimeField(
                db_default=django.db.models.functions.datetime.Now(),
                help_text="Its place among its owner's jobs: run_at + priority x 60 s.",
            ),
        ),
        migrations.AddIndex(
            model_name="arrival",
            index=models.Index(fields=["kind", "id"], name="arrival_by_kind"),
        ),
        migrations.AddConstraint(
            model_name="ownershare",
            constraint=models.CheckConstraint(
                condition=models.Q(("weight__gte", 0.01), ("weight__lte", 100)), name="owner_weight_is_in_bounds"
            ),
        ),
        migrations.AddConstraint(
            model_name="ownershare",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("slot_share", None), models.Q(("slot_share__gte", 0.001), ("slot_share__lte", 1)), _connector="OR"
                ),
                name="owner_slot_share_is_in_bounds",
            ),
        ),
        migrations.AddIndex(
            model_name="turn",
            index=models.Index(
                condition=models.Q(("idle", False)), fields=["kind", "at", "since"], name="turn_by_place"
            ),
        ),
        migrations.AddIndex(
            model_name="turn",
            index=models.Index(
                condition=models.Q(("idle", False), ("new", False)), fields=["kind", "clock"], name="turn_by_clock"
            ),
        ),
        migrations.AddIndex(
            model_name="turn",
            index=models.Index(fields=["kind", "turn"], name="turn_by_number"),
        ),
        migrations.AddConstraint(
            model_name="turn",
            constraint=models.UniqueConstraint(fields=("kind", "owner"), name="turn_is_one_an_owner"),
        ),
        migrations.RunSQL(VACUUM_OFTEN, migrations.RunSQL.noop),
    ]
