"""The rules on and between the options of an experiment, checked before any work."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any

from ablation.config.dataset_rules import dataset_problems, format_given
from ablation.config.options import CONTEXT_LENGTHS, OPTIONS, ExperimentConfig, describe_number
from ablation.config.sizes import MODEL_SIZES, PUBLISHED_WEIGHTS, GPTConfig
from ablation.system.errors import shorten
from ablation.system.files import ROOM, path_problem

# What people call choices that have another name here.
MEANT = {"gpu": "cuda", "float32": "fp32", "bfloat16": "bf16"}


def config_problems(config: ExperimentConfig, given: Mapping[str, Any] | None = None) -> list[str]:
    """Check every rule on and between options, without doing any work.

    Args:
        given: the options that were set on purpose, with their values; by default those that
            differ from their defaults.

    Returns:
        A sentence for each broken rule, with its flag, its value and the way out.
    """
    return [*option_problems(config, given), *machine_problems(config)]


def option_problems(config: ExperimentConfig, given: Mapping[str, Any] | None = None) -> list[str]:
    """The same of the rules that do not depend on the machine that computes."""
    if given is None:
        given = differing_values(config)
    return [
        *value_problems(config, given),
        *_check_weights(config),
        *dataset_problems(config, given),
    ]


def value_problems(config: ExperimentConfig, given: Mapping[str, Any]) -> list[str]:
    """The same of the rules that ask for no file: what each value, and what some together, may
    be."""
    problems = []
    for name, config_field in OPTIONS.items():
        problems.extend(check_value(config_field, getattr(config, name)))
    problems.extend(_check_combinations(config, given))
    return problems


def differing_values(config: ExperimentConfig) -> dict[str, Any]:
    """The options that differ from their defaults."""
    values = {name: getattr(config, name) for name in OPTIONS}
    return {name: v for name, v in values.items() if v != OPTIONS[name].default}


def machine_problems(config: ExperimentConfig) -> list[str]:
    """The same of what the machine that computes must have: weights, folders, the device."""
    return [*_check_weights_file(config), *_check_folders(config), *_check_device(config)]


def export_problems(config: ExperimentConfig) -> list[str]:
    """Why ``transformers`` cannot express a configuration: a sentence for each reason.

    It always has the causal mask, and reads a text's last token that is no padding. Precision is
    no reason: all is exported as float32, and a run in bfloat16 has the same probabilities only
    as far as bfloat16 goes.
    """
    position = None if config.average_embeddings else config.trainable_token_pos
    reasons = {
        "--disable_causal_mask: the GPT-2 of transformers always has the mask; leave one of the "
        "two out": config.disable_causal_mask,
        "--average_embeddings: transformers reads one token of a text; leave one of the two out, "
        "and read the last token with --trainable_token_pos flexible": config.average_embeddings,
        "--trainable_token_pos first: transformers reads a text's own last token; take "
        "--trainable_token_pos flexible, or leave --export_hf out": position == "first",
        "--trainable_token_pos last: that may be padding, and transformers reads a text's own "
        "last token; take --trainable_token_pos flexible, or add --no_padding --batch_size 1": (
            position == "last" and not config.no_padding
        ),
    }
    return [f"--export_hf with {reason}" for reason, applies in reasons.items() if applies]


def find_joined(value: Any) -> tuple[str, str] | None:
    """The two parts of a value that a flag was written to without a space: value, name."""
    joined = re.fullmatch(r"(.*?)\s*--(\w+)", value) if isinstance(value, str) else None
    return (joined[1], joined[2]) if joined and joined[2] in OPTIONS else None


def check_value(config_field: Field, value: Any, flag: str | None = None) -> Iterator[str]:
    """The rules on an option alone: a sentence for each that its value breaks.

    Args:
        flag: that it was given with; by default, the option's own.
    """
    rules, flag = config_field.metadata, flag or f"--{config_field.name}"
    if joined := find_joined(value):
        yield (
            f'{flag} "{value}": a space is missing before --{joined[1]}; write {flag} '
            f'"{joined[0]}" --{joined[1]} ...'
        )
    elif value == "":
        yield f'{flag} "": empty; give a value, or leave {flag} out'
    elif rules["choices"] and value not in (*rules["choices"], config_field.default):
        meant = MEANT.get(str(value).casefold())
        nearest = [meant] if meant in rules["choices"] else []
        nearest += difflib.get_close_matches(str(value), rules["choices"], n=1, cutoff=0.4)
        hint = f'did you mean "{nearest[0]}"? ' if nearest else ""
        choices = ", ".join(f'"{choice}"' for choice in rules["choices"])
        yield f'{flag} "{shorten(value)}": no such choice; {hint}it can be {choices}'
    elif rules["parse"] in (int, float) and value is not None and not _is_allowed(value, rules):
        yield f"{flag} {shorten(value)}: not {describe_number(config_field)}"


def _is_allowed(value: Any, rules: Mapping[str, Any]) -> bool:
    kinds = int if rules["parse"] is int else (int, float)
    return (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and rules["minimum"] <= value <= rules["maximum"]
        and rules["above"] < value < rules["below"]
    )


def _check_combinations(config: ExperimentConfig, given: Mapping[str, Any]) -> Iterator[str]:
    """The rules on what texts are cut to, and those that involve more than one option."""
    length, limit = config.context_length, GPTConfig.context_length
    is_number = isinstance(length, int) and 1 <= length <= limit
    if not is_number and length not in CONTEXT_LENGTHS:
        yield (
            f"--context_length {shorten(length)}: give {' or '.join(CONTEXT_LENGTHS)}, or a whole "
            f"number from 1 to {limit}, which is what GPT-2 can read"
        )
    if config.no_padding and config.batch_size != 1:
        yield (
            f"--no_padding with --batch_size {shorten(config.batch_size)}: texts of different "
            "lengths do not fit into one batch; add --batch_size 1 (and --accumulation_steps for "
            "updates of more than one text)"
        )
    if not config.uses_lora:
        for name in sorted({"lora_rank", "lora_alpha"} & set(given)):
            yield (
                f"{format_given(name, given[name])} with --trainable_layers "
                f"{shorten(config.trainable_layers)}: no LoRA layer would use it; add "
                f"--trainable_layers lora, or leave --{name} out"
            )


def _check_weights(config: ExperimentConfig) -> Iterator[str]:
    if config.weights == "pretrained":
        if config.demo:
            yield (
                "--weights pretrained with --demo: published weights do not know the demo's "
                "byte-level tokens; take --weights random, or leave --demo out"
            )
        elif config.model_size in MODEL_SIZES and config.model_size not in PUBLISHED_WEIGHTS:
            yield (
                f'--weights pretrained with --model_size "{config.model_size}": no weights of that '
                "size were published; add --weights random, or --weights PATH"
            )


def _check_weights_file(config: ExperimentConfig) -> Iterator[str]:
    if config.weights in ("pretrained", "random", ""):
        return
    if problem := path_problem("weights", config.weights):
        yield problem
    elif not Path(config.weights).exists():
        yield (
            f'--weights "{config.weights}": no such file or folder; give pretrained, random, or '
            "the path of a safetensors file"
        )


def _check_folders(config: ExperimentConfig) -> Iterator[str]:
    for name in ("data_dir", "weights_dir"):
        folder = getattr(config, name)
        if folder and (problem := path_problem(name, folder, ROOM)):
            yield problem


def _check_device(config: ExperimentConfig) -> Iterator[str]:
    device, precision = config.device, config.precision
    if device == "auto" and precision in ("tf32", "bf16"):
        device = "cuda" if _finds("cuda") else "cpu"
    if device in ("cuda", "mps") and not _finds(device):
        yield f"--device {device}: PyTorch finds no such device here; take --device cpu"
    elif precision == "tf32" and device in ("cpu", "mps"):
        yield f"--precision tf32 with --device {device}: only CUDA has it; take fp32 or bf16"
    elif precision == "bf16" and (device == "mps" or (device == "cuda" and not _finds("bf16"))):
        yield f"--precision bf16 with --device {device}: this device lacks it; take fp32"


def _finds(what: str) -> bool:
    """Whether PyTorch finds a kind of device here, or bf16 on CUDA."""
    import torch  # takes more than a second, and few choices depend on what is here

    is_there = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "bf16": torch.cuda.is_bf16_supported,
    }
    return is_there[what]()
