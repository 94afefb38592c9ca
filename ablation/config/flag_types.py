"""What a flag is: its default, what it may be, what it is about, and its help."""

import ast
import difflib
import inspect
import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ablation.system.errors import Problem, shorten

MANY = "many"  # nargs of a flag that takes several values, and may be repeated for more
# What people call choices that have another name here.
MEANT = {"gpu": "cuda", "float32": "fp32", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Text:
    """A text that is not empty: one of ``names``, where there are any, or else a path or the like.

    ``parse`` turns other ways of writing a name into it. ``glue`` makes one value of several.
    """

    metavar: str | tuple[str, ...]
    names: Collection[str] = ()
    parse: Callable[[str], Any] = str
    may_be_empty: bool = False
    glue: str = ""

    def allows(self, value: Any) -> bool:
        """Whether the flag may have this value."""
        return value in tuple(self.names) if self.names else value != "" or self.may_be_empty

    def show(self, value: Any) -> str:
        """A value as messages show it."""
        return f'"{shorten(value)}"'

    def refuse(self, value: Any) -> str:
        """What is wrong with another, and the name that was probably meant."""
        if value == "":
            return "empty; give a value, or leave it out"
        meant = MEANT.get(str(value).casefold())
        nearest = [meant] if meant in self.names else []
        nearest += difflib.get_close_matches(str(value), self.names, n=1, cutoff=0.4)
        hint = f'did you mean "{nearest[0]}"? ' if nearest else ""
        choices = ", ".join(f'"{name}"' for name in self.names)
        return f"no such choice; {hint}it can be {choices}"


def one_of(*names: str, parse: Callable[[str], Any] = str) -> Text:
    """One of some names, which the help shows in full."""
    return Text(f"{{{','.join(names)}}}", names, parse)


@dataclass(frozen=True)
class Number:
    """A number from ``low`` (or ``above`` it) to ``high`` (or ``below`` it), or one of names."""

    kind: type = int
    low: float = 1
    high: float = 10**9
    above: bool = False
    below: bool = False
    names: tuple[str, ...] = ()

    @property
    def metavar(self) -> str:
        """How the help shows it."""
        return "|".join(["N" if self.kind is int else "X", *self.names])

    def parse(self, text: str) -> Any:
        """The number, or the name. Raises ``ValueError`` if the text is neither."""
        return text if text in self.names else self.kind(text)

    def allows(self, value: Any) -> bool:
        """Whether the flag may have this value."""
        if not isinstance(value, int | self.kind) or isinstance(value, bool):
            return value in self.names
        is_end = (self.above and value == self.low) or (self.below and value == self.high)
        return self.low <= value <= self.high and not is_end

    def show(self, value: Any) -> str:
        """A value as messages show it."""
        return shorten(value) if value != "" else '""'

    def refuse(self, value: Any) -> str:
        """What is wrong with another."""
        low = f"above {self.low}" if self.above else f"of at least {self.low}"
        limits = f"{low}, {'below' if self.below else 'up to'} {self.high}"
        if self.high <= 1024 and not self.above:
            limits = f"from {self.low} to {self.high}"
        names = f"{' or '.join(self.names)}, and not " if self.names else ""
        kind = "a whole number" if self.kind is int else "a number"
        return f"not {names}{kind} {limits}"


@dataclass(frozen=True)
class Option:
    """One flag. Without ``values`` it is a switch."""

    name: str
    default: Any
    values: Text | Number | None
    tags: frozenset[str]
    nargs: str | int | None
    const: str | None
    help: str

    @property
    def shown_default(self) -> str:
        """The default as a user would type it, or "none", or "off"."""
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return {None: "none", False: "off"}.get(self.default, str(self.default))

    def read(self, text: str) -> tuple[Any, Problem | None]:
        """The value of a text, if it has one, and what is wrong with it, if anything is."""
        try:
            value = self.values.parse(text)
        except ValueError:
            return None, self._refuse(text)
        return value, self.problem(value)

    def problem(self, value: Any) -> Problem | None:
        """What is wrong with a value; none if nothing is."""
        is_unset = value is None and self.default is None
        is_fine = self.values is None or is_unset or self.values.allows(value)
        return None if is_fine else self._refuse(value)

    def _refuse(self, value: Any) -> Problem:
        sentence = f"{self.values.refuse(value)} (default: {self.shown_default})"
        return Problem(f"--{self.name} {self.values.show(value)}", sentence)


def option(
    default: Any,
    values: Text | Number | None = None,
    *tags: str,
    nargs: str | int | None = None,
    const: str | None = None,
) -> Any:
    """A field of a table of flags. The text below it is its help.

    Args:
        values: what the flag may be; by default it is a switch.
        tags: what it is about, in words.
        nargs, const: as :mod:`argparse` has them, or ``MANY``.
    """
    metadata = {"values": values, "tags": frozenset(tags), "nargs": nargs, "const": const}
    return field(default=default, metadata=metadata)


def options_of(table: type) -> dict[str, Option]:
    """The options of a dataclass by name, each with the text that stands below it, in which
    ``{names}`` stands for those that it can be."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(table)).body)
    help_of = {
        statement.target.id: " ".join(below.value.value.split())
        for statement, below in itertools.pairwise(body)
        if isinstance(statement, ast.AnnAssign)
    }
    options = {}
    for f in fields(table):
        names = ", ".join(f'"{name}"' for name in getattr(f.metadata["values"], "names", ()))
        help = help_of[f.name].replace("{names}", names)
        options[f.name] = Option(f.name, f.default, help=help, **f.metadata)
    return options


def read_flags(
    options: Mapping[str, Option], found: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Problem]]:
    """The values of what a parser found, those of ``nargs`` as a tuple or in one, and all
    problems."""
    values, problems = {}, []
    for name, texts in found.items():
        if options[name].values is None:
            values[name] = True
            continue
        pairs = [options[name].read(t) for t in (texts if isinstance(texts, list) else [texts])]
        problems += [problem for _, problem in pairs if problem]
        read = tuple(value for value, _ in pairs if value is not None)
        if read and (glue := getattr(options[name].values, "glue", "")):
            values[name] = glue.join(text for text in read if text)
        elif read:
            values[name] = read if isinstance(texts, list) else read[0]
    return values, problems
