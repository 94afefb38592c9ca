"""Tables as TOML files, read with every problem of theirs named."""

import difflib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from ablation.config.flag_types import Number, Option
from ablation.config.identity import identify_experiment
from ablation.config.options import OPTIONS
from ablation.config.rules import use_problems
from ablation.config.tables import Comparison, Name, Published, Row, Table
from ablation.system.errors import ConfigError, Problem, shorten
from ablation.system.files import path_fault
from ablation.system.output import printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 2**20
MAX_NAME = 80  # characters of a row's name
KEYS = {
    "table": ("title", "source", "flags", "rows", "comparisons"),
    "row": ("name", "question", "flags", "published"),
    "comparison": ("question", "rows"),
    "published": tuple(field.name for field in fields(Published)),
}
# What --rows takes for something else.
RESERVED = re.compile(r"all|list|-.*|.*,.*|\s.*|.*\s|\d+\s*-\s*\d+", re.DOTALL)
CHOOSING_TEXTS = ("dataset", "demo")  # besides the options that are tagged dataset


def read_table(path: Path) -> Table:
    """The table in a file. Raises ``ConfigError`` with every problem of the file."""
    try:
        content = _read_toml(path)
    except ValueError as error:
        raise ConfigError([Problem("", str(error))]) from error
    reader = _Reader()
    table = reader.table(content, path.stem)
    if reader.problems:
        raise ConfigError(reader.problems)
    return table


def _read_toml(path: Path) -> dict[str, Any]:
    """What a file holds. Raises ``ValueError`` that says why it is no TOML file."""
    if fault := path_fault(path):
        raise ValueError(fault)
    if not path.is_file():
        reason = "not a file" if path.exists() else "no such file"
        raise ValueError(f"{reason}; give a TOML file")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes; no table has them")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8, at byte {error.start}; save it as UTF-8") from error
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        last = f"at the end, line {text.count(chr(10)) + 1}"
        reason = shorten(str(error).replace("at end of document", last))
        raise ValueError(f"not TOML: {reason}") from error


def unknown_option(name: str) -> Problem:
    """What is wrong with a name that no option has, and the one that may be meant."""
    nearest = difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.5)
    hint = f'did you mean "{nearest[0]}"?' if nearest else "docs/flags.md has all"
    return Problem(shorten(name), f"no such option; {hint}")


def fixed_because(option: Option) -> str | None:
    """Why an option cannot differ between the rows of a table; none if it can."""
    if "repeat" in option.tags:
        return "each row is run with each seed and fold; give --seeds, --num_seeds or --folds"
    if "circumstance" in option.tags:
        return f"it makes no other experiment; give --{option.name} beside the table, for all rows"
    chooses = "dataset" in option.tags and "same_test" not in option.tags
    if chooses or option.name in CHOOSING_TEXTS:
        return (
            "rows are compared on the same texts, and it chooses these; give all rows the same, "
            "and other texts another --output_dir"
        )
    return None


class _Reader:
    """Turns what TOML holds into a table, and notes whatever cannot be."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def note(self, place: str, sentence: str) -> None:
        """Note a problem."""
        self.problems.append(Problem("", sentence, place))

    def table(self, content: Mapping[str, Any], name: str) -> Table:
        """The table; ``name`` is its title if it has none."""
        self._known("the table", content, KEYS["table"])
        title = self._text("title", content.get("title", name))
        source = self._text("source", content.get("source", ""))
        common = self._flags("flags", content.get("flags", {}))
        rows: dict[Name, Row] = {}
        for i, entry in enumerate(self._entries("rows", content), start=1):
            row = self._row(i, entry, common)
            if row and row.name in rows:
                self.note(f'row "{row.name}"', "there are two of that name")
            elif row:
                rows[row.name] = row
        if not self.problems and not rows:
            self.note("", "it has no rows; begin each with [[rows]]")
        comparisons = [
            self._comparison(i, entry, rows)
            for i, entry in enumerate(self._entries("comparisons", content), start=1)
        ]
        if not self.problems:
            for place, sentence in _contradictions(rows, comparisons):
                self.note(place, sentence)
        if not comparisons:  # each row against the first
            first, *others = rows or [""]
            comparisons = [Comparison(rows[other].question, (first, other)) for other in others]
        return Table(title, rows, tuple(comparisons), source)

    def _row(self, i: int, entry: Mapping[str, Any], common: Mapping[str, Any]) -> Row | None:
        self._known(f"row {i}", entry, KEYS["row"])
        name = self._name(f"row {i}: name", entry.get("name"))
        if name is None:
            return None
        place = f'row "{name}"'
        flags = {**common, **self._flags(place, entry.get("flags", {}))}
        # A switch that is off is the default.
        flags = {option: value for option, value in flags.items() if value is not False}
        published = self._published(place, entry.get("published", {}))
        question = self._text(f"{place}: question", entry.get("question", ""))
        row = Row(name, question, flags, published)
        self.problems += (problem.within(place) for problem in use_problems(row.config, flags))
        return row

    def _comparison(
        self, i: int, entry: Mapping[str, Any], rows: Mapping[Name, Row]
    ) -> Comparison | None:
        place = f"comparison {i}"
        self._known(place, entry, KEYS["comparison"])
        pair = entry.get("rows")
        if not isinstance(pair, list) or len(pair) != 2:
            self.note(place, 'it needs the two rows that it compares, rows = ["a", "b"]')
            return None
        names = tuple(self._name(f"{place}: rows", name) for name in pair)
        for name in names:
            if name is not None and name not in rows:
                self.note(place, f'there is no row "{name}"')
        return Comparison(self._text(f"{place}: question", entry.get("question", "")), names)

    def _flags(self, place: str, content: Any) -> dict[str, Any]:
        flags = {}
        for name, value in self._mapping(place, content).items():
            option = OPTIONS.get(name)
            if option is None:
                self.problems.append(unknown_option(name).within(place))
            elif not option.tags.isdisjoint(("circumstance", "repeat")):
                self.note(f"{place}: {name}", fixed_because(option))
            elif (option.values is None) != isinstance(value, bool) or isinstance(
                value, list | dict
            ):
                what = "a switch, true or false" if option.values is None else "one value"
                self.note(f"{place}: {name}", f"not {what}")
            elif option.values is None:
                flags[name] = value
            else:
                read, problem = option.read(_as_typed(value))
                if problem:
                    self.problems.append(problem.within(place))
                else:  # 16 stays 16, as it is on a command line of the source
                    is_number = isinstance(option.values, Number) and not isinstance(value, str)
                    flags[name] = value if is_number else read
        return flags

    def _published(self, place: str, content: Any) -> Published:
        figures = self._mapping(f"{place}: published", content)
        self._known(f"{place}: published", figures, KEYS["published"])
        found = {}
        for name in KEYS["published"]:
            value, high = figures.get(name), 100 if name != "minutes" else 10**9
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 <= value <= high):
                what = "in percent" if high == 100 else "of minutes"
                self.note(f"{place}: published {name}", f"not a number {what}")
            elif value is not None:
                found[name] = float(value)
        return Published(**found)

    def _name(self, place: str, value: Any) -> Name | None:
        """A row's name: a number, or a text that --rows can take."""
        text = _as_typed(value)
        if isinstance(value, int | str) and not isinstance(value, bool):
            if re.fullmatch(r"\d{1,4}", text):
                return int(text)
            is_short = 0 < len(text) <= MAX_NAME and text == printable(text)
            if isinstance(value, str) and is_short and not RESERVED.fullmatch(text):
                return text
        self.note(
            f"{place}: {shorten(text, 60)}",
            "give a number up to 9999, or a short text without commas that is not all, list or a "
            "range",
        )
        return None

    def _text(self, place: str, value: Any) -> str:
        if isinstance(value, str):
            return value
        self.note(f"{place}: {shorten(value)}", "not a text")
        return ""

    def _mapping(self, place: str, value: Any) -> Mapping[str, Any]:
        if isinstance(value, dict):
            return value
        self.note(f"{place}: {shorten(value)}", "not of the form { option = value }")
        return {}

    def _entries(self, key: str, content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        entries = content.get(key, [])
        if isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries):
            return entries
        self.note(key, f"begin each with [[{key}]]")
        return []

    def _known(self, place: str, content: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        for key in content.keys() - {*keys}:
            self.note(f"{place}: {shorten(key)}", f"no such key; it has {', '.join(keys)}")


def _as_typed(value: Any) -> str:
    """A value as a command line would have it. A hexadecimal number may be too large for that."""
    return shorten(value, MAX_BYTES)


def _contradictions(
    rows: Mapping[Name, Row], comparisons: list[Comparison]
) -> Iterator[tuple[str, str]]:
    """Where rows do not go beside each other, or comparisons go round, and why."""
    first_of: dict[str, Name] = {}
    for name, row in rows.items():
        if (first := first_of.setdefault(identify_experiment(row.config), name)) != name:
            yield f"rows {_pair((first, name))}", "they are the same experiment; leave one out"
    for option in OPTIONS.values():
        values = {getattr(row.config, option.name) for row in rows.values()}
        if len(values) > 1 and (reason := fixed_because(option)):
            yield option.name, reason
    seen = set()
    for comparison in comparisons:
        if comparison.rows in seen:
            yield f"comparison of {_pair(comparison.rows)}", "it is there twice"
        seen.add(comparison.rows)
    try:
        TopologicalSorter({second: [] for second in rows} | _bases(comparisons)).prepare()
    except CycleError as error:
        circle = " with ".join(f'"{name}"' for name in error.args[1])
        yield "comparisons", f"they go round in a circle: {circle}; leave one out"


def _bases(comparisons: list[Comparison]) -> dict[Name, list[Name]]:
    """The rows that each row is compared with."""
    bases: dict[Name, list[Name]] = {}
    for comparison in comparisons:
        first, second = comparison.rows
        bases.setdefault(second, []).append(first)
    return bases


def _pair(names: tuple[Name, Name]) -> str:
    return " and ".join(f'"{name}"' for name in names)
