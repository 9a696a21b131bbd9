"""With what a connection to PostgreSQL will be made, beyond what the settings say of all of them."""

from __future__ import annotations

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper


def add_options(wrapper: BaseDatabaseWrapper, options: str, **parameters: Any) -> None:
    """Adds options of PostgreSQL, such as "-c lock_timeout=1s", and sets parameters of libpq."""
    given = wrapper.settings_dict["OPTIONS"]
    # A copy: the dictionary itself is shared by all connections of this process.
    wrapper.settings_dict = {
        **wrapper.settings_dict,
        "OPTIONS": {**given, **parameters, "options": f"{given.get('options', '')} {options}".strip()},
    }
