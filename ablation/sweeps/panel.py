"""The panel of a run at work: its losses, accuracies, and the time left, in lines of text."""

import math
from dataclasses import dataclass, field
from itertools import groupby

from rich.cells import cell_len
from rich.text import Text

from ablation.config.commands import SCRIPT, format_command, format_flags
from ablation.config.published import PUBLISHED_SEED
from ablation.config.runs import Run
from ablation.config.tables import Published, differing
from ablation.finetuning.forecast import describe_seconds
from ablation.finetuning.outcomes import ExperimentResult, History
from ablation.sweeps.curves import draw_curves
from ablation.sweeps.variants import find_row
from ablation.system.output import printable
from ablation.system.progress import Progress
from data_utils import PARTS

WIDEST, HIGHEST = 100, 13  # columns and lines of the panel
NARROW = 64  # below that, the accuracies are one line
STYLES = ("cyan", "yellow")  # of training and validation
NAMES = ("train", "val")
LEAST = 1000  # times smaller than the largest loss: what is less is drawn there
SCALE = 7  # columns of the scale beside the curves
LABEL = 12  # of what a curve comes to


@dataclass(frozen=True)
class Panel:
    """What is known of a run, to be shown on a terminal.

    Args:
        place: of the run in a sweep, in words.
        epoch_ends: how many steps there are at the end of each epoch.
        work: that goes on.
        result: once the run is complete.
        encoding: of the terminal; without UTF-8, there is only ASCII.
    """

    run: Run
    place: str = ""
    history: History = field(default_factory=History)
    epoch_ends: list[int] = field(default_factory=list)
    work: Progress | None = None
    result: ExperimentResult | None = None
    encoding: str = "utf-8"

    @property
    def published(self) -> Published:
        """What was published of the very row that it is."""
        row = self.run.table.row_of(self.run.config)
        return row.published if row else Published()

    def lines(self, columns: int, rows: int) -> list[Text]:
        """The panel's lines, on a terminal of that size: at most two thirds of its height."""
        width, height = min(columns, WIDEST), max(1, min(HIGHEST, 2 * rows // 3))
        foot = [] if self.result else [self._bar(width)]
        if height < 2:
            return foot or [self._title(width)]
        n_middle = height - 2
        accuracies = self._accuracies(n_middle)
        if width < NARROW:
            under = self._in_short(width)[-1 * (n_middle - 3) :] if n_middle > 3 else []
            plot = self._plot(width, n_middle - len(under))
            return [self._title(width), *plot, *under, *foot]
        table_width = max(map(cell_len, accuracies))
        plot = self._plot(width - table_width - 3, n_middle)
        for line, cells in zip(plot, accuracies, strict=False):
            line.pad_right(width - table_width - line.cell_len)
            line.append(cells, style="bold" if cells.startswith("here") else "")
        return [self._title(width), *plot, *foot]

    def _title(self, width: int) -> Text:
        run, row = self.run, find_row(self.run)
        changes = differing(run.config, row) if row else {}
        if not row or (changes and run.overrides is None):
            words = format_command(run.config).removeprefix(SCRIPT).strip()
        else:
            seed = "" if run.config.seed == PUBLISHED_SEED else f", seed {run.config.seed}"
            words = f"Row {row.name}{seed}: {row.question}".removesuffix(": ")
            words += f" ({format_flags(run.overrides or changes)})" * bool(changes)
        place = f"  {self.place}" if self.place and width > NARROW // 2 else ""
        title = Text(self._fit(words, width - len(place)), style="bold")
        title.pad_right(width - len(place) - title.cell_len)
        return title.append(place, style="not bold")

    def _bar(self, width: int) -> Text:
        """How far the work at hand has come."""
        work = self.work
        if not work:
            return Text("")
        left = work.seconds_left
        words = f" {work.done:,} of {work.total:,} {work.unit}" if work.total else f" {work.done:,}"
        words += f", {describe_seconds(left)} left" if left else ""
        line = Text(f"{work.what} ")
        n = width - len(line) - len(words)
        if n < 0:  # what is left of it tells more
            return Text(words.strip())
        if work.total and n >= 5:
            filled = n * work.done // work.total
            full, empty = "━─" if self._has_braille else "#-"
            line.append(full * filled, style="green").append(empty * (n - filled), style="dim")
        return line.append(words)

    def _accuracies(self, n_lines: int) -> list[str]:
        """A table of accuracies: of the last epochs, as published, and of the whole run."""
        head = f"{'accuracy':<10}{'train %':>8}{'val %':>8}{'test %':>8}"
        ends = []
        published = self.published
        if any(getattr(published, part) is not None for part in PARTS):
            ends.append(("published", [getattr(published, part) for part in PARTS]))
        if self.result:
            found = self.result.accuracy
            ends.append(("here", [getattr(found, part).percent for part in PARTS]))
        epochs = [
            (f"epoch {number}", [train.percent, validation.percent, None])
            for number, (train, validation) in enumerate(self.history.epoch_accuracies, start=1)
        ]
        n_epochs = max(0, n_lines - 1 - len(ends))
        lines = [*(epochs[-n_epochs:] if n_epochs else []), *ends]
        figures = (
            [f"{name:<10}", *(f"{v:8.2f}" if v is not None else f"{'':8}" for v in values)]
            for name, values in lines
        )
        return [head, *("".join(cells) for cells in figures)]

    def _in_short(self, width: int) -> list[Text]:
        """The same where there is little room: the last epoch, and the test."""
        lines = []
        if pairs := self.history.epoch_accuracies:
            lines.append(f"epoch {len(pairs)}: train {pairs[-1][0]}, val {pairs[-1][1]}")
        if self.result:
            lines.append(f"test {self.result.accuracy.test}")
        if self.published.test is not None:
            lines.append(f"published: test {self.published.test:.2f}%")
        return [Text(self._fit(line, width)) for line in lines]

    def _plot(self, width: int, height: int) -> list[Text]:
        """The losses by step on a logarithmic scale, and beside each curve what it came to."""
        losses = self.history.losses
        columns = width - SCALE - LABEL
        if not losses or columns < 8 or height < 2:
            words = "" if losses else "Losses come once it trains."
            return [Text(self._fit(words, width), style="dim"), *map(Text, [""] * height)][:height]
        values = [value for loss in losses for value in (loss.train, loss.validation)]
        least = max(values) / LEAST  # of those that can be told apart
        curves = [
            [(loss.step, math.log(max(value, least, 1e-9))) for loss, value in pairs]
            for pairs in (
                [(loss, loss.train) for loss in losses],
                [(loss, loss.validation) for loss in losses],
            )
        ]
        end = max(self.epoch_ends[-1] - 1, losses[-1].step, 1)
        n_rows = height - 1 if height > 3 else height
        cells = draw_curves(curves, end, columns, n_rows, self._has_braille)
        scale = {0: f"{max(values):.3f}"[:5], n_rows - 1: f"{min(values):.3f}"[:5]}
        side = "│" if self._has_braille else "|"
        lines = []
        for number, row in enumerate(cells):
            line = Text().append(f"{scale.get(number, ''):>{SCALE - 2}} {side}", style="dim")
            for curve, some in groupby(row, key=lambda cell: cell[1]):
                words = "".join(character for character, _ in some)
                line.append(words, style=STYLES[curve])
            lines.append(line)
        self._label(lines, curves, end, columns)
        if n_rows < height:
            lines.append(self._axis(end, columns))
        return lines

    def _label(self, lines: list[Text], curves: list, end: float, columns: int) -> None:
        """Write behind each curve its name and its last value."""
        heights = [height for curve in curves for _, height in curve]
        low, span = min(heights), (max(heights) - min(heights)) or 1.0
        last = [self.history.losses[-1].train, self.history.losses[-1].validation]
        ends = (curve[-1][1] for curve in curves)
        rows = [round((1 - (height - low) / span) * (len(lines) - 1)) for height in ends]
        if rows[0] == rows[1] and len(lines) > 1:  # the higher one a line higher
            upper = int(last[1] > last[0])
            rows[upper] -= 1 if rows[upper] else 0
            rows[1 - upper] += 1 if rows[0] == rows[1] else 0
        for row, name, value, style in zip(rows, NAMES, last, STYLES, strict=True):
            at = SCALE + round(curves[0][-1][0] / end * (columns - 1)) + 2
            if lines[row].plain[at:].strip():  # the other curve's label is there
                at = len(lines[row].plain.rstrip()) + 2
            line = lines[row] = lines[row][:at]
            line.pad_right(at - len(line))
            line.append(f"{name} {value:.3f}", style=style)

    def _axis(self, end: float, columns: int) -> Text:
        """Where epochs end, by number."""
        marks = [" "] * columns
        start = 0
        for number, stop in enumerate(self.epoch_ends, start=1):
            at = round(start / end * (columns - 1))
            if not any(mark.strip() for mark in marks[max(0, at - 1) :]):
                marks[at : at + len(str(number))] = str(number)
            start = stop
        return Text(f"{'epoch':>{SCALE - 2}}  {''.join(marks)}", style="dim")

    @property
    def _has_braille(self) -> bool:
        return self.encoding.lower().replace("-", "").startswith("utf")

    def _fit(self, words: str, width: int) -> str:
        """Words that the terminal can show, at most so many columns of them."""
        text = Text(printable(words).encode(self.encoding, "replace").decode(self.encoding))
        text.truncate(max(0, width), overflow="ellipsis" if self._has_braille else "crop")
        return text.plain
