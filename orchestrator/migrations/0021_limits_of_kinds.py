"""What limits a kind declares, and what operators have set instead."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0020_bulk_batch"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="kind",
            options={
                "permissions": [
                    ("pause_kind", "Can pause and resume kinds"),
                    ("limit_kind", "Can change the limits of kinds"),
                ]
            },
        ),
        migrations.AddField(
            model_name="kind",
            name="declared_limits",
            field=models.JSONField(db_default={}, default=dict, help_text="The limits that its code declares."),
        ),
        migrations.AddField(
            model_name="kind",
            name="limits",
            field=models.JSONField(
                db_default={}, default=dict, help_text="What operators have set instead; null: no such limit."
            ),
        ),
        migrations.AddField(
            model_name="kind",
            name="limited",
            field=models.BooleanField(db_default=False, help_text="Whether its jobs have to wait for any limit."),
        ),
    ]
