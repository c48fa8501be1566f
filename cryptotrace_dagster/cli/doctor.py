"""`cryptotrace doctor`: is everything well, and if not, what to do.

Owns the output and the exit code. Stays out: the checks (doctor.py).
"""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cryptotrace_dagster.cli.options import DataDir, settings_of

if TYPE_CHECKING:
    from cryptotrace_dagster.doctor import Finding


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""

    @app.command()
    def doctor(
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for monitors.")] = False,
        data_dir: DataDir = None,
    ) -> None:
        """Check every part and say what to do about each fault; ends with 1 when there is one.

        Example: cryptotrace doctor --json
        """
        from cryptotrace_dagster.doctor import Verdict, examine

        findings = examine(settings_of(data_dir))
        has_fault = any(finding.verdict is Verdict.FAULT for finding in findings)
        if as_json:
            print(json.dumps({"healthy": not has_fault, "findings": [vars(finding) for finding in findings]}))
        else:
            _print_table(findings)
        raise typer.Exit(int(has_fault))


def _print_table(findings: "list[Finding]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cryptotrace_dagster.doctor import Verdict

    signs = {Verdict.OK: ("✓", "green"), Verdict.WARNING: ("▲", "yellow"), Verdict.FAULT: ("✗", "red bold")}
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        sign, style = signs.get(finding.verdict, ("·", "dim"))
        words = Text(finding.found)
        if finding.remedy:
            words.append(f"\n→ {finding.remedy}", style="italic")
        table.add_row(Text(sign, style=style), Text(finding.part, style="bold"), words)
    console = Console()
    console.print(table)
    faults = sum(finding.verdict is Verdict.FAULT for finding in findings)
    console.print(f"\n{'Everything is well.' if not faults else f'{faults} of {len(findings)} parts need attention.'}")
