"""No page points at something that is not there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target or target.startswith(("#", "mailto:")):
            continue
        path, _, _ = target.partition("#")
        assert (page.parent / path).exists(), f"{page.name} points at {target}"


def test_every_page_of_the_docs_can_be_found_from_the_readme() -> None:
    """Guards a page that nobody links; decisions are found through their folder."""
    text = "".join((ROOT / name).read_text() for name in ("README.md", "docs/architecture.md"))
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name in text, f"README.md or docs/architecture.md should name docs/{page.name}"
