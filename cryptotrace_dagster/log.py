"""How every process writes its log: JSON lines into files, readable lines on a terminal, and never a secret.

Owns the set-up of structlog and of the standard library's logging (uvicorn, httpx and Kafka log there), and the
masking of webhook addresses, tokens and passwords. Stays out: what is logged, and where the supervisor keeps files.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "***"
_SECRET_NAMES = re.compile(r"token|secret|password|authorization|webhook", re.IGNORECASE)
# What looks like a secret inside a longer text. Group 1 is kept, the rest is masked.
_SECRET_TEXTS = (
    re.compile(r"(/webhooks/)\d+/[^\s\"'?/]+"),
    re.compile(r"(\b(?:Bot|Bearer|Basic)\s+)[\w.~+/=-]{8,}"),
    re.compile(r"(://[^\s:/@]+:)[^\s@/]+(?=@)"),
    re.compile(r"(\b(?:password|token|secret)=)[^\s&;\"']+", re.IGNORECASE),
)


def masked_text(text: str) -> str:
    """Return the text with webhook addresses, tokens and passwords masked."""
    for pattern in _SECRET_TEXTS:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text


def masked(value: Any) -> Any:
    """Return the value with every secret inside it masked, however deep it lies."""
    if isinstance(value, str):
        return masked_text(value)
    if isinstance(value, Mapping):
        return {
            name: MASK if isinstance(name, str) and _SECRET_NAMES.search(name) and part else masked(part)
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(part) for part in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return masked_text(str(value))


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask the secrets of one log event; a structlog processor, the last one before rendering."""
    kept = {name: value for name, value in event.items() if name.startswith("_")}
    shown: EventDict = masked({name: value for name, value in event.items() if not name.startswith("_")})
    return {**shown, **kept}


def set_up_logging(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send structlog's events and the standard library's records to a stream, in one form and masked.

    Without a stream they go to standard error.
    """
    output = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    is_terminal = output.isatty()
    renderer: Processor = (
        structlog.dev.ConsoleRenderer() if is_terminal else structlog.processors.JSONRenderer(default=str)
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                mask_secrets,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # One line for every request would drown what matters; failures are logged by their callers.
    logging.getLogger("httpx").setLevel(logging.WARNING)
