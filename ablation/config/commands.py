"""Flags as one types them, and the experiment that they are."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from ablation.config.options import OPTIONS, ExperimentConfig, changed_options, tagged, without
from ablation.system.output import printable

SCRIPT = "python additional_experiments.py"
DEMO_MODEL = {"model_size": "gpt2-tiny (3M)", "weights": "random"}
# A model that small, with random weights, learns in five epochs only from larger steps.
DEMO_FLAGS = {**DEMO_MODEL, "learning_rate": 5e-4}


def format_flags(flags: Mapping[str, Any]) -> str:
    """Flags with their values, as one would type them."""
    words = []
    for name, value in flags.items():
        text = str(value)
        quoted = f'"{text}"' if re.search("[ ()]", text) else text
        if not re.fullmatch(r"[\w ()%+=:,./-]+", text):  # means something even in double quotes
            quoted = shlex.quote(text)
        words.append(f"--{name}" if value is True else f"--{name} {quoted}")
    return " ".join(words)


def format_value(value: Any) -> str:
    """A value of an option for people: on or off for a switch, none where there is none."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def configure_flags(flags: Mapping[str, Any], given: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment of some flags with others beside them.

    A flag that is given wins over the first ones, these over the demo's, and those over the
    default. Only the demo's model, if the demo is given, wins over the first ones, too.
    """
    demo = DEMO_FLAGS if flags.get("demo") or given.get("demo") else {}
    model = DEMO_MODEL if given.get("demo") else {}
    values = {**demo, **flags, **model, **given}
    if not str(values.get("trainable_layers", "")).startswith("lora"):
        # Without LoRA, what is said of it means nothing.
        values = {name: value for name, value in values.items() if name not in tagged("lora")}
    return ExperimentConfig(**values)


def typed_options(config: ExperimentConfig) -> dict[str, Any]:
    """What one types for an experiment: the options that differ from their defaults, and with the
    demo those that it would choose, with their values."""
    chosen = DEMO_FLAGS.keys() if config.demo else ()
    typed = changed_options(config).keys() | chosen
    return {name: getattr(config, name) for name in OPTIONS if name in typed}


def format_command(config: ExperimentConfig) -> str:
    """The experiment as one line for a shell, its circumstances left out but for the seed."""
    shown = without("circumstance")
    flags = {name: value for name, value in typed_options(config).items() if name in shown}
    return printable(f"{SCRIPT} {format_flags(flags)}".rstrip())
