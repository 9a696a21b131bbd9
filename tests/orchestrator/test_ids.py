"""Ids of jobs sort by the time and order of their making."""

from __future__ import annotations

import time
from itertools import chain

from orchestrator.ids import uuid7
from tests.orchestrator.workbench import threads


def test_each_id_is_greater_than_the_one_before() -> None:
    ids = [uuid7() for _ in range(20_000)]

    assert ids == sorted(set(ids))


def test_ids_made_in_threads_differ() -> None:
    with threads(4) as call:
        parts = [call(lambda: [uuid7() for _ in range(5_000)]) for _ in range(4)]
        ids = list(chain.from_iterable(part.result() for part in parts))

    assert len(set(ids)) == 20_000


def test_an_id_is_a_version_7_uuid_of_about_now() -> None:
    made = uuid7()

    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert abs((made.int >> 80) / 1000 - time.time()) < 60
