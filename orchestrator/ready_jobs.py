"""SQL that finds ready jobs by the index of the claim, which has them by kind, owner and rank."""

# Of so many owners the most urgent job of a kind is looked for, where nothing depends on finding that very one.
MAX_OWNERS = 100

# Each is found by the one before, so what else an owner has ready costs nothing. Sorted as the index is, or by old
# statistics PostgreSQL would rather read the whole table.
HEADS = """
(
    WITH RECURSIVE head AS (
        (
            SELECT owner, rank, id, queue, run_at, updated_at FROM orchestrator_job
            WHERE ready AND kind = {kind} ORDER BY owner, rank, id LIMIT 1
        )
        UNION ALL
        SELECT next.* FROM head CROSS JOIN LATERAL (
            SELECT owner, rank, id, queue, run_at, updated_at FROM orchestrator_job
            WHERE ready AND kind = {kind} AND owner > head.owner ORDER BY owner, rank, id LIMIT 1
        ) AS next
    )
    SELECT * FROM head LIMIT {most}
)
"""

# The kinds that have ready jobs, as a part of WITH RECURSIVE.
KINDS = """
waiting (kind) AS (
    (SELECT kind FROM orchestrator_job WHERE ready ORDER BY kind, owner, rank, id LIMIT 1)
    UNION ALL
    SELECT next.kind FROM waiting CROSS JOIN LATERAL (
        SELECT kind FROM orchestrator_job WHERE ready AND kind > waiting.kind ORDER BY kind, owner, rank, id LIMIT 1
    ) AS next
)
"""


def heads(kind: str, *, most: int = MAX_OWNERS) -> str:
    """The most urgent ready job of each owner of a kind, as a FROM item. kind: SQL for its name.

    most: of so many owners, in the order of their names.
    """
    return HEADS.format(kind=kind, most=most)


def most_urgent(kind: str) -> str:
    """The most urgent ready job of a kind, of at most MAX_OWNERS owners, as a FROM item."""
    return f"(SELECT * FROM {heads(kind)} AS head ORDER BY rank, id LIMIT 1)"  # noqa: S608
