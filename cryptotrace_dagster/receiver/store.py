"""What the Discord double received: in memory, and as lines of a file that the dashboard and tests read.

Owns ids, the file format and the attachments' place. What is accepted at all is app.py's.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from time import time_ns
from typing import Any

import msgspec

from cryptotrace_dagster.errors import UserError

DISCORD_EPOCH_MS = 1_420_070_400_000
MESSAGES_FILE = "messages.jsonl"


class ReceiverError(UserError):
    """The receiver cannot work with its folder."""


class MessageStore:
    """Messages in order of arrival. With a folder, each is written through before it is confirmed."""

    def __init__(self, folder: Path | None = None) -> None:
        """Open the store, with the messages of earlier runs.

        Raises:
            ReceiverError: the folder cannot be written, or its file cannot be read.
        """
        self._folder = folder
        self._numbers = count()
        self.messages: list[dict[str, Any]] = []
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / MESSAGES_FILE).open("ab")
            lines = (folder / MESSAGES_FILE).read_bytes().splitlines()
            self.messages = [msgspec.json.decode(line) for line in lines]
        except OSError as error:
            raise ReceiverError(
                f"The receiver's folder {folder} cannot be written ({error.strerror}): choose another --data-dir."
            ) from error
        except msgspec.MsgspecError as error:
            raise ReceiverError(f"{folder / MESSAGES_FILE} cannot be read ({error}): move it away.") from error

    def add(self, fields: dict[str, Any], attachments: list[tuple[str, bytes]]) -> dict[str, Any]:
        """Keep a message and return it with its id, arrival and attachments."""
        arrived_ns = time_ns()
        message_id = str((arrived_ns // 1_000_000 - DISCORD_EPOCH_MS) << 22 | next(self._numbers) & 0xFFF)
        message = {
            "id": message_id,
            "arrived_at": _iso(arrived_ns),
            **fields,
            "attachments": [self._keep(message_id, name, content) for name, content in attachments],
        }
        self.messages.append(message)
        self._write(message)
        return message

    def change(self, message_id: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Edit a message; return None where there is none of that id."""
        message = self.find(message_id)
        if message is None:
            return None
        edited = {**message, **fields, "edited_at": _iso(time_ns())}
        self.messages[self.messages.index(message)] = edited
        self._write(edited)
        return edited

    def find(self, message_id: str) -> dict[str, Any] | None:
        """Return the message of that id."""
        return next((message for message in reversed(self.messages) if message["id"] == message_id), None)

    def close(self) -> None:
        """Close the file."""
        if self._folder is not None:
            self._file.close()

    def _write(self, message: dict[str, Any]) -> None:
        if self._folder is not None:
            self._file.write(msgspec.json.encode(message) + b"\n")
            self._file.flush()

    def _keep(self, message_id: str, name: str, content: bytes) -> dict[str, Any]:
        description: dict[str, Any] = {"filename": name, "size": len(content)}
        if self._folder is not None:
            place = self._folder / "attachments" / f"{message_id}-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}"
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(content)
            description["path"] = str(place)
        return description


def _iso(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
