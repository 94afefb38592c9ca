"""A run in words: its row, or the row that it varies, and its accuracy beside the published one."""

from dataclasses import replace

from ablation.config import rows
from ablation.config.identity import identify
from ablation.config.published import PUBLISHED_SEED, messages_apart
from ablation.config.runs import Run


def describe_run(run: Run) -> str:
    """The run in words: its row or its command, and its seed."""
    row = rows.row_number(run.config)
    return f"Row {row}, seed {run.config.seed}" if row else rows.format_command(run.config)


def compare_with_published(run: Run, correct: int, total: int) -> str | None:
    """A sentence on the test messages that a run got right, here and as published.

    Of a variant it says which row it varies. Of a run on other texts there is nothing to say.
    """
    if row := rows.row_number(run.config):
        seed = "" if run.config.seed == PUBLISHED_SEED else f", seed {run.config.seed}"
        published = rows.ROWS[row].test
        return f"Row {row}{seed}: {messages_apart('test', correct, total, published)}"
    if run.config.demo or run.config.dataset:
        return None
    # Of several rows that its flags were given beside, the one with most of what it is.
    asked = [] if run.overrides is None else rows.ROWS.items()
    candidates = [
        n
        for n, row in asked
        if identify(replace(rows.configure(row, run.overrides), seed=run.config.seed))
        == identify(run.config)
    ]
    row = min(
        candidates or [rows.nearest_row(run.config)[0]],
        key=lambda n: len(rows.differing_options(run.config, rows.ROWS[n])),
    )
    flags = rows.format_flags(rows.differing_options(run.config, rows.ROWS[row]))
    return (
        f"A variant of row {row} ({flags}): its published {rows.ROWS[row].test:.2f} % does not "
        "apply"
    )
