"""The admin: jobs, workers, kinds, notifications, audit entries, tokens, third-party models. No rule about any."""

from orchestrator.admin import audit, jobs, kinds, notifications, owners, panels, third_party, tokens, workers

__all__ = ["audit", "jobs", "kinds", "notifications", "owners", "panels", "third_party", "tokens", "workers"]
