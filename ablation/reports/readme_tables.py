"""The tables in the README, from the rows, the flags, and the records in ``results/``.

    python -m ablation.reports.readme_tables

prints them; a test fails when those in the README are others.
"""

from __future__ import annotations

from collections.abc import Sequence

from ablation.config.flags import ACTIONS
from ablation.config.options import OPTIONS, show_default
from ablation.config.rows import ROWS
from ablation.reports.pages import markdown_table
from ablation.reports.tables import group_records, mean_and_deviation, tabulate
from ablation.sweeps.records import Record, read_records
from ablation.system.version import PROJECT
from data_utils import PARTS

RESULTS = PROJECT / "results"


def rows_table(records: Sequence[Record]) -> str:
    """The README's table: each row's command, its published figures, and what was reproduced."""
    (section, *_), _ = group_records(records)
    lines = [
        "| row | question | command | train % | val % | test % | min | reproduced |",
        "| --: | --- | --- | --: | --: | --: | --: | --- |",
    ]
    for number, row in ROWS.items():
        published = f"{row.train:.2f} | {row.validation:.2f} | {row.test:.2f} | {row.minutes:.2f}"
        configuration = section.configurations.get(number)
        reproduced = "not run"
        if configuration:
            accuracies = " / ".join(mean_and_deviation(configuration.percent(p)) for p in PARTS)
            n = len(configuration.records)
            reproduced = f"{accuracies} ({n} seed{'s' if n > 1 else ''})"
        lines.append(
            f"| {number} | {row.question} | `{row.command}` | {published} | {reproduced} |"
        )
    return "\n".join(lines)


def variants_table(records: Sequence[Record]) -> str:
    """The README's table of the rows with random weights: those that were run."""
    sections, _ = group_records(records)
    (section,) = (part for part in sections if part.overrides == {"weights": "random"})
    table = tabulate(section).query("n != ''").drop(columns=["n", "trained"])
    return markdown_table(table)


def flags_table() -> str:
    """The README's list of flags."""
    lines = ["| flag | default | what it is |", "| --- | --- | --- |"]
    for name, action in ACTIONS.items():
        lines.append(f"| `--{name}` | {action.default} | {action.help} |")
    for name, option in OPTIONS.items():
        lines.append(f"| `--{name}` | {show_default(option)} | {option.metadata['help']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    records = read_records(RESULTS)
    print(rows_table(records), variants_table(records), flags_table(), sep="\n\n")
