"""Triggers that tell the claim who has new jobs."""

from django.db import migrations

# Whatever makes jobs ready says so in the same transaction, so the claim overlooks no owner. An update says so for each
# row, since a trigger with all rows of a statement would keep a copy of each job that is completed.
JOBS_ARRIVED = """
CREATE FUNCTION orchestrator_jobs_arrived() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
INSERT INTO orchestrator_arrival (kind, owner) SELECT DISTINCT kind, owner FROM arrived WHERE ready; RETURN NULL; END $$
"""
JOB_ARRIVED = """
CREATE FUNCTION orchestrator_job_arrived() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
INSERT INTO orchestrator_arrival (kind, owner) VALUES (NEW.kind, NEW.owner); RETURN NULL; END $$
"""
AFTER_INSERT = """
CREATE TRIGGER orchestrator_jobs_arrived AFTER INSERT ON "orchestrator_job"
REFERENCING NEW TABLE AS arrived FOR EACH STATEMENT EXECUTE FUNCTION orchestrator_jobs_arrived()
"""
AFTER_UPDATE = """
CREATE TRIGGER orchestrator_job_arrived AFTER UPDATE ON "orchestrator_job"
FOR EACH ROW WHEN (NEW.ready AND NOT OLD.ready) EXECUTE FUNCTION orchestrator_job_arrived()
"""


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0039_totals"),
    ]

    operations = [
        migrations.RunSQL(JOBS_ARRIVED, "DROP FUNCTION orchestrator_jobs_arrived()"),
        migrations.RunSQL(JOB_ARRIVED, "DROP FUNCTION orchestrator_job_arrived()"),
        migrations.RunSQL(AFTER_INSERT, 'DROP TRIGGER orchestrator_jobs_arrived ON "orchestrator_job"'),
        migrations.RunSQL(AFTER_UPDATE, 'DROP TRIGGER orchestrator_job_arrived ON "orchestrator_job"'),
    ]
