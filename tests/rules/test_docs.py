"""The examples in docs/alerts.md are rules that load, and they show every kind."""

import re
from pathlib import Path

from cryptotrace_dagster.domain.rules import KINDS, PLACEHOLDERS, QuietHours, parse_rules

PAGE = Path(__file__).resolve().parents[2] / "docs" / "alerts.md"


def test_every_example_loads_alone_and_all_of_them_together() -> None:
    text = PAGE.read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    for example in examples:
        parse_rules(example, "docs/alerts.md")

    book = parse_rules("\n".join(examples), "docs/alerts.md")

    assert {rule.kind for rule in book.rules} == set(KINDS)
    assert book.routes and isinstance(book.quiet_hours, QuietHours)
    assert [name for name in PLACEHOLDERS if f"`{{{name}}}`" not in text] == []
