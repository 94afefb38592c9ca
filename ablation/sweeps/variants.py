"""Which row a run is, or varies, and its test accuracy beside the published one."""

from __future__ import annotations

from dataclasses import replace

from ablation.config.identity import identify
from ablation.config.published import PUBLISHED_SEED, messages_apart
from ablation.config.rows import (
    ROWS,
    configure,
    differing_options,
    format_flags,
    nearest_row,
    row_number,
)
from ablation.config.runs import Run


def compare_with_published(run: Run, correct: int, total: int) -> str | None:
    """A sentence on the test messages that a run got right, here and as published.

    Of a variant it says which row it varies. Of a run on other texts there is nothing to say.
    """
    row = row_number(run.config)
    if row:
        seed = "" if run.config.seed == PUBLISHED_SEED else f", seed {run.config.seed}"
        return f"Row {row}{seed}: {messages_apart('test', correct, total, ROWS[row].test)}"
    if run.config.demo or run.config.dataset:
        return None
    row = varied_row(run)
    return f"{describe_variant(run, row)}: its published {ROWS[row].test:.2f} % does not apply"


def describe_variant(run: Run, row: int) -> str:
    """The run as a variant of a row, with the flags that it differs in."""
    return f"A variant of row {row} ({format_flags(differing_options(run.config, ROWS[row]))})"


def varied_row(run: Run) -> int:
    """The number of the row that a run's flags were given beside, or else of the one that is in it
    with most of its flags."""
    asked = []
    if run.overrides is not None:
        asked = [
            number
            for number, row in ROWS.items()
            if identify(replace(configure(row, run.overrides), seed=run.config.seed))
            == identify(run.config)
        ]
    nearest, _ = nearest_row(run.config)
    return min(asked, key=lambda n: len(differing_options(run.config, ROWS[n])), default=nearest)
