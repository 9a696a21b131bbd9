"""A developer's machine: its servers, supervisor, environment and secrets. Nothing that is deployed."""
