"""The drawings of README.md and docs/, as SVG: accuracies by row, and the causal mask."""

from collections.abc import Sequence
from html import escape

import numpy as np

from ablation.config.published import published_count
from ablation.config.rows import ROWS
from ablation.reports.comparisons import accuracy_interval
from ablation.reports.tables import Configuration

N_TEST = 300
# Of the test messages, those that a linear SVM on runs of 2 to 5 characters gets right. The slow
# tests compute it from the real messages.
SVM_CORRECT = 293
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


def draw_rows(points: Sequence[Point]) -> str:
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
