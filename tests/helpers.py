"""What several test files need."""

from collections.abc import Sequence

from additional_experiments import parse_command_line
from experiment_config import ExperimentConfig


def config_from_flags(flags: Sequence[str]) -> ExperimentConfig:
    """The one experiment that a command line asks for."""
    (run,) = parse_command_line(flags).runs
    return run.config
