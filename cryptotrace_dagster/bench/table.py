"""How the rows are shown: in a line as they come, a table for people, and the same in Markdown for docs/performance.md."""

from collections.abc import Sequence

from rich.table import Table

from cryptotrace_dagster.bench.rows import Row

_HEADINGS = ("what", "measured", "reference", "ratio (spread)", "target", "met")


def rich_table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table for a terminal."""
    table = Table(title="Measured in this run", title_justify="left")
    for heading in _HEADINGS:
        table.add_column(heading)
    for row in rows:
        cells = _cells(row)
        style = {True: "green", False: "red", None: ""}[row.is_met]
        table.add_row(*cells[:-1], f"[{style}]{cells[-1]}[/]" if style else cells[-1])
    return table


def in_a_line(row: Row) -> str:
    """Return one row for those who watch: a run takes most of an hour, and one that is cut short has said this much."""
    return " · ".join(cell for cell in _cells(row) if cell)


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the rows as a table of Markdown."""
    lines = [_HEADINGS, ("---",) * len(_HEADINGS), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = ""
    if row.ratio is not None:
        ratio = f"{row.ratio:.3g}"
        if row.low is not None and row.high is not None and row.repeats > 1:
            ratio += f" ({row.low:.3g} to {row.high:.3g}, n={row.repeats})"
    reference = "" if row.reference is None else f"{_number(row.reference)} {row.unit} ({row.reference_name})"
    met = {True: "yes", False: "no", None: ""}[row.is_met]
    target = "" if row.target is None else str(row.target)
    return (f"{row.name}: {row.what}", f"{_number(row.value)} {row.unit}", reference, ratio, target, met)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
