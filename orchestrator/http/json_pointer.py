"""JSON pointers (RFC 6901)."""


def escaped(key: str) -> str:
    """A key as a part of a pointer (section 3)."""
    return storable(key).replace("~", "~0").replace("/", "~1")


def storable(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair."""
    return text.encode(errors="replace").decode()
