"""The fault-injection suite: a seeded load, seeded faults, and a ledger outside the system that must agree."""
