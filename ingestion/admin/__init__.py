"""The admin of ingestions, of stored records, and of those that were rejected. No rule about any of them."""

from ingestion.admin import home, ingestions

__all__ = ["home", "ingestions"]
