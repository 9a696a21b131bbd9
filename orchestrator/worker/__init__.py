"""A worker process: what it claims, runs, renews and ends. No SQL that changes a status, nothing of HTTP."""
