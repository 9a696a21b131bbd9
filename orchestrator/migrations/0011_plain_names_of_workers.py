"""Names in the code alone: the columns stay, for the release before, which may run beside this one."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0010_clock_of_leases"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RenameField("worker", "trying", "in_flight_batch"),
                migrations.RenameField("worker", "silent", "presumed_dead"),
                migrations.AlterField(
                    model_name="worker",
                    name="in_flight_batch",
                    field=models.JSONField(
                        db_column="trying",
                        default=dict,
                        help_text="The transactional jobs it is about to run: {job id: attempts before this one}.",
                    ),
                ),
                migrations.AlterField(
                    model_name="worker",
                    name="presumed_dead",
                    field=models.BooleanField(
                        db_column="silent",
                        db_default=False,
                        help_text="Its lease expired, but it may have been alive.",
                    ),
                ),
                migrations.AlterField(
                    model_name="worker",
                    name="ran",
                    field=models.IntegerField(
                        db_default=0, help_text="How many jobs it ran when it was declared dead."
                    ),
                ),
            ],
        ),
    ]
