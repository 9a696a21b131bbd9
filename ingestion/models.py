"""The tables of the ingestion: what was sent, the records that are stored, and those that could not be."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from orchestrator.models import Job


class Mode(models.TextChoices):
    """What becomes of the good records where others are bad."""

    PARTIAL = "partial", "store the good ones"
    ALL_OR_NOTHING = "all_or_nothing", "store all or none"


class OnConflict(models.TextChoices):
    """What becomes of a record whose student_id is stored already."""

    UPDATE = "update", "it replaces the stored one"
    SKIP = "skip", "the stored one is kept"
    ERROR = "error", "it is reported, and the stored one is kept"


class Ingestion(models.Model):
    """Records that were sent at once. The job has their progress, this row only what they are."""

    job = models.OneToOneField(
        Job, null=True, on_delete=models.CASCADE, help_text="None while an upload is being received."
    )
    mode = models.CharField(max_length=14, choices=Mode.choices, default=Mode.PARTIAL)
    on_conflict = models.CharField(max_length=6, choices=OnConflict.choices, default=OnConflict.UPDATE)
    total_records = models.IntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        permissions: ClassVar = [("cancel_ingestion", "Can cancel ingestions")]
        indexes: ClassVar = [
            # Serves: the admin's dates.
            models.Index(name="ingestion_by_age", fields=["created_at"]),
            # Serves: forgetting uploads that broke off.
            models.Index(name="ingestion_without_job_by_age", fields=["created_at"], condition=Q(job=None)),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(name="ingestion_mode_is_known", condition=Q(mode__in=Mode.values)),
            models.CheckConstraint(
                name="ingestion_on_conflict_is_known", condition=Q(on_conflict__in=OnConflict.values)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.total_records:,} records"


class Chunk(models.Model):
    """At most 1,000 records of an ingestion as they were sent: the work of one job."""

    ingestion = models.ForeignKey(Ingestion, on_delete=models.CASCADE, related_name="chunks", db_index=False)
    position = models.IntegerField()
    records = models.BinaryField(null=True, help_text="A line each, see records.as_line; none once all are stored.")
    stored_records = models.IntegerField(default=0)
    failed_records = models.IntegerField(default=0)

    class Meta:
        constraints: ClassVar = [
            # Also serves: the chunk of a job, and the counts of an ingestion.
            models.UniqueConstraint(name="chunk_position_is_unique", fields=["ingestion", "position"]),
        ]


class Record(models.Model):
    """A student record. Everyone has their own: the same student_id of another owner is another record."""

    owner = models.CharField(max_length=150, blank=True, db_collation="C")
    student_id = models.CharField(max_length=50, db_collation="C")
    first_name = models.CharField(max_length=100)
    last_name = models.CharField(max_length=100)
    email = models.CharField(max_length=255)
    grade = models.CharField(max_length=7)
    phone = models.CharField(max_length=20, blank=True, db_default="")
    section = models.CharField(max_length=10, blank=True, db_default="")
    roll_number = models.CharField(max_length=50, blank=True, db_default="")
    address = models.CharField(max_length=1_000, blank=True, db_default="")
    city = models.CharField(max_length=100, blank=True, db_default="")
    state = models.CharField(max_length=100, blank=True, db_default="")
    postal_code = models.CharField(max_length=20, blank=True, db_default="")
    country = models.CharField(max_length=100, blank=True, db_default="India")
    date_of_birth = models.DateField(null=True)
    # A row that is written a thousand at a time; the ingestion may be deleted, the record stays.
    ingestion = models.ForeignKey(
        Ingestion,
        null=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        help_text="The last to write it.",
    )
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [
            # Also serves: a record by its student_id.
            models.UniqueConstraint(name="record_is_stored_once", fields=["student_id", "owner"]),
        ]
        indexes: ClassVar = [
            # Serves: an owner's records, newest first.
            models.Index(name="record_by_owner", fields=["owner", "-id"]),
        ]

    def __str__(self) -> str:
        return self.student_id


class RecordError(models.Model):
    """A record that was not stored, and why."""

    ingestion = models.ForeignKey(Ingestion, on_delete=models.CASCADE, related_name="errors", db_index=False)
    index = models.IntegerField(help_text="Its index in the request, from 0.")
    student_id = models.CharField(max_length=50, blank=True, help_text="As far as it could be read.")
    errors = models.JSONField(help_text="[{field, code, message}]")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [
            # Also serves: the errors of an ingestion in the order of what was sent.
            models.UniqueConstraint(name="record_error_is_told_once", fields=["ingestion", "index"]),
        ]

    def __str__(self) -> str:
        return f"record {self.index}"
