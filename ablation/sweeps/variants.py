"""A run in words: its row, or the row that it varies, and its accuracy beside the published one."""

from dataclasses import replace

from ablation.config.commands import format_command, format_flags
from ablation.config.identity import identify
from ablation.config.published import PUBLISHED_SEED, messages_apart
from ablation.config.runs import Run
from ablation.config.tables import Row, configure, differing


def describe_run(run: Run) -> str:
    """The run in words: its row or its command, its seed, and its fold."""
    row, fold = run.row, run.config.fold
    if row is None:
        return format_command(run.config)
    return f"Row {row}, seed {run.config.seed}" + (f", fold {fold}" if fold else "")


def find_row(run: Run) -> Row | None:
    """The row that a run is, or varies: of several that its flags were given beside, the one with
    most of what it is."""
    if row := run.table.row_of(run.config):
        return row
    asked = [] if run.overrides is None else run.table.rows.values()
    candidates = [
        row
        for row in asked
        if identify(replace(configure(row, run.overrides), seed=run.config.seed))
        == identify(run.config)
    ] or [row for row in [run.table.nearest_row(run.config)] if row]
    return min(candidates, key=lambda row: len(differing(run.config, row)), default=None)


def compare_with_published(run: Run, correct: int, total: int) -> str | None:
    """A sentence on the test messages that a run got right, here and as published.

    Of a variant it says which row it varies. Where nothing was published, or of other texts, there
    is nothing to say.
    """
    row = find_row(run)
    if not row or row.published.test is None:
        return None
    if not (changes := differing(run.config, row)):
        if run.config.fold:
            return None
        seed = "" if run.config.seed == PUBLISHED_SEED else f", seed {run.config.seed}"
        return f"Row {row.name}{seed}: {messages_apart('test', correct, total, row.published.test)}"
    if run.config.demo or run.config.dataset:
        return None
    return (
        f"A variant of row {row.name} ({format_flags(changes)}): its published "
        f"{row.published.test:.2f} % does not apply"
    )
