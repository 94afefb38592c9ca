"""Curves in the characters of a terminal."""

from collections.abc import Sequence
from itertools import pairwise

DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a Braille character, by column
LETTERS = "tvb"  # where there is no Braille: training, validation, both

Points = Sequence[tuple[float, float]]


def draw_curves(
    curves: Sequence[Points], end: float, columns: int, rows: int, braille: bool
) -> list[list[tuple[str, int]]]:
    """A first curve, and a second one as a row of dots, from 0 to ``end``.

    Returns rows from the top, of characters with the number of the curve that was there last.
    """
    wide, high = (2, 4) if braille else (1, 1)
    values = [y for points in curves for _, y in points]
    low, span = min(values), (max(values) - min(values)) or 1.0
    dots: list[dict[tuple[int, int], None]] = []
    for number, points in enumerate(curves):
        places = [
            (round(x / end * (wide * columns - 1)), round((y - low) / span * (high * rows - 1)))
            for x, y in points
        ]
        line = dict.fromkeys(places[:1])
        for (x1, y1), (x2, y2) in pairwise(places):
            n = max(abs(x2 - x1), abs(y2 - y1), 1)
            steps = ((x1 + (x2 - x1) * i / n, y1 + (y2 - y1) * i / n) for i in range(n + 1))
            line |= dict.fromkeys((round(x), round(y)) for x, y in steps)
        dots.append({at: None for at in line if not (braille and number and at[0] % 2)})
    grid = [[(0, 0)] * columns for _ in range(rows)]  # bits, and the number of a curve
    for number, line in enumerate(dots):
        for x, y in line:
            row, column = rows - 1 - y // high, x // wide
            bit = DOTS[x % 2][3 - y % 4] if braille else 1 << number
            grid[row][column] = (grid[row][column][0] | bit, number)
    return [
        [
            ((chr(0x2800 | bits) if braille else LETTERS[bits - 1]) if bits else " ", number)
            for bits, number in line
        ]
        for line in grid
    ]
