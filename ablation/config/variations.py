"""--vary and --cross: a table written from values of options."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ablation.config.commands import format_flags, format_value, typed_options
from ablation.config.flag_types import Option
from ablation.config.identity import identify_experiment
from ablation.config.options import OPTIONS, tagged, without
from ablation.config.table_files import MAX_NAME, fixed_because, unknown_option
from ablation.config.tables import Comparison, Name, Published, Row, Table, configure, differing
from ablation.system.errors import Problem, shorten

MANY_RUNS = 1000  # more of them need --yes
UNNAMED = Row("base", "the base", {})  # of --vary without --rows
SWITCH = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}

Changes = Mapping[str, Sequence[Any]]  # values by option


def read_changes(texts: Sequence[str]) -> tuple[dict[str, list[Any]], list[Problem]]:
    """The options and values of texts such as learning_rate=2e-5,5e-5, each value once, and every
    problem of them. A switch is on, off, or alone, which is on."""
    changes: dict[str, list[Any]] = {}
    problems = []
    for text in texts:
        name, _, values = text.lstrip("-").partition("=")
        flag, option = f"--vary {shorten(text)}", OPTIONS.get(name.strip())
        if not text:  # which was said
            continue
        if option is None:
            problems.append(unknown_option(name.strip()).within("--vary"))
        elif option.values is not None and "=" not in text:
            problems.append(Problem(flag, f"without values; give {option.name}=VALUE,VALUE"))
        elif reason := fixed_because(option):
            problems.append(Problem(flag, reason))
        elif option.name in changes:
            sentence = f"{option.name} is varied twice; give all values at once"
            problems.append(Problem(flag, sentence))
        else:
            changes[option.name] = []
            words = [word.strip() for word in values.split(",")] if "=" in text else ["on"]
            for value, problem in (_read_value(option, word) for word in words):
                if problem:
                    problems.append(problem.within("--vary"))
                elif value not in changes[option.name]:
                    changes[option.name].append(value)
    return changes, problems


def _read_value(option: Option, text: str) -> tuple[Any, Problem | None]:
    if option.values is None:
        problem = Problem(f'--{option.name} "{shorten(text)}"', "give on or off")
        return SWITCH.get(text.casefold()), None if text.casefold() in SWITCH else problem
    if text == "none" and option.default is None:
        return None, None
    return option.read(text)


def count_rows(n_bases: int, changes: Changes, crosses: bool) -> int:
    """How many rows :func:`vary` makes at most, without making them."""
    counts = [len(values) for values in changes.values()]
    return n_bases * (math.prod(n + 1 for n in counts) if crosses else 1 + sum(counts))


def unused_problems(table: Table, changes: Changes) -> Iterator[Problem]:
    """A problem for each value that no row of :func:`vary` has, for want of LoRA."""
    users = [row.config for row in table.rows.values() if row.config.uses_lora]
    for name in tagged("lora"):
        for value in changes.get(name, ()):
            if all(getattr(config, name) != value for config in users):
                yield Problem(
                    f"--vary {name}={format_value(value)}",
                    "no row would have it, for none that it changes trains LoRA; add "
                    "--trainable_layers lora",
                )


def vary(
    bases: Sequence[Row], given: Mapping[str, Any], changes: Changes, crosses: bool
) -> tuple[Table, dict[Name, dict[str, Any]]]:
    """A table of some rows with flags beside them, and of each with every change to it.

    Args:
        crosses: a change is a combination of values of all options; by default, one value of one.

    Returns:
        The table, each change compared with its base; and, for each row of it, the flags that were
        set on purpose.
    """
    rows: dict[Name, Row] = {}
    known: dict[str, Name] = {}  # rows by their experiment
    purpose: dict[Name, dict[str, Any]] = {}
    pairs: dict[tuple[Name, Name], str] = {}  # and their question

    def add(name: Name, question: str, flags: dict[str, Any], base: Row) -> Name:
        config = configure(base, flags)
        published = Published() if differing(config, base) else base.published
        key = identify_experiment(config)
        if known.setdefault(key, name) == name:
            typed = typed_options(config)
            flags_of_row = {n: typed[n] for n in without("circumstance", "repeat") if n in typed}
            rows[name] = Row(name, question, flags_of_row, published)
            purpose[name] = flags
        return known[key]

    names = [add(base.name, base.question, {**given}, base) for base in bases]
    for base, first in zip(bases, names, strict=True):
        start = rows[first].config
        for change in _combine(changes) if crosses else _single(changes):
            change = {n: value for n, value in change.items() if getattr(start, n) != value}
            if not change:
                continue
            question = " and ".join(
                f"{n} {format_value(value)} instead of {format_value(getattr(start, n))}"
                for n, value in change.items()
            )
            name = _name(base, change, rows)
            second = add(name, question, {**given, **change}, base)
            if first != second and (second, first) not in pairs:
                pairs.setdefault((first, second), question)
    title = f"{'All combinations of' if crosses else 'Other values of'} {' and '.join(changes)}"
    if bases != [UNNAMED]:
        title += f", from {', '.join(map(str, names))}"
    comparisons = tuple(Comparison(question, pair) for pair, question in pairs.items())
    # By this, and its title, a table is known from one command to the next.
    values = " ".join(f"{n}={','.join(map(format_value, some))}" for n, some in changes.items())
    source = f"--vary {values} {format_flags(given)}".rstrip()
    return Table(title, rows, comparisons, source), purpose


def _single(changes: Changes) -> Iterator[dict[str, Any]]:
    return ({name: value} for name, values in changes.items() for value in values)


def _combine(changes: Changes) -> Iterator[dict[str, Any]]:
    """Every combination of values, an option left as it is among them."""
    choices = ([{}, *({name: value} for value in values)] for name, values in changes.items())
    for combination in itertools.product(*choices):
        yield {name: value for part in combination for name, value in part.items()}


def _name(base: Row, change: Mapping[str, Any], rows: Mapping[Name, Row]) -> str:
    """A name that --rows takes and no other row has."""
    words = {
        n: re.sub(r"[^\w.+-]+", "-", format_value(value)).rstrip("-") for n, value in change.items()
    }
    name = "+".join(f"{n}={word}" for n, word in words.items())
    if base != UNNAMED:
        name = f"{base.name}:{name}"
    name = name[:MAX_NAME]
    numbered = (f"{name[: MAX_NAME - 6]}~{number}" for number in itertools.count(2))
    return next(free for free in itertools.chain([name], numbered) if free not in rows)
