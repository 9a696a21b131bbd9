"""Steps that are undone when their pipeline fails, and what a pipeline keeps of its definition."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0049_step_resume_with"),
    ]

    operations = [
        migrations.AddField(
            model_name="step",
            name="definition",
            field=models.JSONField(
                help_text="Of a pipeline that code defines: the version that planned it, and what it returns.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="step",
            name="compensate",
            field=models.JSONField(help_text="What undoes it, once it has completed: graphs.rows.", null=True),
        ),
        migrations.AddField(
            model_name="step",
            name="compensates",
            field=models.UUIDField(help_text="The job of its pipeline that it undoes.", null=True),
        ),
    ]
