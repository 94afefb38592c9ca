"""The nineteen rows as data: their flags, and the figures that were published for them.

Source: https://github.com/rasbt/LLMs-from-scratch, chapter 6, "Additional Classification
Finetuning Experiments". Accuracies are in percent, minutes were taken on one A100.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablation.config.options import ExperimentConfig, changed_options, tagged, without
from ablation.system.errors import shorten
from ablation.system.output import printable

SCRIPT = "python additional_experiments.py"
XL = "gpt2-xl (1558M)"


@dataclass(frozen=True)
class Row:
    """One row of the table: what it asks, its flags, its published figures."""

    question: str
    flags: dict[str, Any]
    train: float
    validation: float
    test: float
    minutes: float

    @property
    def config(self) -> ExperimentConfig:
        """The row as an experiment."""
        return ExperimentConfig(**self.flags)

    @property
    def command(self) -> str:
        """The row as a line for a shell."""
        return f"{SCRIPT} {format_flags(self.flags)}".rstrip()


def _row(question: str, published: tuple[float, float, float, float], **flags: Any) -> Row:
    return Row(question, flags, *published)


# Question, published accuracies (train, validation, test) and minutes, flags.
ROWS = {
    1: _row("the reference", (96.63, 99.33, 95.00, 0.28)),
    2: _row("first or last token?", (78.46, 80.54, 75.00, 0.28), trainable_token_pos="first"),
    3: _row("last layer only?", (78.65, 79.87, 72.00, 0.25), trainable_layers="last_layer"),
    4: _row("two blocks?", (98.85, 98.66, 98.33, 0.33), trainable_layers="last_two_blocks"),
    5: _row("all layers?", (99.62, 96.64, 96.67, 0.69), trainable_layers="all"),
    6: _row("a larger model?", (87.50, 91.28, 84.67, 0.75), model_size="gpt2-medium (355M)"),
    7: _row("larger still?", (99.52, 98.66, 96.67, 1.50), model_size="gpt2-large (774M)"),
    8: _row("the largest?", (99.81, 99.81, 98.33, 2.83), model_size=XL),
    9: _row(
        "the largest, all layers?",
        (100.00, 98.66, 98.67, 8.12),
        model_size=XL,
        trainable_layers="all",
    ),
    10: _row(
        "random weights?", (100.00, 96.64, 93.67, 0.69), weights="random", trainable_layers="all"
    ),
    11: _row(
        "LoRA or all layers?",
        (100.00, 97.32, 96.67, 0.75),
        trainable_layers="lora",
        lora_rank=16,
        lora_alpha=16,
    ),
    12: _row(
        "LoRA on the largest?",
        (100.00, 98.66, 98.33, 5.79),
        trainable_layers="lora",
        lora_rank=16,
        lora_alpha=8,
        model_size=XL,
    ),
    13: _row(
        "padding to the full context?",
        (83.08, 87.92, 78.33, 2.46),
        context_length="model_context_length",
    ),
    14: _row("no padding?", (100.00, 98.66, 98.00, 1.75), no_padding=True, batch_size=1),
    15: _row(
        "no padding, updates of eight?",
        (99.33, 98.66, 98.33, 1.70),
        no_padding=True,
        batch_size=1,
        accumulation_steps=8,
    ),
    16: _row(
        "the last token of the text?", (99.42, 98.66, 98.33, 0.30), trainable_token_pos="flexible"
    ),
    17: _row("no causal mask?", (99.23, 98.66, 95.33, 0.29), disable_causal_mask=True),
    18: _row("padding out of the loss?", (96.63, 99.33, 95.00, 0.28), ignore_index=50256),
    19: _row("mean over the tokens?", (97.79, 99.33, 96.33, 0.32), average_embeddings=True),
}

# What the rows were made to answer: the second row of each pair against the first.
COMPARISONS = (
    ("the first token instead of the last", 1, 2),
    ("the classifier alone instead of the last block", 1, 3),
    ("two blocks instead of one", 1, 4),
    ("all layers instead of the last block", 1, 5),
    ("gpt2-medium instead of gpt2-small", 1, 6),
    ("gpt2-large instead of gpt2-small", 1, 7),
    ("gpt2-xl instead of gpt2-small", 1, 8),
    ("all layers from random weights instead of the last block from published ones", 1, 10),
    ("random instead of published weights", 5, 10),
    ("LoRA instead of all layers", 5, 11),
    ("LoRA instead of all layers, gpt2-xl", 9, 12),
    ("padding to the full context instead of the longest training text", 1, 13),
    ("no padding, one text an update", 1, 14),
    ("no padding, eight texts an update", 1, 15),
    ("the text's own last token instead of the last position", 1, 16),
    ("no causal mask", 1, 17),
    ("ignoring the padding token's number as a label", 1, 18),
    ("the mean over all tokens instead of the last", 1, 19),
)

# A model that small, with random weights, learns in five epochs only from larger steps.
DEMO_FLAGS = {"model_size": "gpt2-tiny (3M)", "weights": "random", "learning_rate": 5e-4}


def format_flags(flags: Mapping[str, Any]) -> str:
    """Flags with their values, as one would type them."""
    words = []
    for name, value in flags.items():
        text = str(value)
        quoted = f'"{text}"' if re.search("[ ()]", text) else text
        if not re.fullmatch(r"[\w ()%+=:,./-]+", text):  # means something even in double quotes
            quoted = shlex.quote(text)
        words.append(f"--{name}" if value is True else f"--{name} {quoted}")
    return " ".join(words)


def configure(row: Row | None, given: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment of a row, or of none, with flags beside it.

    A flag that is given wins over the demo's, the demo's over the row's, the row's over the
    default.
    """
    demo_flags = DEMO_FLAGS if given.get("demo") else {}
    values = {**(row.flags if row else {}), **demo_flags, **given}
    if not values.get("trainable_layers", "").startswith("lora"):
        # Without LoRA, what is said of it means nothing.
        values = {name: value for name, value in values.items() if name not in tagged("lora")}
    return ExperimentConfig(**values)


def row_number(config: ExperimentConfig) -> int | None:
    """The number of the row that the experiment is; none if it is none of them."""
    return next((n for n, row in ROWS.items() if not differing_options(config, row)), None)


def nearest_row(config: ExperimentConfig) -> tuple[int, Row]:
    """The row that is in the experiment with most of its flags: row 1, which has none, if no
    other."""
    within = [
        (number, row)
        for number, row in ROWS.items()
        if all(getattr(config, name) == value for name, value in row.flags.items())
    ]
    return max(within, key=lambda numbered: len(numbered[1].flags))


def format_command(config: ExperimentConfig) -> str:
    """The experiment as one line for a shell, its circumstances left out but for the seed."""
    changed = changed_options(config)
    flags = {name: changed[name] for name in without("circumstance") if name in changed}
    return printable(f"{SCRIPT} {format_flags(flags)}".rstrip())


def differing_options(config: ExperimentConfig, row: Row) -> dict[str, Any]:
    """The options that make ``config`` a variant of ``row`` and not the row."""
    values = {name: getattr(config, name) for name in without("circumstance", "seed")}
    return {name: v for name, v in values.items() if v != getattr(row.config, name)}


def parse_rows(text: str) -> tuple[list[int], list[str]]:
    """The rows that a text like 1-5,16 or 1 16 or all selects, and a problem for each part that is
    none."""
    if text == "all":
        return list(ROWS), []
    numbers, problems = [], []
    for part in re.split(r"\s*,\s*|\s+", re.sub(r"\s*-\s*", "-", text).strip()):
        ends = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        selected = range(int(ends[1]), int(ends[2] or ends[1]) + 1) if ends else range(0)
        # No list of a billion rows for a slip of the finger.
        if not selected or selected[0] not in ROWS or selected[-1] not in ROWS:
            named = f": {shorten(part)}" if part != text else ""
            problems.append(
                f"--rows {shorten(text)}: no such row{named}; give numbers from 1 to {len(ROWS)}, "
                "as in 1-5,16, or all, or list"
            )
        else:
            numbers += selected
    return list(dict.fromkeys(numbers)), problems
