"""The Discord double as a whole: `async with DiscordReceiver(config) as receiver`, or a plain `with` from a thread."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptotrace_dagster.loopback import bind, port_of, running_in_thread, serving
from cryptotrace_dagster.receiver.app import ReceiverApp
from cryptotrace_dagster.receiver.faults import FaultQueue, ReceiverFault
from cryptotrace_dagster.receiver.limits import RateLimits
from cryptotrace_dagster.receiver.store import MessageStore

FOLDER = "receiver"


@dataclass(frozen=True)
class ReceiverConfig:
    """Where to listen and what to keep; without a folder messages live in memory alone."""

    host: str = "127.0.0.1"
    port: int = 0
    data_dir: Path | None = None
    limits: RateLimits | None = field(default_factory=RateLimits)  # None: no rate limits


class DiscordReceiver:
    """A running Discord double."""

    def __init__(self, config: ReceiverConfig | None = None) -> None:
        self.config = config or ReceiverConfig()
        self._faults = FaultQueue()
        self._thread: AbstractContextManager[object] | None = None

    async def __aenter__(self) -> Self:
        """Open the store and listen.

        Raises:
            UserError: the port is taken or the folder cannot be written.
        """
        folder = self.config.data_dir / FOLDER if self.config.data_dir else None
        self._store = MessageStore(folder)
        self._app = ReceiverApp(self._store, self._faults, self.config.limits)
        listener = bind(self.config.host, self.config.port)
        base = f"http://{self.config.host}:{port_of(listener)}"
        self.webhook_url = f"{base}/api/webhooks/1/local"
        self.api_url = f"{base}/api/v10"
        self.control_url = f"{base}/_control"
        self._web = serving(self._app.build(), listener)
        await self._web.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop listening and close the file."""
        await self._web.__aexit__(None, None, None)
        self._store.close()

    def __enter__(self) -> Self:
        """Run in a thread of its own, for callers that block."""
        self._thread = running_in_thread(self)
        self._thread.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.__exit__(None, None, None)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Return what arrived, oldest first."""
        return list(self._store.messages)

    @property
    def requests(self) -> int:
        """Return how many messages were tried, stored or not."""
        return self._app.requests

    def start_fault(self, fault: ReceiverFault) -> None:
        """Append a fault to those that the next requests meet."""
        self._faults.add(fault)

    def clear_faults(self) -> None:
        """Forget all faults."""
        self._faults.clear()
