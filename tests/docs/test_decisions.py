"""The decisions are numbered without a gap, and the architecture page lists every one by its title."""

from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
DECISIONS = sorted((DOCS / "adr").glob("*.md"))


def test_the_numbers_follow_each_other_in_names_and_titles() -> None:
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    for number, page in enumerate(DECISIONS, start=1):
        assert page.read_text().startswith(f"# {number}. ")


def test_the_architecture_page_lists_them_all() -> None:
    listed = (DOCS / "architecture.md").read_text().partition("## The decisions")[2]
    titles = [page.read_text().splitlines()[0].partition(". ")[2] for page in DECISIONS]
    expected = [
        f"{number}. [{title}](adr/{page.name})"
        for number, (title, page) in enumerate(zip(titles, DECISIONS, strict=True), start=1)
    ]
    assert [line for line in listed.splitlines() if "](adr/" in line] == expected
