"""An index more."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("orchestrator", "n001_job_note")]
    operations = [
        AddIndexConcurrently(model_name="job", index=models.Index(name="job_by_note", fields=["note"])),
    ]
