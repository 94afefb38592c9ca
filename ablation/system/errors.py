"""Errors caused by input or environment rather than bugs, and their messages."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

logger = logging.getLogger("experiments")  # all that is said on standard error

SHOWN_CHARACTERS = 200  # of a value, in a message
LESS_MEMORY = (
    "A smaller --batch_size, --context_length or --model_size needs less, and so does LoRA."
)


@contextmanager
def quietly() -> Iterator[None]:
    """Say nothing but errors, as what is done again was told the first time."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class ExperimentError(RuntimeError):
    """The base of all errors whose text is for people: what is wrong, and what to do."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with something that was asked for, and the way out.

    Attributes:
        flag: what it is about, as it was given, such as ``--batch_size 0``; empty if it is about
            no flag.
        sentence: what is wrong, and what to do.
        place: where that stands, such as a row or a file; empty if it holds everywhere.
    """

    flag: str
    sentence: str
    place: str = ""

    def __str__(self) -> str:
        return _join_words(self.place, self.flag, self.sentence)

    def within(self, place: str) -> "Problem":
        """The same, and in which larger place it stands."""
        return replace(self, place=_join_words(place, self.place))


def _join_words(*words: str) -> str:
    return ": ".join(filter(None, words))


class ConfigError(ExperimentError, ValueError):
    """What was asked for breaks rules: ``problems`` has how."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class DataError(ExperimentError):
    """Something from outside is missing, or is not what it should be."""


class DownloadError(DataError):
    """An address did not give what was asked for."""


class TensorFileError(ExperimentError):
    """A file of weights, states or a checkpoint cannot be read, or does not hold what it should."""


class HiddenStateError(ExperimentError):
    """Hidden states cannot be used: they are not finite."""


class TrainingError(ExperimentError):
    """Training cannot go on."""


class ExportError(ExperimentError):
    """A model cannot be exported, or cannot be exported to this folder."""


class ParallelError(ExperimentError):
    """One of several processes that share a run is gone, or differs from the others."""


class ClusterError(ExperimentError):
    """A cluster cannot be reached, or cannot run what is asked for."""


class RecordError(ExperimentError):
    """A record cannot be read or written, or is damaged."""


def describe_error(error: Exception, less_memory: str = LESS_MEMORY) -> str:
    """What went wrong, for people, with ``less_memory`` as the way out where memory is short."""
    if isinstance(error, ExperimentError):
        return str(error)
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if is_out_of_memory(error):
        return f"out of memory: {reason}. {less_memory}"
    return f"{type(error).__name__}: {reason}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. PyTorch has a class of its own for that only on CUDA."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def shorten(
    value: object, n_characters: int = SHOWN_CHARACTERS, form: Callable[[object], str] = str
) -> str:
    """A value as messages show it, written by ``form``: only the beginning of a long one."""
    try:
        text = form(value)
    except ValueError:  # Python refuses to write out whole numbers of that many digits
        text = "a number of thousands of digits"
    except RecursionError:
        text = "a value within thousands of others"
    return text if len(text) <= n_characters else f"{text[:n_characters]}..."
