"""The admin: jobs, workers, kinds, notifications, audit entries, tokens, third-party models. No rule about any."""

from orchestrator.admin import audit, jobs, kinds, notifications, panels, third_party, tokens, workers

__all__ = ["audit", "jobs", "kinds", "notifications", "panels", "third_party", "tokens", "workers"]
