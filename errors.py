"""What can go wrong without being wrong in the program, and says so for people."""

from __future__ import annotations


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
