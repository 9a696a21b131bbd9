"""How many jobs a worker process runs at once, to tell when all of its slots hang."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0008_leases_outlive_outages"),
    ]

    operations = [
        migrations.AddField(
            model_name="worker",
            name="slots",
            field=models.IntegerField(db_default=1, help_text="How many jobs it runs at once."),
        ),
    ]
