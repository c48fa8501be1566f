"""Connections that Dagster hands to assets and sensors: the warehouse, Kafka, the exchange, Discord, the alert rules."""
