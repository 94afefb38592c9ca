"""What is computed in README.md and docs/: tables and pictures.

    python docs/build.py

writes each piece between the two comments that name it, and the pictures. A test fails when a
piece is stale. Figures come from the rows, the flags, the records in results/ and docs/lesson/,
and benchmarks/measured.json.
"""

import io
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import predict
from ablation.config.flag_types import Option
from ablation.config.flags import ACTIONS
from ablation.config.kept_tables import known_tables
from ablation.config.options import OPTIONS
from ablation.config.published import published_count
from ablation.config.rows import ROWS, SOURCE
from ablation.config.runs import Run
from ablation.config.tables import Name
from ablation.finetuning.outcomes import History
from ablation.reports.comparisons import accuracy_interval
from ablation.reports.findings import compare_rows, format_interval
from ablation.reports.pages import markdown_table
from ablation.reports.tables import (
    Configuration,
    group_records,
    mean_and_deviation,
    tabulate,
)
from ablation.sweeps.panel import Panel
from ablation.sweeps.records import Record, read_records
from ablation.system.version import PROJECT
from data_utils import PARTS

N_TEST = 300
# Of the test messages, those that a linear SVM on runs of 2 to 5 characters gets right. The slow
# tests compute it from the real messages.
SVM_CORRECT = 293
PICTURE, MASK, WATCHING = "docs/rows.svg", "docs/mask.svg", "docs/watching.svg"
# The piece of each name is in this file.
PLACES = {
    "picture": "README.md",
    "rows": "README.md",
    "costs": "README.md",
    "commands": "docs/rows.md",
    "random weights": "docs/rows.md",
    "flags": "docs/flags.md",
    "flags of predict.py": "docs/flags.md",
    "lesson": "docs/lesson.md",
    "learning rates": "docs/sweeps.md",
}


def build() -> dict[str, str]:
    """What each file should hold, by its path from the project's folder."""
    records = read_records(PROJECT / "results")
    measured = random_weights(records)
    points = [point_of(number, measured.get(number)) for number in ROWS]
    pieces = {
        "picture": f"![{describe_picture(points)}]({PICTURE})",
        "rows": short_table(measured),
        "costs": costs(),
        "commands": commands_table(records),
        "random weights": variants_table(records),
        "flags": flags_table([*ACTIONS.values(), *OPTIONS.values()]),
        "flags of predict.py": flags_table(predict.FLAGS.values()),
        "lesson": lesson_table(read_records(PROJECT / "docs" / "lesson")),
        "learning rates": rates_table(PROJECT / "docs" / "learning_rates"),
    }
    files = {path: (PROJECT / path).read_text() for path in PLACES.values()}
    for name, piece in pieces.items():
        start, end = f"<!-- {name}: docs/build.py writes this -->", f"<!-- end of {name} -->"
        before, rest = files[PLACES[name]].split(start)
        files[PLACES[name]] = f"{before}{start}\n{piece}\n{end}{rest.split(end)[1]}"
    return {**files, PICTURE: draw(points), MASK: draw_masks(), WATCHING: draw_panel(records)}


# ---------------------------------------------------------------- a run at work


def draw_panel(records: Sequence[Record]) -> str:
    """What a terminal of 84 columns showed of row 10 in its fourth epoch, as SVG."""
    (record,) = (record for record in records if record.result["row"] == 10)
    history = History.from_json(record.result["history"])
    done, total = 470, 650
    left = record.result["seconds"]["training"] * (total - done) / total
    panel = Panel(
        Run(record.config),
        place="run 4 of 19",
        history=History(
            [loss for loss in history.losses if loss.step < done], history.epoch_accuracies[:3]
        ),
        epoch_ends=list(range(total // 5, total + 1, total // 5)),
        work=SimpleNamespace(
            what="training", unit="steps", done=done, total=total, seconds_left=left
        ),
    )
    console = Console(record=True, width=84, file=io.StringIO(), force_terminal=True)
    for line in panel.lines(84, 24):
        console.print(line, soft_wrap=True)
    # Without the fonts that rich would load from elsewhere.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(
        title="A run at work", theme=MONOKAI, unique_id="panel", code_format=form
    )
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


# ---------------------------------------------------------------- tables


def random_weights(records: Sequence[Record]) -> dict[int, Configuration]:
    """The runs of rows with random weights, by row; those of row 10 are its own."""
    sections, _ = group_records(records)
    (section,) = (part for part in sections if part.overrides == {"weights": "random"})
    return {**section.configurations, 10: section.configurations[5]}


def short_table(measured: dict[int, Configuration]) -> str:
    """The README's table: each row's question, and its test accuracies."""
    lines = [
        "| row | question | to run it | published | random weights, measured |",
        "| --: | --- | --- | --: | --: |",
    ]
    for number, row in ROWS.items():
        configuration = measured.get(number)
        here = mean_and_deviation(configuration.percent("test")) if configuration else "not run"
        lines.append(
            f"| {number} | {row.question} | `--rows {number}` | {row.published.test:.2f} | {here} |"
        )
    return "\n".join(lines)


def costs() -> str:
    """What rows 1 and 16 take as a whole process, from the benchmarks."""
    measured = json.loads((PROJECT / "benchmarks" / "measured.json").read_text())
    taken = []
    for number in (1, 16):
        (seconds,) = (run["seconds"] for run in measured["run_seconds"] if run["row"] == number)
        (memory,) = (
            run["gigabytes"]
            for run in measured["peak_memory"]
            if run["row"] == number and not run["options"]
        )
        taken.append(f"row {number} takes {seconds / 60:.1f} minutes and {memory:.1f} GB of memory")
    return (
        f"On two cores (AMD EPYC, Zen 4), fewer than a laptop has, and no GPU, {taken[0]},\n"
        f"{taken[1]} ([measured](benchmarks/README.md) with random weights, which cost the same)."
    )


def commands_table(records: Sequence[Record]) -> str:
    """Each row's command, all of its published figures, and what was reproduced."""
    (section, *_), _ = group_records(records)
    lines = [
        "| row | question | command | train % | val % | test % | min | reproduced |",
        "| --: | --- | --- | --: | --: | --: | --: | --- |",
    ]
    for number, row in ROWS.items():
        published = " | ".join(f"{value:.2f}" for value in asdict(row.published).values())
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
    """The rows with random weights that were run, with intervals and minutes."""
    sections, _ = group_records(records)
    (section,) = (part for part in sections if part.overrides == {"weights": "random"})
    table = tabulate(section).query("n != ''").drop(columns=["n", "trained"])
    return markdown_table(table)


def flags_table(options: Iterable[Option]) -> str:
    """Every flag of a script."""
    lines = ["| flag | default | what it is |", "| --- | --- | --- |"]
    for option in options:
        lines.append(f"| `--{option.name}` | {option.shown_default} | {option.help} |")
    return "\n".join(lines)


def lesson_table(records: Sequence[Record]) -> str:
    """The lesson's four configurations: what is read, and whether the mask is on."""
    lines = [
        "| read | causal mask | seed 123, % | seed 124, % | mean, % |",
        "| --- | --- | --: | --: | --: |",
    ]
    for position in ("first", "last"):
        for unmasked in (False, True):
            percents = [
                record.accuracy("test").percent
                for record in sorted(records, key=lambda record: record.config.seed)
                if record.config.trainable_token_pos == position
                and record.config.disable_causal_mask == unmasked
            ]
            figures = " | ".join(f"{percent:.2f}" for percent in percents)
            mask = "off" if unmasked else "on"
            lines.append(f"| {position} token | {mask} | {figures} | {np.mean(percents):.1f} |")
    return "\n".join(lines)


def rates_table(folder: Path) -> str:
    """The learning rates of each row in the example of --vary, and what is found of them."""
    (section,), _ = group_records(read_records(folder), known_tables(folder, SOURCE))
    lines = [
        "| row | learning rate | validation, % | test, % | against 5e-5, points | finding |",
        "| --: | --: | --: | --: | --: | --- |",
    ]
    found = {finding.rows[1]: finding for finding in compare_rows(section)}
    for name, part in sorted(section.configurations.items(), key=rate_order):
        means = " | ".join(mean_and_deviation(part.percent(p)) for p in ("validation", "test"))
        rate, row = part.records[0].config.learning_rate, str(name).partition(":")[0]
        difference, words = "", ""
        if name in found:
            difference = found[name].difference
            difference = f"{difference.points:+.2f} ({format_interval(difference)})"
            words = found[name].verdict.removeprefix(f"row {name} is ")
        lines.append(f"| {row} | {rate:g} | {means} | {difference} | {words} |")
    return "\n".join(lines)


def rate_order(configuration: tuple[Name, Configuration]) -> tuple[int, float]:
    """By row, and the learning rate."""
    name, part = configuration
    return int(str(name).partition(":")[0]), part.records[0].config.learning_rate


# ---------------------------------------------------------------- the picture

# In pixels. Narrow, so that its letters can be read on a phone.
WIDTH, LEFT, RIGHT, TOP, STEP = 560, 250, 22, 66, 25
LOW, HIGH = 65, 100  # accuracies at the ends of the axis, in percent
STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #24292f }
  .note { font-size: 13px; fill: #57606a }
  .card { fill: #ffffff; stroke: #d0d7de }
  .grid { stroke: #d8dee4 }
  .svm { stroke: #57606a; stroke-width: 1.5; stroke-dasharray: 5 4 }
  .published { stroke: #c2500a; fill: #c2500a }
  .measured { stroke: #1f6feb; fill: #1f6feb }
  line.published, line.measured { stroke-width: 1.6 }
  .seen { fill: #1f6feb }
  .hidden { fill: none; stroke: #d8dee4 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .note { fill: #9da7b1 }
    .card { fill: #0d1117; stroke: #30363d }
    .grid { stroke: #262c34 }
    .svm { stroke: #9da7b1 }
    .published { stroke: #f0883e; fill: #f0883e }
    .measured { stroke: #58a6ff; fill: #58a6ff }
    .seen { fill: #58a6ff }
    .hidden { stroke: #30363d }
  }
"""

Bar = tuple[float, float, float]  # accuracy, and the ends of its 95 % interval, in percent
Point = tuple[int, Bar, Bar | None]  # row, published, measured


def point_of(number: int, configuration: Configuration | None) -> Point:
    """A row in the picture. The interval of a published figure is for other messages."""
    row = ROWS[number]
    count = published_count(row.published.test, N_TEST)
    correct = np.arange(N_TEST)[None] < count
    measured = None
    if configuration:
        percent = float(configuration.percent("test").mean())
        measured = (percent, *accuracy_interval(configuration.correct))
    return number, (row.published.test, *accuracy_interval(correct)), measured


def describe_picture(points: Sequence[Point]) -> str:
    """The picture in words, for those who do not see it."""
    published = ", ".join(f"{number}: {bar[0]:.2f}" for number, bar, _ in points)
    measured = ", ".join(f"{number}: {bar[0]:.2f}" for number, _, bar in points if bar)
    return (
        f"Test accuracy in percent by row. Published: {published}. Measured with random weights: "
        f"{measured}. A linear SVM on characters: {100 * SVM_CORRECT / N_TEST:.2f}. Intervals of "
        "95 % are about 2 to 5 points to each side."
    )


def draw(points: Sequence[Point]) -> str:
    """Test accuracy of each row with its interval, published above measured; the SVM as a line."""
    bottom = TOP + STEP * len(points)
    svm = 100 * SVM_CORRECT / N_TEST
    parts = [f'<rect class="card" x="1" y="1" width="{WIDTH - 2}" height="{bottom + 44}" rx="8"/>']
    for percent in range(LOW + 5, HIGH + 1, 10):
        parts.append(_line("grid", percent, TOP - 6, percent, bottom))
        parts.append(_text(percent, bottom + 17, f"{percent}", "note", "middle"))
    parts.append(_text((LOW + HIGH) / 2, bottom + 36, "test accuracy, %", "note", "middle"))
    parts.append(_line("svm", svm, TOP - 6, svm, bottom))
    parts.append(_text(svm, TOP - 11, f"linear SVM {svm:.2f}", "note", "end", dx=22))
    legend = (("published", 16, "published"), ("measured", 116, "measured, random weights"))
    for name, x, words in legend:
        parts.append(_marker(name, x, 24))
        parts.append(f'<text x="{x + 12}" y="29">{words}</text>')
    for index, (number, published, measured) in enumerate(points):
        y = TOP + STEP * (index + 0.5)
        label = escape(f"{number}  {ROWS[number].question}")
        parts.append(f'<text x="{LEFT - 8}" y="{y + 5:g}" text-anchor="end">{label}</text>')
        bars = [("published", published), ("measured", measured)]
        for shift, (name, bar) in zip((-4, 4) if measured else (0, 0), bars, strict=True):
            if bar:
                percent, low, high = bar
                parts.append(_line(name, max(low, LOW), y + shift, high, y + shift))
                parts.append(_marker(name, _x(percent), y + shift))
    return _svg(bottom + 46, describe_picture(points), parts)


def draw_masks() -> str:
    """Which token may look at which: with the causal mask, and without."""
    tokens, cell, top = ("Free", "entry", "today", "<pad>"), 44, 78
    parts = [f'<rect class="card" x="1" y="1" width="{WIDTH - 2}" height="266" rx="8"/>']
    for left, causal, title in ((78, True, "with the causal mask"), (346, False, "without it")):
        middle = left + 2 * cell
        parts.append(f'<text x="{middle}" y="30" text-anchor="middle">{title}</text>')
        for i, token in enumerate(tokens):
            word, y = escape(token), top + i * cell
            x = left + (i + 0.5) * cell
            parts.append(f'<text class="note" x="{x:g}" y="66" text-anchor="middle">{word}</text>')
            parts.append(
                f'<text class="note" x="{left - 8}" y="{y + 26}" text-anchor="end">{word}</text>'
            )
            for j in range(len(tokens)):
                name = "seen" if j <= i or not causal else "hidden"
                parts.append(
                    f'<rect class="{name}" x="{left + j * cell + 2}" y="{y + 2}" '
                    f'width="{cell - 4}" height="{cell - 4}" rx="4"/>'
                )
    words = (
        "Two squares of four by four cells. A line is a token that looks, a column a token that it "
        "looks at. With the causal mask the cells on and below the diagonal are filled: Free sees "
        "only itself, entry sees two tokens, today three, the padding behind them all four. "
        "Without it all cells are filled."
    )
    return _svg(268, words, parts)


def _svg(height: float, words: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">\n'
        f"<title>{escape(words)}</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def _x(percent: float) -> float:
    return LEFT + (percent - LOW) / (HIGH - LOW) * (WIDTH - LEFT - RIGHT)


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{_x(x1):.1f}" y1="{y1:g}" x2="{_x(x2):.1f}" y2="{y2:g}"'
    return f'<line class="{name}" {ends}/>'


def _text(percent: float, y: float, words: str, name: str, anchor: str, dx: float = 0) -> str:
    place = f'x="{_x(percent) + dx:.1f}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text class="{name}" {place}>{escape(words)}</text>'


def _marker(name: str, x: float, y: float) -> str:
    """A diamond for what was published, a disc for what was measured."""
    if name == "published":
        return f'<path class="{name}" d="M{x:.1f} {y - 5:g}l5 5-5 5-5-5z"/>'
    return f'<circle class="{name}" cx="{x:.1f}" cy="{y:g}" r="4"/>'


if __name__ == "__main__":
    for path, content in build().items():
        (PROJECT / path).write_text(content)
