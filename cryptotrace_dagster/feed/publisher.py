"""The way from the feed into Kafka: idempotent, acknowledged by all replicas, never dropping.

Owns the producer and its settings. `produce` is synchronous and raises BufferError when the queue is full, which is
the back-pressure: the caller stops reading and waits with `wait_for_room`. Stays out: what a message means.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cryptotrace_dagster.errors import UserError

QUEUE_MESSAGES = 100_000
_QUEUE_KILOBYTES = 65_536
_MAX_REASON = 500
_ERROR_LOG_SECONDS = 10.0
_LOG = structlog.get_logger(__name__)


class BrokerUnreachableError(UserError):
    """No broker answered at the given addresses."""


class Publisher:
    """A producer for the ticks topic and the dead letter topic.

    `on_lost` hears of every trade that the broker refused for good, as (symbol, value), so that it can be fetched again.
    """

    def __init__(
        self, bootstrap_servers: str, topic: str, dead_letter_topic: str, on_lost: Callable[[str, bytes], None]
    ) -> None:
        self.topic = topic
        self.dead_letter_topic = dead_letter_topic
        self.bootstrap_servers = bootstrap_servers
        self.is_fatal = False
        self.broker_error = ""
        self._silent_until = 0.0
        self._on_lost = on_lost
        self._producer = Producer(self._configuration())
        # The bound method itself: one attribute look-up less for every trade.
        self.produce: Callable[..., None] = self._producer.produce

    def _configuration(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": "cryptotrace-feed",
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "linger.ms": 20,  # each batch costs two wake-ups and a request, whatever its size
            "queue.buffering.max.messages": QUEUE_MESSAGES,
            "queue.buffering.max.kbytes": _QUEUE_KILOBYTES,
            "message.timeout.ms": 0,  # a broker that is away stops the reading; it never makes a trade expire
            "delivery.report.only.error": True,
            "on_delivery": self._heard,
            "error_cb": self._failed,
            "reconnect.backoff.max.ms": 1000,
            "log_level": 2,  # what matters comes through error_cb
        }

    def __len__(self) -> int:
        """Return how many messages have not been acknowledged yet."""
        return len(self._producer)

    def check(self, timeout_seconds: float) -> str:
        """Return the cluster's id.

        Raises:
            BrokerUnreachableError: no broker answered in time.
        """
        try:
            return str(self._producer.list_topics(timeout=timeout_seconds).cluster_id)
        except KafkaException as error:
            raise BrokerUnreachableError(
                f"No Kafka broker answered at {self.bootstrap_servers} within {timeout_seconds:g} s: "
                "start one (`cryptotrace up` brings its own) or set KAFKA_BOOTSTRAP_SERVERS."
            ) from error

    def dead_letter(self, payload: bytes, reason: str, source: str) -> None:
        """Set a message aside with the reason; raises BufferError like `produce`."""
        headers: dict[str, str | bytes | None] = {"reason": reason[:_MAX_REASON].encode(), "source": source.encode()}
        self._producer.produce(self.dead_letter_topic, payload, headers=headers)

    def poll(self) -> None:
        """Let the producer report what it has to report."""
        self._producer.poll(0)

    async def wait_for_room(self) -> None:
        """Return when a good part of the queue is free again."""
        messages_when_full = len(self._producer)  # the queue may be full of bytes before it is full of messages
        while len(self._producer) > messages_when_full // 2:
            self._producer.poll(0)
            await asyncio.sleep(0.01)

    async def flush(self, timeout_seconds: float) -> int:
        """Wait until everything is acknowledged, and return how many messages are not."""
        return int(await asyncio.to_thread(self._producer.flush, timeout_seconds))

    def _heard(self, error: KafkaError | None, message: Message) -> None:
        if error is None or message.topic() != self.topic:
            return
        _LOG.warning("feed.trade_refused", reason=str(error))
        self._on_lost((message.key() or b"").decode(), message.value() or b"")

    def _failed(self, error: KafkaError) -> None:
        self.broker_error = str(error)
        self.is_fatal = self.is_fatal or error.fatal()
        now = time.monotonic()
        if error.fatal() or now >= self._silent_until:  # a broker that is away is reported several times a second
            self._silent_until = now + _ERROR_LOG_SECONDS
            _LOG.warning("feed.broker_error", reason=str(error), is_fatal=error.fatal())
