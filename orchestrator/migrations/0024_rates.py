"""The starts that count for rates, and when what waits for a rate may go on."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0023_indexes_of_limits"),
    ]

    operations = [
        migrations.CreateModel(
            name="RateStart",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(max_length=100)),
                (
                    "lane",
                    models.CharField(
                        help_text="All of the kind, an owner or a key: see `queue.lanes`.", max_length=250
                    ),
                ),
                ("started_at", models.DateTimeField()),
            ],
            options={
                "default_permissions": (),
                "indexes": [models.Index(name="rate_start_by_lane", fields=["kind", "lane", "started_at"])],
            },
        ),
        migrations.CreateModel(
            name="RateWait",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(max_length=100)),
                ("lane", models.CharField(max_length=250)),
                ("due_at", models.DateTimeField()),
            ],
            options={
                "default_permissions": (),
                "indexes": [models.Index(name="rate_wait_by_due_at", fields=["due_at"])],
                "constraints": [models.UniqueConstraint(name="rate_wait_is_known_once", fields=("kind", "lane"))],
            },
        ),
    ]
