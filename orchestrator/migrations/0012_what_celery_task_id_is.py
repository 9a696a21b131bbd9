"""A help text alone; nothing changes in the database."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0011_plain_names_of_workers"),
    ]

    operations = [
        migrations.AlterField(
            model_name="job",
            name="celery_task_id",
            field=models.CharField(
                blank=True,
                db_default="",
                help_text="Its id in Flower, which is its own id, once it was attempted.",
                max_length=50,
            ),
        ),
    ]
