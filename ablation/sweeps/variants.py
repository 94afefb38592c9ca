"""A run in words: its row, or the row that it varies, and its accuracy beside the published one."""

from dataclasses import replace

from ablation.config.commands import format_command, format_flags
from ablation.config.identity import identify
from ablation.config.published import PUBLISHED_SEED, messages_apart
from ablation.config.runs import Run
from ablation.config.tables import configure, differing


def describe_run(run: Run) -> str:
    """The run in words: its row or its command, and its seed."""
    row = run.row
    return format_command(run.config) if row is None else f"Row {row}, seed {run.config.seed}"


def compare_with_published(run: Run, correct: int, total: int) -> str | None:
    """A sentence on the test messages that a run got right, here and as published.

    Of a variant it says which row it varies. Where nothing was published, or of other texts, there
    is nothing to say.
    """
    if row := run.table.row_of(run.config):
        if row.published.test is None:
            return None
        seed = "" if run.config.seed == PUBLISHED_SEED else f", seed {run.config.seed}"
        return f"Row {row.name}{seed}: {messages_apart('test', correct, total, row.published.test)}"
    # Of several rows that its flags were given beside, the one with most of what it is.
    asked = [] if run.overrides is None else run.table.rows.values()
    candidates = [
        row
        for row in asked
        if identify(replace(configure(row, run.overrides), seed=run.config.seed))
        == identify(run.config)
    ] or [row for row in [run.table.nearest_row(run.config)] if row]
    row = min(candidates, key=lambda row: len(differing(run.config, row)), default=None)
    if not row or row.published.test is None or run.config.demo or run.config.dataset:
        return None
    return (
        f"A variant of row {row.name} ({format_flags(differing(run.config, row))}): its published "
        f"{row.published.test:.2f} % does not apply"
    )
