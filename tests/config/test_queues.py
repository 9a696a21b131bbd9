"""The queues that the setting QUEUES declares, and the settings of the release before."""

from __future__ import annotations

import warnings

import pytest
from django.core.exceptions import ImproperlyConfigured

from config.environment import DEFAULT_QUEUES
from config.queues import Queue, declare_by_old_settings, declared_queues


def test_a_queue_is_declared_with_its_pool_and_size() -> None:
    assert declared_queues("default:prefork:2, io:threads:32,gpu:prefork:1") == {
        "default": Queue("default", "prefork", 2),
        "io": Queue("io", "threads", 32),
        "gpu": Queue("gpu", "prefork", 1),
    }


def test_a_queue_of_processes_may_say_when_they_are_replaced() -> None:
    declared = declared_queues("gpu:prefork:1:max_tasks_per_child=100:max_memory_per_child=500000")

    assert declared == {"gpu": Queue("gpu", "prefork", 1, 100, 500_000)}


def test_the_order_is_that_of_the_setting() -> None:
    assert list(declared_queues("b:prefork:1,a:threads:1")) == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "declare 1 to 100 queues as name:pool:size"),
        (",".join(f"q{number}:threads:1" for number in range(101)), "declare 1 to 100 queues"),
        ("gpu", "after the name comes the pool, prefork .* or threads"),
        ("gpu:1", "after the name comes the pool"),
        ("gpu:solo:1", "after the name comes the pool"),
        ("gpu:prefork", "the size of a prefork pool is a whole number from 1 to 512, not ''"),
        ("gpu:prefork:0", "from 1 to 512, not '0'"),
        ("gpu:prefork:513", "from 1 to 512, not '513'"),
        ("gpu:threads:1.5", "the size of a threads pool is a whole number from 1 to 4,096, not '1.5'"),
        ("gpu:threads:²", "not '²'"),
        ("gpu:threads:4097", "from 1 to 4,096"),
        (":prefork:1", "a name has 1 to 50 letters"),
        (f"{'q' * 51}:prefork:1", "a name has 1 to 50 letters"),
        ("g/pu:prefork:1", "a name has 1 to 50 letters, digits, dots, underscores and hyphens"),
        ("control:prefork:1", "control is reserved"),
        ("gpu:prefork:1,gpu:prefork:2", "at 'gpu:prefork:2': gpu is declared twice"),
        ("gpu:prefork:1:max_tasks=3", "after the size may come max_tasks_per_child=… and max_memory_per_child=…"),
        ("gpu:prefork:1:max_tasks_per_child=3:max_tasks_per_child=4", "each once"),
        ("gpu:prefork:1:", "after the size may come"),
        ("gpu:prefork:1:max_tasks_per_child=0", "max_tasks_per_child is a whole number from 1 to 2,147,483,647"),
        ("gpu:prefork:1:max_memory_per_child=1GB", "max_memory_per_child is a whole number .*, not '1GB'"),
        ("io:threads:8:max_tasks_per_child=3", "max_tasks_per_child is for the processes of a prefork pool"),
    ],
)
def test_an_invalid_declaration_is_refused_with_what_would_be_right(text: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"^QUEUES .*{why}.*{DEFAULT_QUEUES}"):
        declared_queues(text)


@pytest.mark.parametrize(
    ("given", "declared"),
    [
        ({"WORKER_PROCESSES": "4"}, "default:prefork:4,io:threads:32"),
        ({"WORKER_THREADS": "8"}, "default:prefork:2,io:threads:8"),
        ({"QUEUES": "default,io", "WORKER_PROCESSES": "4", "WORKER_THREADS": "8"}, "default:prefork:4,io:threads:8"),
        ({"QUEUES": "default, io, reports"}, "default:prefork:2,io:threads:32,reports:prefork:2"),
        ({"QUEUES": "io,gpu:prefork:1"}, "io:threads:32,gpu:prefork:1"),
        ({"QUEUES": "default:prefork:3,io:threads:9", "WORKER_THREADS": "8"}, "default:prefork:3,io:threads:9"),
    ],
)
def test_settings_of_the_release_before_declare_queues_with_a_warning(given: dict[str, str], declared: str) -> None:
    variables = dict(given)

    with pytest.warns(FutureWarning, match=f"stop working in the next release: set QUEUES={declared} instead"):
        declare_by_old_settings(variables)

    assert variables == {"QUEUES": declared}
    assert declared_queues(declared)


@pytest.mark.parametrize("given", [{}, {"QUEUES": ""}, {"QUEUES": "gpu:prefork:1"}, {"WORKER_PROCESSES": ""}])
def test_nothing_is_said_where_no_old_setting_is_given(given: dict[str, str]) -> None:
    variables = dict(given)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        declare_by_old_settings(variables)

    assert variables.get("QUEUES") == given.get("QUEUES")
