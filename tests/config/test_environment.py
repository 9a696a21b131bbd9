"""The settings as they are read from environment variables."""

from __future__ import annotations

import pytest

from config.environment import Environment
from config.environment_variables import RENAMED, use_new_names


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_setting_is_read_by_its_old_name_with_a_warning(old: str, new: str) -> None:
    variables = {old: "1"}

    with pytest.warns(FutureWarning, match=f"{old} is now {new}"):
        use_new_names(variables)

    assert variables == {new: "1"}


def test_a_file_may_be_named_by_the_old_name_of_its_setting() -> None:
    variables = {"ALLOW_ANYONE_FILE": "/run/secrets/allow"}

    with pytest.warns(FutureWarning, match="ALLOW_ANYONE_FILE is now ALLOW_UNAUTHENTICATED_FILE"):
        use_new_names(variables)

    assert variables == {"ALLOW_UNAUTHENTICATED_FILE": "/run/secrets/allow"}


def test_the_new_name_wins_over_the_old_one() -> None:
    variables = {"ALLOW_UNAUTHENTICATED": "false", "ALLOW_ANYONE": "true"}

    with pytest.warns(FutureWarning):
        use_new_names(variables)

    assert variables == {"ALLOW_UNAUTHENTICATED": "false"}


def test_every_renamed_setting_exists_by_its_new_name_alone() -> None:
    assert set(RENAMED.values()) <= set(Environment.__struct_fields__)
    assert not RENAMED.keys() & set(Environment.__struct_fields__)
