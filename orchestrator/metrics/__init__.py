"""What Prometheus reads at /metrics: from rows and rollups, so it is the same whichever process is asked."""
