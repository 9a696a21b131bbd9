"""The admin: jobs, workers, kinds, audit entries, tokens, third-party models. No rule about any of them."""

from orchestrator.admin import audit, jobs, kinds, panels, third_party, tokens, workers

__all__ = ["audit", "jobs", "kinds", "panels", "third_party", "tokens", "workers"]
