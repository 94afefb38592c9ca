"""What somebody expects of a table, as in ``row 16 > row 1``: read here, judged by the report."""

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ablation.config.tables import Table
from ablation.system.errors import Problem, shorten

SIDE = r"""(?:"[^"]*"|'[^']*'|[^<>"'])+"""
EXPRESSION = re.compile(f"({SIDE})([<>])(?!=)({SIDE})", re.DOTALL)


@dataclass(frozen=True)
class Expectation:
    """That ``better`` is the better of two rows on other texts and with other seeds, by name."""

    text: str
    better: str
    worse: str


def read_expectations(
    texts: Sequence[str], tables: Sequence[Table]
) -> tuple[list[Expectation], list[Problem]]:
    """What expressions say of the rows of tables, of which one has to compare the two, and all
    problems."""
    names = {str(name): None for table in tables for name in table.rows}
    compared = [(str(a), str(b)) for table in tables for _, (a, b) in table.comparisons]
    pairs = {frozenset(pair): " with ".join(pair) for pair in compared}
    expectations, problems = [], []
    for text in texts:
        expectation, problem = read_expectation(text, names)
        if expectation and frozenset((expectation.better, expectation.worse)) not in pairs:
            problem = f"the table does not compare these rows; it compares {_some(pairs.values())}"
        if problem:
            problems.append(Problem(f'--fail_unless "{shorten(text)}"', problem))
        else:
            expectations.append(expectation)
    return expectations, problems


def read_expectation(text: str, names: Collection[str]) -> tuple[Expectation | None, str | None]:
    """What an expression says of the rows of a table, or what is wrong with it.

    Args:
        text: two names or numbers of rows, each with or without "row" or quotes, and > or < between
            them; the side that is open towards a row says that it is better.
    """
    found = EXPRESSION.fullmatch(text)
    if not found:
        return None, 'cannot be read; write it as in "row 16 > row 1"'
    sides = []
    for side in found[1], found[3]:
        *others, bare = _possible_names(side.strip())
        name = next((name for name in (*others, bare) if name in names), None)
        if name is None:
            near = difflib.get_close_matches(bare, names, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are {_some(names)}"
            return None, f'the table has no row "{shorten(bare, 60)}"; {hint}'
        sides.append(name)
    if sides[0] == sides[1]:
        return None, "names one row twice; give two different rows"
    better, worse = sides if found[2] == ">" else reversed(sides)
    return Expectation(text, better, worse), None


def _possible_names(side: str) -> list[str]:
    """What a side may name: a row's name, which may begin with "row" itself, in quotes or not."""
    bare = re.sub(r"^row\s+", "", side)
    return [side, re.sub(r"""^(["'])(.*)\1$""", r"\2", side), bare, bare.strip("\"'")]


def _some(words: Collection[str]) -> str:
    first = [*words]
    return ", ".join(first if len(first) <= 20 else [*first[:19], f"... ({len(first)} in all)"])
