"""What is computed in README.md and docs/: tables, and the picture.

    python docs/build.py

writes each piece between the two comments that name it, and docs/rows.svg. A test fails when a
piece is stale. Figures come from the rows, the flags, the records in results/ and docs/lesson/,
and benchmarks/measured.json.
"""

import json
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from ablation.config.flags import ACTIONS  # noqa: E402
from ablation.config.options import OPTIONS  # noqa: E402
from ablation.config.published import published_count  # noqa: E402
from ablation.config.rows import ROWS  # noqa: E402
from ablation.reports.comparisons import accuracy_interval  # noqa: E402
from ablation.reports.pages import markdown_table  # noqa: E402
from ablation.reports.tables import (  # noqa: E402
    Configuration,
    group_records,
    mean_and_deviation,
    tabulate,
)
from ablation.sweeps.records import Record, read_records  # noqa: E402
from data_utils import PARTS  # noqa: E402

N_TEST = 300
# Of the test messages, those that a linear SVM on runs of 2 to 5 characters gets right. The slow
# tests compute it from the real messages.
SVM_CORRECT = 293
PICTURE = "docs/rows.svg"
# The piece of each name is in this file.
PLACES = {
    "picture": "README.md",
    "rows": "README.md",
    "costs": "README.md",
    "commands": "docs/rows.md",
    "random weights": "docs/rows.md",
    "flags": "docs/flags.md",
    "lesson": "docs/lesson.md",
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
        "flags": flags_table(),
        "lesson": lesson_table(read_records(PROJECT / "docs" / "lesson")),
    }
    files = {path: (PROJECT / path).read_text() for path in PLACES.values()}
    for name, piece in pieces.items():
        start, end = f"<!-- {name}: docs/build.py writes this -->", f"<!-- end of {name} -->"
        before, rest = files[PLACES[name]].split(start)
        files[PLACES[name]] = f"{before}{start}\n{piece}\n{end}{rest.split(end)[1]}"
    return {**files, PICTURE: draw(points)}


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
        lines.append(f"| {number} | {row.question} | `--rows {number}` | {row.test:.2f} | {here} |")
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
    """The rows with random weights that were run, with intervals and minutes."""
    sections, _ = group_records(records)
    (section,) = (part for part in sections if part.overrides == {"weights": "random"})
    table = tabulate(section).query("n != ''").drop(columns=["n", "trained"])
    return markdown_table(table)


def flags_table() -> str:
    """Every flag of additional_experiments.py."""
    lines = ["| flag | default | what it is |", "| --- | --- | --- |"]
    for option in (*ACTIONS.values(), *OPTIONS.values()):
        lines.append(f"| `--{option.name}` | {option.shown_default} | {option.help} |")
    return "\n".join(lines)


def lesson_table(records: Sequence[Record]) -> str:
    """The lesson's four configurations: what is read, and whether the mask is on."""
    lines = [
        "| read | causal mask | seed 123 | seed 124 | mean |",
        "| --- | --- | --: | --: | --: |",
    ]
    for position in ("first", "last"):
        for unmasked in (False, True):
            percents = [
                record.accuracy("test").percent
                for record in sorted(records, key=lambda record: record.seed)
                if record.config.trainable_token_pos == position
                and record.config.disable_causal_mask == unmasked
            ]
            figures = " | ".join(f"{percent:.2f} %" for percent in percents)
            mask = "off" if unmasked else "on"
            lines.append(f"| {position} token | {mask} | {figures} | {np.mean(percents):.1f} % |")
    return "\n".join(lines)


# ---------------------------------------------------------------- the picture

# In pixels. Narrow, so that its letters can be read on a phone.
WIDTH, LEFT, RIGHT, TOP, STEP = 560, 244, 22, 66, 25
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
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .note { fill: #9da7b1 }
    .card { fill: #0d1117; stroke: #30363d }
    .grid { stroke: #262c34 }
    .svm { stroke: #9da7b1 }
    .published { stroke: #f0883e; fill: #f0883e }
    .measured { stroke: #58a6ff; fill: #58a6ff }
  }
"""

Bar = tuple[float, float, float]  # accuracy, and the ends of its 95 % interval, in percent
Point = tuple[int, Bar, Bar | None]  # row, published, measured


def point_of(number: int, configuration: Configuration | None) -> Point:
    """A row in the picture. The interval of a published figure is for other messages."""
    row = ROWS[number]
    count = published_count(row.test, N_TEST)
    correct = np.arange(N_TEST)[None] < count
    measured = None
    if configuration:
        percent = float(configuration.percent("test").mean())
        measured = (percent, *accuracy_interval(configuration.correct))
    return number, (row.test, *accuracy_interval(correct)), measured


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
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 46}" '
        f'width="{WIDTH}" height="{bottom + 46}" role="img">\n'
        f"<title>{escape(describe_picture(points))}</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n"
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
