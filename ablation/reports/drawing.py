"""How pictures are drawn: twice, for a wide page and for a phone, in the reader's fonts, and on
light and dark pages."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib import transforms
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ablation.reports.pages import Picture, visible
from ablation.system.text_tables import cut, display_width

# Colours on light pages, and what they become on dark ones; each contrasts with both.
INK, FAINT, BLUE, ORANGE = "#222222", "#dddddd", "#1f6f9f", "#b3560b"
DARK = {INK: "#e6e6e6", FAINT: "#4a4a4a", BLUE: "#6db9e8", ORANGE: "#f0a04b"}
SHADE = "#3388c4"  # of areas, the same on both
FONT_SIZE = 9.5  # points
LINE = 0.17  # inches, of text
COLUMN = 0.075  # inches, of a character
NAME_COLUMNS = 38  # of a line of a name
STYLE = {
    "figure.dpi": 72,  # so that pixels are points
    "font.size": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "legend.fontsize": FONT_SIZE,
    "legend.frameon": False,
    "xtick.labelsize": FONT_SIZE,
    "ytick.labelsize": FONT_SIZE,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "axes.axisbelow": True,
    "savefig.transparent": True,
    "image.composite_image": False,  # small images are stored as they are
    # Names may be of any script, so they are drawn in the reader's fonts, and may hold dollars.
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "report",  # the same picture from the same records
}
FONTS = "system-ui,sans-serif"
NOT_IN_XML = re.compile("[\ufffe\uffff\ud800-\udfff]")


@dataclass(frozen=True)
class Form:
    """What a picture has room for."""

    width: float  # inches
    name_width: float  # inches, for names at the left of what they name; 0: they stand above it
    n_columns: int  # of small pictures side by side

    @property
    def is_narrow(self) -> bool:
        """Whether it is for a phone."""
        return not self.name_width


WIDE = Form(width=7.5, name_width=2.95, n_columns=3)
NARROW = Form(width=3.7, name_width=0, n_columns=2)


def draw_twice(name: str, description: str, draw: Callable[[Form], Figure]) -> Picture:
    """A picture in both forms, from what draws one."""
    with mpl.rc_context(STYLE):
        return Picture(name, description, *(_to_svg(draw(form)) for form in (WIDE, NARROW)))


def _to_svg(figure: Figure) -> bytes:
    file = io.StringIO()
    with warnings.catch_warnings():
        # Matplotlib only measures with its own font, which lacks most scripts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    dark = "".join(
        f"[style*='{kind}: {light}']{{{kind}:{dark}!important}}"
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    )
    fonts = f"text{{font-family:{FONTS}!important}}"
    style = f"<style>{fonts}@media (prefers-color-scheme:dark){{{dark}}}</style>"
    return re.sub(r"<svg[^>]*>", lambda tag: tag[0] + style, file.getvalue(), count=1).encode()


def shown(text: str) -> str:
    """A text on one line, as an SVG can hold it."""
    return NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", visible(text))


def wrap(text: str, width: int = NAME_COLUMNS) -> str:
    """A text in one line or two, of at most ``width`` columns; it is cut if it is longer."""
    text = shown(text)
    if display_width(text) <= width:
        return text
    line = cut(text, width + 1)[:-1]
    if text[len(line)] != " ":  # in the middle of a word
        line = line.rpartition(" ")[0] or line
    return f"{line}\n{cut(text[len(line) :].strip(), width)}"


def with_lines(
    form: Form, names: Sequence[str], values: Sequence[str], n_keys: int, extra: float = 0
) -> tuple[Figure, Axes, np.ndarray]:
    """A figure with a line for each name, at whose right a value is printed; its axes, whose
    ``unit`` is the height of a line in inches, and where (N,) on them marks stand.

    Args:
        n_keys: lines that a legend above may take.
        extra: room for the marks of a line, in inches, beyond that of one.
    """
    names = [wrap(name) for name in names]
    text = LINE * (1 + max(name.count("\n") for name in names))
    marks = 0.2 + extra
    unit = 0.1 + (text + marks if form.is_narrow else max(text, marks))
    above, below = 0.1 + LINE * 1.15 * n_keys, 0.5
    height = above + unit * len(names) + below
    right = 0.1 if form.is_narrow else 0.15 + COLUMN * max(map(len, values))
    left = form.name_width or 0.12
    figure = Figure(figsize=(form.width, height))
    axes = figure.add_axes(
        (
            left / form.width,
            below / height,
            1 - (left + right) / form.width,
            unit * len(names) / height,
        )
    )
    axes.unit = unit
    axes.set_ylim(len(names), 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    at = transforms.blended_transform_factory(figure.transFigure, axes.transData)
    top, place = (0.06 / unit, "top") if form.is_narrow else (0.5, "center")
    margin = 0.05 / form.width
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        axes.text(margin, i + top, name, transform=at, va=place, linespacing=1.15)
        axes.text(1 - margin, i + top, value, transform=at, va=place, ha="right")
        if i:
            line = Line2D([margin, 1 - margin], [i, i], transform=at, color=FAINT, lw=0.8)
            figure.add_artist(line)
    middle = (0.04 + text + marks / 2) / unit if form.is_narrow else 0.5
    return figure, axes, np.arange(len(names)) + middle


def put_keys(axes: Axes, keys: Sequence[str], places: np.ndarray) -> None:
    """Write each key beside its point (N, 2), in pixels, where it hides no other key and no point:
    the farther, with a line to it, the closer the points are."""
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    for key, (x, y) in zip(keys, places, strict=True):
        width, height = 7.0 * display_width(key), 11.0
        around = [
            (reach * np.cos(angle), reach * np.sin(angle))
            for reach in (11, 20, 30, 42, 56)
            for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False)
        ]
        boxes = [
            (x + dx - width / 2, y + dy - height / 2, x + dx + width / 2, y + dy + height / 2)
            for dx, dy in around
        ]
        free = (i for i, box in enumerate(boxes) if not any(_overlap(box, t) for t in taken))
        chosen = next(free, 0)
        taken.append(boxes[chosen])
        (dx, dy) = around[chosen]
        far = chosen >= 16
        axes.annotate(
            key,
            axes.transData.inverted().transform((x, y)),
            textcoords="offset points",
            xytext=(dx, dy),
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.6, "shrinkA": 1, "shrinkB": 2}
            if far
            else None,
        )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes (left, bottom, right, top) share something."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
