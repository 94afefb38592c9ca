"""A run: what is computed, what it is known by, and what is kept of it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ablation.config.identity import chosen_options, identify
from ablation.config.options import ExperimentConfig
from ablation.config.rows import SOURCE
from ablation.config.tables import Name, Table

MAX_NAME_LENGTH = 130  # of a folder's name, of the 255 bytes that file systems allow
SEEDS_TO_DECIDE = 5  # what people are told to run; docs/statistics.md has what it takes
EPOCH = "epoch"
# In the folder of a run: its record, and what a model that is kept with it is.
RESULT_NAME, CONFIG_NAME = "result.json", "config.json"


@dataclass(frozen=True)
class OutputOptions:
    """What is kept of a run, and gone on from, in its ``folder``; none keeps nothing."""

    folder: Path | None = None
    resume: bool = False  # from a checkpoint, if there is one
    checkpoint_every: int | str | None = None  # steps, or EPOCH; none only if it is interrupted
    save_model: bool = False
    export_dir: Path | None = None  # for the model as other libraries load it
    track: str | None = None  # the tracker that is to see it
    watch: bool = True  # on a terminal


@dataclass(frozen=True)
class Run:
    """One experiment with one seed, and how it was asked for.

    ``overrides`` are the flags that were given beside ``--rows``; none if no row was asked for.
    """

    config: ExperimentConfig
    overrides: dict[str, Any] | None = None
    table: Table = field(default=SOURCE, compare=False, repr=False)  # that its row stands in

    @property
    def row(self) -> Name | None:
        """The name of the row that it is; none if it is none of its table."""
        row = self.table.row_of(self.config)
        return row and row.name

    @property
    def name(self) -> str:
        """The name of its folder: the row, what differs from it, the seed, and a hash of all.

        Values are whole; where they would make it too long, the longest flags are counted only.
        """
        row = self.table.nearest_row(self.config)
        words = [
            name if value is True else f"{name}-{_safe(value)}"
            for name, value in chosen_options(self.config).items()
            if not row or name not in row.flags
        ]
        start, end = [], f"seed-{self.config.seed}_{identify(self.config)}"
        if row:
            number = f"{row.name:02d}" if isinstance(row.name, int) else _safe(row.name)[:60]
            start = [f"row-{number}"]
        kept = list(words)
        while kept and len("_".join([*start, *kept, end])) > MAX_NAME_LENGTH:
            kept.remove(max(kept, key=len))
        left_out = [f"and-{len(words) - len(kept)}-more"] if kept != words else []
        return "_".join([*start, *kept, *left_out, end])

    def folder(self, output_dir: Path) -> Path:
        """Where its record is, or is to be."""
        return next(self.folders(output_dir), output_dir / self.name)

    def folders(self, output_dir: Path) -> Iterator[Path]:
        """All that may hold its record, that of its name first.

        What it is known by is the hash at the end: a folder that an earlier version named
        otherwise stays its folder.
        """
        named = output_dir / self.name
        if named.is_dir():
            yield named
        found = sorted(output_dir.glob(f"*_{identify(self.config)}"))
        yield from (path for path in found if path != named and path.is_dir())


def _safe(value: Any) -> str:
    """A value as a part of a file's name, on any system. What is not ASCII becomes its bytes, so
    that no two such values look alike."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "".join(c if c.isascii() else quote(c, errors="surrogatepass") for c in str(value))
    return re.sub(r"[^\w.+%-]+", "-", re.sub(r"[^\w.+%-]+$", "", text))
