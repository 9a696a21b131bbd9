"""The ingestion app: student records in bulk, validated and stored in the background. No other app builds on it."""
