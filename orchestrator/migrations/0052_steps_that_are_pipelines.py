"""Steps that are pipelines themselves."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0051_ready_jobs_by_owner_only"),
    ]

    operations = [
        migrations.AddField(
            model_name="step",
            name="nested",
            field=models.JSONField(
                help_text="Of a step that is a pipeline, what its steps are to be: graphs.nesting.", null=True
            ),
        ),
    ]
