"""CryptoTrace: crypto market monitoring you can trust, as a Dagster data platform."""
