"""What a job goes on with after the children that it has added."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0048_owner_shares_are_called_owners"),
    ]

    operations = [
        migrations.AddField(
            model_name="step",
            name="resume_with",
            field=models.CharField(
                blank=True,
                db_default="",
                help_text="The function that goes on after the job's children.",
                max_length=100,
            ),
        ),
    ]
