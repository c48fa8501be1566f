"""Kafka as a Dagster resource: where the brokers are, and which topic holds the ticks."""

import dagster as dg

from cryptotrace_dagster.stream import TickStream


class KafkaResource(dg.ConfigurableResource[None]):
    """The ticks topic."""

    bootstrap_servers: str
    ticks_topic: str

    def ticks(self) -> TickStream:
        """Return a reader of the topic; use it as a context manager."""
        return TickStream(self.bootstrap_servers, self.ticks_topic)
