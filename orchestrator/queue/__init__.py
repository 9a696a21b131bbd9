"""How a job's row changes, and who has to know. Only `transitions` writes a job's status; no handler runs here."""
