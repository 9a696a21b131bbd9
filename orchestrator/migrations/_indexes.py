"""Indexes built and dropped while others work, by migrations that can be run again wherever they were interrupted."""

from django.db import migrations, models


def add_index(model: str, table: str, index: models.Index, definition: str) -> migrations.SeparateDatabaseAndState:
    """Built without anybody waiting; one that an earlier try has finished is taken as it is."""
    return migrations.SeparateDatabaseAndState(
        state_operations=[migrations.AddIndex(model, index)],
        database_operations=[migrations.RunSQL(_create(table, index.name, definition), _drop(index.name))],
    )


def add_unique_index(
    model: str, table: str, constraint: models.UniqueConstraint, definition: str
) -> migrations.SeparateDatabaseAndState:
    """A constraint that is a unique index, because it has a condition; built likewise."""
    create = _create(table, constraint.name, definition).replace("CREATE INDEX", "CREATE UNIQUE INDEX")
    return migrations.SeparateDatabaseAndState(
        state_operations=[migrations.AddConstraint(model, constraint)],
        database_operations=[migrations.RunSQL(create, _drop(constraint.name))],
    )


def remove_index(model: str, table: str, name: str, definition: str) -> migrations.SeparateDatabaseAndState:
    """Dropped without anybody waiting. definition: to build it again, should the migration be undone."""
    return migrations.SeparateDatabaseAndState(
        state_operations=[migrations.RemoveIndex(model, name)],
        database_operations=[migrations.RunSQL(_drop(name), _create(table, name, definition))],
    )


def _create(table: str, name: str, definition: str) -> str:
    return f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} {definition}"


def _drop(name: str) -> str:
    return f"DROP INDEX CONCURRENTLY IF EXISTS {name}"
