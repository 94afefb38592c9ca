"""A run: what is computed, what it is known by, and what is kept of it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiment_config import OPTIONS, ExperimentConfig
from experiment_rows import CIRCUMSTANCES, find_row

NAME_LENGTH = 60  # of the readable part of a folder's name
EPOCH = "epoch"
# In the folder of a run: its record, and what a model that is kept with it is.
RESULT_NAME, CONFIG_NAME = "result.json", "config.json"


@dataclass(frozen=True)
class Keep:
    """What is kept of a run, and gone on from, in its ``folder``; none keeps nothing."""

    folder: Path | None = None
    resume: bool = False  # from a checkpoint, if there is one
    checkpoint_every: int | str | None = None  # steps, or EPOCH; none only if it is interrupted
    save_model: bool = False
    export_dir: Path | None = None  # for the model as other libraries load it


@dataclass(frozen=True)
class Run:
    """One experiment with one seed, and how it was asked for.

    ``overrides`` are the flags that were given beside ``--rows``; none if no row was asked for.
    """

    config: ExperimentConfig
    overrides: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        row = find_row(self.config)
        words = (
            [f"row-{row:02d}"]
            if row
            else [
                name if value is True else f"{name}-{value}"
                for name, value in _choices(self.config)
            ]
        )
        readable = re.sub(r"[^\w]+", "-", "_".join(words) or "run")[:NAME_LENGTH].strip("-_")
        return f"{readable}_seed-{self.config.seed}_{identify(self.config)}"


def identify(config: ExperimentConfig) -> str:
    """A hash of what makes a run this run: seed and flags, without their circumstances.

    Only what differs from its default counts, so that a flag that is added to the project
    leaves the runs before it what they are.
    """
    choices = [*_choices(config), ("seed", config.seed)]
    return hashlib.sha256(json.dumps(choices).encode()).hexdigest()[:10]


def _choices(config: ExperimentConfig) -> list[tuple[str, Any]]:
    values = {
        name: getattr(config, name)
        for name, option in OPTIONS.items()
        if name not in CIRCUMSTANCES and getattr(config, name) != option.default
    }
    for name in values:
        if OPTIONS[name].metadata["parse"] is float:
            values[name] = float(values[name])  # 16 and 16.0 are one choice
    return list(values.items())
