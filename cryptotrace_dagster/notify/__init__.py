"""Telling people: building Discord messages and sending them. No Dagster, no warehouse."""
