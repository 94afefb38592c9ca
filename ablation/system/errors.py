"""What can go wrong without being wrong in the program, and says so for people."""

from __future__ import annotations

SHOWN_CHARACTERS = 200  # of a value, in a message
LESS_MEMORY = (
    "A smaller --batch_size, --context_length or --model_size needs less, and so does LoRA."
)


class ExperimentError(RuntimeError):
    """The base of all errors whose text is for people: what is wrong, and what to do."""


class ConfigError(ExperimentError, ValueError):
    """Options that break rules. ``problems`` has one sentence for each, naming the flag."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DataError(ExperimentError):
    """Something that comes from outside is missing, or is not what it should be."""


class DownloadError(DataError):
    """An address did not give what was wanted of it."""


class CheckpointError(ExperimentError):
    """A file of weights cannot be read, or does not hold the model that was asked for."""


class HiddenStateError(ExperimentError):
    """Hidden states cannot be used: they are not finite."""


class TrainingError(ExperimentError):
    """Training cannot go on."""


class ExportError(ExperimentError):
    """A model cannot be exported, or not to this folder."""


class ParallelError(ExperimentError):
    """Of several processes that share a run, one has gone, or does not fit the others."""


class ClusterError(ExperimentError):
    """A cluster cannot be reached, or cannot run what it is to run."""


class RecordError(ExperimentError):
    """A record cannot be read or written, or is damaged."""


def describe_error(error: Exception, less_memory: str = LESS_MEMORY) -> str:
    """What went wrong, and the way out, for people.

    Args:
        less_memory: the way out where memory is short.
    """
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if is_out_of_memory(error):
        return f"out of memory: {reason}. {less_memory}"
    return str(error) if isinstance(error, ExperimentError) else f"{type(error).__name__}: {reason}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, for which PyTorch has a class of its own only on CUDA."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def shorten(value: object, n_characters: int = SHOWN_CHARACTERS) -> str:
    """A value as messages show it: of a long one the beginning."""
    try:
        text = str(value)
    except ValueError:  # Python writes out no whole number of many thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= n_characters else f"{text[:n_characters]}..."
