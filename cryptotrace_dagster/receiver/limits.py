"""Discord's limits: how often one may send, and how large a message may be.

Facts: observed 5 requests per 2 s and webhook (told in headers) and 30 per 60 s and channel (not always told);
sizes from Discord's public documentation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

MAX_CONTENT = 2_000
MAX_EMBEDS = 10
MAX_EMBED_CHARACTERS = 6_000
MAX_FIELDS = 25
MAX_FILES = 10
MAX_FILE_BYTES = 10 * 1024 * 1024
_EMBED_TEXTS = {"title": 256, "description": 4_096}


@dataclass(frozen=True)
class RateLimits:
    """How many requests a webhook or channel takes; the second window is kept, but not told in headers."""

    burst: int = 5
    burst_seconds: float = 2.0
    sustained: int = 30
    sustained_seconds: float = 60.0


class RateBucket:
    """The requests of one webhook or channel."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._burst: deque[float] = deque()
        self._sustained: deque[float] = deque()

    def take(self) -> float:
        """Count a request and return 0, or return the seconds to wait and count nothing."""
        now, limits = monotonic(), self._limits
        _forget(self._burst, now - limits.burst_seconds)
        _forget(self._sustained, now - limits.sustained_seconds)
        if len(self._burst) >= limits.burst:
            return self._burst[0] + limits.burst_seconds - now
        if len(self._sustained) >= limits.sustained:
            return self._sustained[0] + limits.sustained_seconds - now
        self._burst.append(now)
        self._sustained.append(now)
        return 0.0

    def headers(self) -> dict[str, str]:
        """Return what Discord tells about the first window."""
        limits = self._limits
        reset_after = max(0.0, self._burst[0] + limits.burst_seconds - monotonic()) if self._burst else 0.0
        return {
            "X-RateLimit-Limit": str(limits.burst),
            "X-RateLimit-Remaining": str(max(0, limits.burst - len(self._burst))),
            "X-RateLimit-Reset": f"{time() + reset_after:.3f}",
            "X-RateLimit-Reset-After": f"{reset_after:.3f}",
            "X-RateLimit-Bucket": "simulated",
        }


def _forget(times: deque[float], before: float) -> None:
    while times and times[0] <= before:
        times.popleft()


def size_problems(message: Mapping[str, Any], files: list[tuple[str, bytes]]) -> dict[str, str]:
    """Return what is too large or of the wrong kind, by field; empty when the message is acceptable."""
    problems: dict[str, str] = {}
    content, embeds = message.get("content") or "", message.get("embeds") or []
    if not isinstance(content, str) or len(content) > MAX_CONTENT:
        problems["content"] = f"Must be {MAX_CONTENT} or fewer in length."
    if not isinstance(embeds, list) or not all(isinstance(embed, dict) for embed in embeds):
        return problems | {"embeds": "Must be a list of embeds."}
    if len(embeds) > MAX_EMBEDS:
        problems["embeds"] = f"Must be {MAX_EMBEDS} or fewer in length."
    if sum(map(_characters, embeds)) > MAX_EMBED_CHARACTERS:
        problems["embeds"] = f"Embed size exceeds maximum size of {MAX_EMBED_CHARACTERS}"
    for index, embed in enumerate(embeds):
        problems |= {f"embeds.{index}.{name}": text for name, text in _embed_problems(embed).items()}
    if len(files) > MAX_FILES or any(len(data) > MAX_FILE_BYTES for _, data in files):
        problems["files"] = f"At most {MAX_FILES} files of {MAX_FILE_BYTES} bytes."
    return problems


def _embed_problems(embed: Mapping[str, Any]) -> dict[str, str]:
    fields = embed.get("fields") or []
    problems = {
        name: f"Must be {most} or fewer in length."
        for name, most in _EMBED_TEXTS.items()
        if len(str(embed.get(name) or "")) > most
    }
    if len(str((embed.get("footer") or {}).get("text") or "")) > 2_048:
        problems["footer.text"] = "Must be 2048 or fewer in length."
    if len(fields) > MAX_FIELDS:
        problems["fields"] = f"Must be {MAX_FIELDS} or fewer in length."
    for index, field in enumerate(fields):
        name, value = str(field.get("name") or ""), str(field.get("value") or "")
        if not 1 <= len(name) <= 256:
            problems[f"fields.{index}.name"] = "Must be between 1 and 256 in length."
        if not 1 <= len(value) <= 1_024:
            problems[f"fields.{index}.value"] = "Must be between 1 and 1024 in length."
    return problems


def _characters(embed: Mapping[str, Any]) -> int:
    texts = [embed.get("title"), embed.get("description"), (embed.get("footer") or {}).get("text")]
    texts.append((embed.get("author") or {}).get("name"))
    for field in embed.get("fields") or []:
        texts += [field.get("name"), field.get("value")]
    return sum(len(str(text or "")) for text in texts)
