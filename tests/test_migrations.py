"""Every migration since the first release can run while others work, and leaves the release before it at work.

What is allowed is listed here; see docs/upgrades.md for how the rest is done in several releases.
"""

from __future__ import annotations

import re

import pytest
from django.contrib.postgres.operations import AddConstraintNotValid, AddIndexConcurrently, ValidateConstraint
from django.db import connection, migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.migration import Migration

OURS = ("orchestrator", "scheduler", "ingestion", "access")
# They made the tables of the first release, on which nobody worked yet.
FIRST = {
    ("orchestrator", "0001_initial"),
    ("scheduler", "0001_initial"),
    ("ingestion", "0001_initial"),
    # They make tables of their own, and triggers on that of users, which few write. See tests/access/test_upgrade.py.
    ("access", "0001_initial"),
    ("access", "0002_audit"),
}

NAME = r'"[a-z_0-9]+"'
# The table's lock is held for a moment, and nothing that a release before writes or reads is taken away.
AT_ONCE = (
    rf"ALTER TABLE {NAME} ADD COLUMN {NAME} (?!.*(UNIQUE|REFERENCES|CHECK)).*(DEFAULT .* NOT NULL|NULL)",
    rf"ALTER TABLE {NAME} (RE)?SET \(.*\)",
    rf"ALTER TABLE {NAME} ADD CONSTRAINT {NAME} .* NOT VALID",
    rf"ALTER TABLE {NAME} DROP CONSTRAINT {NAME}",
    # Of an index that is there, of columns that are never null.
    rf"ALTER TABLE {NAME} DROP CONSTRAINT {NAME}, ADD CONSTRAINT {NAME} PRIMARY KEY USING INDEX {NAME}",
    rf"ALTER TABLE {NAME} ALTER COLUMN {NAME} (SET DEFAULT .*|DROP NOT NULL|SET STORAGE (EXTERNAL|EXTENDED))",
    r"COMMENT ON .*",
    # One that is replaced has the same arguments and result, or PostgreSQL refuses.
    r"CREATE (OR REPLACE )?FUNCTION .*",
    # What it runs with: who runs it meanwhile goes on as before.
    r"ALTER FUNCTION \w+\([^()]*\) SET \w+ = \w+",
    rf"CREATE TRIGGER \w+ AFTER (INSERT|UPDATE) ON {NAME} .*",
    # Into a table that nobody reads yet.
    r'INSERT INTO "orchestrator_arrival" .*',
    # From varchar(5), which writes no row anew.
    r'ALTER TABLE "scheduler_taskschedule" ALTER COLUMN "overlap" TYPE varchar\(14\)',
    # From numeric(40, 10), which writes no row anew, and of which a release before reads and writes as ever.
    r'ALTER TABLE "scheduler_[a-z]+" ALTER COLUMN "(a|b|result)" TYPE numeric',
)
# It takes its time, but nobody waits for it. Only outside a transaction.
CONCURRENTLY = (
    r"(CREATE|CREATE UNIQUE|DROP) INDEX CONCURRENTLY .*",
    rf"ALTER TABLE {NAME} VALIDATE CONSTRAINT {NAME}",
)

# With the bodies of functions, which are statements themselves.
STATEMENT = re.compile(r"(?:\$\$.*?\$\$|.)+?(?:;\n|\Z)", re.DOTALL)

AT_LEAST_NO_ATTEMPT = models.CheckConstraint(name="new", condition=models.Q(attempt__gte=0))


def statements_of(migration: Migration) -> list[str]:
    """The SQL of a migration as it would run now."""
    loader = MigrationLoader(connection, replace_migrations=False)
    key = (migration.app_label, migration.name)
    if key in loader.graph.nodes:
        state = loader.project_state(key, at_end=False)
    else:
        state = loader.project_state([node for node in loader.graph.leaf_nodes() if node[0] == migration.app_label])
    with connection.schema_editor(collect_sql=True, atomic=migration.atomic) as editor:
        migration.apply(state, editor, collect_sql=True)
    lines = "\n".join(editor.collected_sql).splitlines()
    script = "\n".join(line for line in lines if not line.startswith("--"))
    return [" ".join(statement.split()).rstrip("; ") for statement in STATEMENT.findall(script)]


def complaints(migration: Migration) -> list[str]:
    """What of the migration could hold up those who work, or break the release before."""
    if any(isinstance(operation, migrations.RunPython) for operation in migration.operations):
        return ["RunPython: data are changed by upkeep, in small transactions, and not by a migration."]
    statements = [statement for statement in statements_of(migration) if statement.strip()]
    created = set(re.findall(rf"CREATE TABLE ({NAME})", "\n".join(statements)))
    allowed = AT_ONCE if migration.atomic else CONCURRENTLY
    old = [each for each in statements if not (touched(each) & created) and not each.startswith("CREATE TABLE")]
    found = [each for each in old if not any(re.fullmatch(form, each, re.DOTALL) for form in allowed)]
    if len(set().union(*map(touched, old))) > 1 and migration.atomic:
        found.append("It locks two tables at once; make it two migrations.")
    return found


def touched(statement: str) -> set[str]:
    return set(re.findall(rf"(?:ALTER TABLE|INDEX .* ON|COMMENT ON TABLE) ({NAME})", statement)[:1])


def our_migrations() -> dict[tuple[str, str], Migration]:
    disk = MigrationLoader(None).disk_migrations
    return {key: migration for key, migration in disk.items() if key[0] in OURS and key not in FIRST}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("key", sorted(our_migrations()), ids="/".join)
def test_a_migration_is_safe_on_a_live_table(key: tuple[str, str]) -> None:
    assert complaints(our_migrations()[key]) == []


def migration_of(*operations: migrations.operations.base.Operation, atomic: bool = True) -> Migration:
    made = Migration("tried", "orchestrator")
    vars(made).update(operations=list(operations), atomic=atomic)
    return made


@pytest.mark.django_db
@pytest.mark.parametrize(
    "operation",
    [
        migrations.AddField("job", "new", models.IntegerField(default=1)),
        migrations.AddField("job", "new", models.IntegerField(null=True, unique=True)),
        migrations.AddField("job", "new", models.ForeignKey("orchestrator.Worker", models.CASCADE, null=True)),
        migrations.AddField("job", "new", models.IntegerField(null=True, db_index=True)),
        migrations.AddIndex("job", models.Index(name="new", fields=["name"])),
        migrations.AddConstraint("job", models.UniqueConstraint(name="new", fields=["name"])),
        migrations.AddConstraint("job", AT_LEAST_NO_ATTEMPT),
        migrations.AlterField("job", "priority", models.IntegerField(db_default=5)),
        migrations.RemoveField("job", "name"),
        migrations.RenameField("job", "name", "new"),
        migrations.AlterModelTable("job", "new"),
        migrations.DeleteModel("upkeep"),
        migrations.RunSQL("UPDATE orchestrator_job SET name = ''"),
        migrations.RunPython(migrations.RunPython.noop),
    ],
    ids=lambda operation: operation.describe(),
)
def test_what_is_not_safe_is_found(operation: migrations.operations.base.Operation) -> None:
    assert complaints(migration_of(operation))


@pytest.mark.django_db
def test_two_tables_locked_at_once_are_found() -> None:
    fields = [migrations.AddField(model, "new", models.IntegerField(null=True)) for model in ("job", "attempt")]

    assert complaints(migration_of(*fields)) == ["It locks two tables at once; make it two migrations."]


@pytest.mark.django_db(transaction=True)
def test_indexes_and_constraints_have_a_way_that_nobody_waits_for() -> None:
    index = AddIndexConcurrently("job", models.Index(name="new", fields=["name"]))
    not_valid = AddConstraintNotValid("job", AT_LEAST_NO_ATTEMPT)

    assert complaints(migration_of(index, atomic=False)) == []
    assert complaints(migration_of(not_valid)) == []
    assert complaints(migration_of(not_valid, ValidateConstraint("job", "new"), atomic=False)) != []


@pytest.mark.django_db
@pytest.mark.parametrize(
    "operation",
    [
        migrations.AddField("job", "new", models.IntegerField(null=True)),
        migrations.AddField("job", "new", models.CharField(max_length=5, db_default="")),
        migrations.CreateModel("new", [("id", models.BigAutoField(primary_key=True)), ("n", models.IntegerField())]),
        migrations.AlterField("attempt", "outcome", models.CharField(max_length=11, choices=[("NEW", "new")])),
    ],
    ids=lambda operation: operation.describe(),
)
def test_what_is_safe_passes(operation: migrations.operations.base.Operation) -> None:
    assert complaints(migration_of(operation)) == []
