"""Chunks are stored as they were sent: they are soon dropped, and PostgreSQL takes longer to compress than to write them.

See decision 80.
"""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("ingestion", "0002_permissions"),
    ]

    operations = [
        migrations.RunSQL(
            'ALTER TABLE "ingestion_chunk" ALTER COLUMN "records" SET STORAGE EXTERNAL',
            'ALTER TABLE "ingestion_chunk" ALTER COLUMN "records" SET STORAGE EXTENDED',
        ),
    ]
