"""The alert rules as a Dagster resource: which file they are in."""

from pathlib import Path

import dagster as dg

from cryptotrace_dagster.pipeline.rule_source import RuleSource


class AlertRules(dg.ConfigurableResource[None]):
    """The file that says what the user wants to be told."""

    path: str
    data_dir: str

    def source(self) -> RuleSource:
        """Return the rules in force, read again whenever the file changes; the last valid ones outlive a restart."""
        return RuleSource(Path(self.path), remembered_in=Path(self.data_dir))
