"""By what this thread connects to the database, which Django keeps in a dictionary that anybody can change."""

from __future__ import annotations

from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections


class Parameters:
    """The parameters as they were when this object was made."""

    def __init__(self) -> None:
        self._wrapper = connections[DEFAULT_DB_ALIAS]
        self._dict: dict[str, Any] = self._wrapper.settings_dict
        self._before = _copy(self._dict)

    def restore(self) -> None:
        """Undoes what was changed since: otherwise this thread would connect elsewhere, or not at all, later on."""
        if self._wrapper.settings_dict is not self._dict:
            self._wrapper.settings_dict = self._dict
        if self._dict != self._before:
            self._dict.clear()
            self._dict.update(_copy(self._before))


def _copy(parameters: dict[str, Any]) -> dict[str, Any]:
    return {**parameters, "OPTIONS": {**parameters["OPTIONS"]}}
