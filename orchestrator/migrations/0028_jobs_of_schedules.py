"""Jobs that know which schedule submitted them, and for when."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0027_index_of_unresolved_steps"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="schedule_id",
            field=models.UUIDField(help_text="The schedule that submitted it, even if deleted since.", null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="scheduled_for",
            field=models.DateTimeField(help_text="The occurrence of its schedule.", null=True),
        ),
    ]
