"""What a kind wants is known to processes that do not know the kind."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0005_vacuum_jobs_often"),
    ]

    operations = [
        migrations.AddField(
            model_name="kind",
            name="keep_days",
            field=models.FloatField(help_text="How many days its jobs are kept by default; 0: forever.", null=True),
        ),
    ]
