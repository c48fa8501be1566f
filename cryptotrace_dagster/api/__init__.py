"""The HTTP API: the stored data, read-only, over FastAPI."""
