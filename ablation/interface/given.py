"""What a notebook gives: read, or refused with what to give instead."""

import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd

from ablation.config.flag_types import Number
from ablation.config.options import OPTIONS
from ablation.config.table_files import unknown_option
from ablation.system.errors import ConfigError, DataError, Problem, shorten
from ablation.system.files import ROOM, path_fault

N_SHOWN = 60  # characters of a value


def read_folder(name: str, value: Any, below: str = "") -> Path:
    """A folder, whether or not it exists, so that ``below`` fits below it. Raises ``ConfigError``
    if it cannot be one."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ConfigError([Problem(_shown(name, value), "give the path of a folder")])
    if fault := path_fault(value, below):
        raise ConfigError([Problem(_shown(name, value), fault)])
    return Path(value)


def read_output_dir(value: Any) -> Path:
    """A folder that records are written to. Raises ``ConfigError`` if it cannot be one."""
    return read_folder("output_dir", value, ROOM)


def require_switches(**switches: Any) -> None:
    """Raise ``ConfigError`` if a switch is neither True nor False."""
    wrong = {name: value for name, value in switches.items() if not isinstance(value, bool)}
    if wrong:
        raise ConfigError([_switch_problem(name, value) for name, value in wrong.items()])


def read_several(name: str, values: Any, example: str) -> list[Any]:
    """Several values. Raises ``ConfigError`` if there are none, or it is one alone."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ConfigError([Problem(_shown(name, values), f"give a list, such as {example}")])
    several = [*values]
    if not several:
        raise ConfigError([Problem(name, f"empty; give a list, such as {example}")])
    return several


def read_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The values of options, and what is wrong with them. Texts are read as those of flags."""
    given, problems = {}, []
    for name, value in options.items():
        if name in OPTIONS:
            given[name], problem = read_option(name, value)
        else:
            problem = unknown_option(name)
        problems += [problem] if problem else []
    return given, problems


def read_option(name: str, value: Any) -> tuple[Any, Problem | None]:
    """The value of an option, as plain Python has it, and what is wrong with it, if anything is."""
    option = OPTIONS[name]
    if option.values is None:
        return value, None if isinstance(value, bool) else _switch_problem(name, value)
    if value is None and option.default is None:
        return None, None
    if isinstance(value, Real) and not isinstance(value, bool):  # also one of NumPy
        value = int(value) if isinstance(value, Integral) else float(value)
        is_number = isinstance(option.values, Number)
        return (value, option.problem(value)) if is_number else option.read(shorten(value))
    if isinstance(value, str | os.PathLike):
        return option.read(os.fspath(value))
    shown = shorten(value, N_SHOWN, repr)
    return None, option.problem(shown) or Problem(f"{name}={shown}", "give a text")


def read_texts(texts: Any) -> list[str]:
    """Texts; one alone is a list of one, and not of its characters.

    Raises:
        ConfigError: they are no list.
        DataError: one of them is no text, such as a missing value.
    """
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, pd.DataFrame):
        columns = ", ".join(map(str, texts.columns))
        sentence = f"that is a table; give one of its columns ({columns})"
        raise ConfigError([Problem("texts", sentence)])
    if isinstance(texts, bytes | Mapping) or not isinstance(texts, Iterable):
        raise ConfigError([Problem(_shown("texts", texts), "give a text, or a list of texts")])
    return [read_text(text, f"Text {number}") for number, text in enumerate(texts, start=1)]


def read_text(text: Any, name: str = "text") -> str:
    """One text. Raises ``DataError`` if it is none, such as a missing value."""
    if isinstance(text, str):
        return text
    if pd.api.types.is_scalar(text) and pd.isna(text):
        raise DataError(f"{name} is missing ({text}); leave it out, or give an empty text")
    raise DataError(f"{_shown(name, text)}: no text, but {type(text).__name__}; give a text")


def _shown(name: str, value: Any) -> str:
    return f"{name}={shorten(value, N_SHOWN, repr)}"


def _switch_problem(name: str, value: Any) -> Problem:
    return Problem(_shown(name, value), "give True or False")
