"""Where the rules in force come from: the file, as it is now, or its last valid content while it is wrong.

Owns reading `alerts.toml`, noticing that it changed, and remembering what was valid across restarts.
Stays out: what a rule may say (domain/rules.py).
"""

import os
from importlib import resources
from pathlib import Path

import structlog

from cryptotrace_dagster.domain.rules import RuleBook, RulesError, parse_rules

LAST_GOOD_NAME = "alerts.last_good.toml"

log = structlog.get_logger(__name__)


def load_rules(path: Path) -> RuleBook:
    """Return the rules of a file, or the built-in ones where there is no file.

    Raises:
        RulesError: the file cannot be read or used; the message names the line and the remedy.
    """
    return parse_rules(_read(path), str(path))


class RuleSource:
    """The rules in force, read again whenever the file has changed."""

    def __init__(self, path: Path, remembered_in: Path | None = None) -> None:
        self._path = path
        self._last_good = remembered_in / LAST_GOOD_NAME if remembered_in is not None else None
        self._text: str | None = None
        self._book: RuleBook | None = None
        self.error: str | None = None

    def current(self) -> RuleBook:
        """Return the rules in force now; while the file is wrong, those that it held before (see `error`).

        Raises:
            RulesError: the file is wrong, and there are no earlier rules to stay with.
        """
        try:
            text = _read(self._path)
            if text == self._text and self._book is not None:
                return self._book
            book = parse_rules(text, str(self._path))
        except RulesError as error:
            return self._earlier(error)
        is_first, self._text, self._book, self.error = self._book is None, text, book, None
        if not is_first:
            log.info("alerts.rules_reloaded", path=str(self._path), rules=len(book.rules))
        self._remember(text)
        return book

    def _earlier(self, error: RulesError) -> RuleBook:
        if self.error != str(error):
            log.error("alerts.rules_refused", reason=str(error), in_force="the rules from before the change")
        self.error = str(error)
        if self._book is None and self._last_good is not None and self._last_good.exists():
            self._book = parse_rules(self._last_good.read_text(encoding="utf-8"), str(self._last_good))
        if self._book is None:
            raise error
        self._text = None
        return self._book

    def _remember(self, text: str) -> None:
        if self._last_good is None:
            return
        self._last_good.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._last_good.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self._last_good)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return (resources.files("cryptotrace_dagster") / "default_alerts.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RulesError(
            f"{path}, line 1: the alert rules could not be read ({type(error).__name__}). "
            "Make it a readable UTF-8 file, or remove it to use the built-in rules."
        ) from None
