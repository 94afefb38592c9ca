"""What one experiment is: every option with its default, and the rules between options."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from gpt_model import MODEL_SIZES, PUBLISHED_WEIGHTS, GPTConfig

TRAINABLE_LAYERS = (
    "last_layer",
    "last_block",
    "last_two_blocks",
    "all",
    "lora",
    "lora_alternative",
)
TOKEN_POSITIONS = ("first", "last", "flexible")
CONTEXT_LENGTHS = ("longest_training_example", "model_context_length")
PRECISIONS = ("fp32", "tf32", "bf16")
DEVICES = ("auto", "cpu", "cuda", "mps")
GROUPS = ("model", "what trains, and what is read", "data", "training", "run")


class ConfigError(ValueError):
    """Options that break rules. ``problems`` has one sentence for each, naming the flag."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def context_length(text: str) -> int | str:
    """A number of tokens where the text is one, else the text: a name."""
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else text


def option(
    default: Any,
    group: str,
    help: str,
    *,
    parse: Callable[[str], Any] | None = None,
    choices: Collection[str] = (),
    minimum: float = -math.inf,
    maximum: float = 10**9,
    above: float = -math.inf,
    metavar: str | None = None,
) -> Any:
    """A field of :class:`ExperimentConfig`: all that is to be known about one flag.

    ``parse`` reads its text (by default with the type of the default); ``choices``,
    ``minimum``, ``maximum`` (inclusive) and ``above`` (exclusive) say what is allowed.
    """
    return field(
        default=default,
        metadata={
            "group": group,
            "help": help,
            "parse": parse or type(default),
            "choices": tuple(choices),
            "minimum": minimum,
            "maximum": maximum,
            "above": above,
            "metavar": metavar,
        },
    )


@dataclass(frozen=True)
class ExperimentConfig:
    """One experiment. The defaults are row 1; each field is the flag of the same name."""

    model_size: str = option(
        "gpt2-small (124M)",
        GROUPS[0],
        "size of the GPT-2: " + ", ".join(f'"{name}"' for name in MODEL_SIZES),
        choices=MODEL_SIZES,
        metavar="SIZE",
    )
    weights: str = option(
        "pretrained",
        GROUPS[0],
        "pretrained: the published ones; random; or the PATH of a GPT-2 safetensors file, or of "
        "a folder that holds one",
        metavar="pretrained|random|PATH",
    )
    weights_dir: str | None = option(
        None,
        GROUPS[0],
        "folder of published weights: DIR/gpt2/model.safetensors and so on are read from it, and "
        "downloaded to it if they are not there; otherwise the Hugging Face cache is used",
        parse=str,
        metavar="DIR",
    )
    disable_causal_mask: bool = option(
        False, GROUPS[0], "let every token attend to every other, not only to those before it"
    )
    trainable_layers: str = option(
        "last_block",
        GROUPS[1],
        "what trains: last_layer (the classifier), last_block (also the last block and the final "
        "norm), last_two_blocks, all, lora (LoRA matrices and the classifier), or "
        "lora_alternative (the same function, the product added to the weight first)",
        choices=TRAINABLE_LAYERS,
        metavar="LAYERS",
    )
    lora_rank: int = option(
        8, GROUPS[1], "rank of the LoRA matrices", minimum=1, maximum=6400, metavar="N"
    )
    lora_alpha: float = option(
        8.0,
        GROUPS[1],
        "plain multiplier of the LoRA product, not divided by the rank",
        above=0,
        metavar="X",
    )
    trainable_token_pos: str = option(
        "last",
        GROUPS[1],
        "position whose logits are trained and read: first, last (which may be padding), or "
        "flexible (each text's own last token)",
        choices=TOKEN_POSITIONS,
        metavar="POSITION",
    )
    average_embeddings: bool = option(
        False,
        GROUPS[1],
        "read the mean over all positions instead; with flexible, over the text's own tokens",
    )
    ignore_index: int = option(
        -100,
        GROUPS[1],
        "class label that the loss leaves out; inert unless it is 0 or 1",
        minimum=-(10**9),
        metavar="N",
    )
    data_dir: str = option(
        "data",
        GROUPS[2],
        "folder of the SMS Spam Collection, downloaded to it if it is not there",
        metavar="DIR",
    )
    demo: bool = option(
        False,
        GROUPS[2],
        "synthetic messages and byte-level tokens, with nothing to download; by default with "
        '--model_size "gpt2-tiny (3M)" --weights random --learning_rate 5e-4',
    )
    context_length: int | str = option(
        "longest_training_example",
        GROUPS[2],
        "tokens that texts are truncated and padded to: longest_training_example, "
        "model_context_length (1024), or a number",
        parse=context_length,
        metavar="LENGTH",
    )
    no_padding: bool = option(
        False, GROUPS[2], "every text keeps its own length; needs --batch_size 1"
    )
    num_epochs: int = option(
        5, GROUPS[3], "passes over the training texts", minimum=1, maximum=10**6, metavar="N"
    )
    batch_size: int = option(8, GROUPS[3], "texts in a batch", minimum=1, metavar="N")
    accumulation_steps: int = option(
        1, GROUPS[3], "batches whose gradients make one update", minimum=1, metavar="N"
    )
    learning_rate: float = option(5e-5, GROUPS[3], "of AdamW", above=0, metavar="X")
    weight_decay: float = option(0.1, GROUPS[3], "of AdamW", minimum=0, metavar="X")
    max_steps: int | None = option(
        None,
        GROUPS[3],
        "stop training after this many batches",
        parse=int,
        minimum=1,
        metavar="N",
    )
    eval_freq: int = option(
        50, GROUPS[4], "batches from one printed loss to the next", minimum=1, metavar="N"
    )
    eval_iter: int = option(
        5, GROUPS[4], "batches that a printed loss is the mean of", minimum=1, metavar="N"
    )
    seed: int = option(
        123,
        GROUPS[4],
        "of weights, classifier, LoRA and batches; the split has its own",
        minimum=0,
        maximum=2**63 - 1,
        metavar="N",
    )
    device: str = option(
        "auto",
        GROUPS[4],
        "where to compute; auto is cuda where there is one, else cpu",
        choices=DEVICES,
    )

    precision: str = option(
        "fp32",
        GROUPS[4],
        "of products: fp32, tf32 (on CUDA only), or bf16 (what trains and the classifier stay in "
        "fp32)",
        choices=PRECISIONS,
    )
    no_feature_reuse: bool = option(
        False,
        GROUPS[4],
        "compute everything at every step, also what never changes: slow, the yardstick for the "
        "fast path",
    )
    feature_memory: float | None = option(
        None,
        GROUPS[4],
        "gigabytes that hidden states may take in memory; beyond, they are kept on disk; none is "
        "half of what is free",
        parse=float,
        minimum=0,
        metavar="GB",
    )
    offline: bool = option(
        False,
        GROUPS[4],
        "touch no network: what is not there is an error; HF_HUB_OFFLINE=1 means the same",
    )

    @property
    def gpt(self) -> GPTConfig:
        """The model's shape, without the switch of the causal mask."""
        return MODEL_SIZES[self.model_size]

    @property
    def uses_lora(self) -> bool:
        """Whether LoRA matrices train."""
        return self.trainable_layers.startswith("lora")


OPTIONS = {config_field.name: config_field for config_field in fields(ExperimentConfig)}


def parse_options(texts: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Convert the texts of flags. Returns the values, and a problem for each other text."""
    values, problems = {}, []
    for name in texts:
        parse = OPTIONS[name].metadata["parse"]
        try:
            values[name] = parse(texts[name])
        except ValueError:
            problems.append(f"--{name} {texts[name]}: not {_describe_number(OPTIONS[name])}")
    return values, problems


def find_problems(config: ExperimentConfig, given: Mapping[str, Any] | None = None) -> list[str]:
    """Check every rule on and between options, without doing any work.

    Args:
        given: the options that were set on purpose, with their values; by default those that
            differ from their defaults.

    Returns:
        A sentence for each broken rule, with its flag, its value and the way out.
    """
    if given is None:
        values = {name: getattr(config, name) for name in OPTIONS}
        given = {name: v for name, v in values.items() if v != OPTIONS[name].default}
    problems = []
    for name, config_field in OPTIONS.items():
        problems.extend(_check_value(config_field, getattr(config, name)))
    problems.extend(_check_combinations(config, given))
    problems.extend(_check_weights(config))
    problems.extend(_check_device(config))
    return problems


def _check_value(config_field: Field, value: Any) -> Iterator[str]:
    rules, flag = config_field.metadata, f"--{config_field.name}"
    joined = re.fullmatch(r"(.*?)\s*--(\w+)", value) if isinstance(value, str) else None
    if joined and joined[2] in OPTIONS:
        yield (
            f'{flag} "{value}": a space is missing before --{joined[2]}; write {flag} '
            f'"{joined[1]}" --{joined[2]} ...'
        )
    elif value == "":
        yield f'{flag} "": empty; give a value, or leave {flag} out'
    elif rules["choices"] and value not in rules["choices"]:
        nearest = difflib.get_close_matches(str(value), rules["choices"], n=1, cutoff=0.4)
        hint = f'did you mean "{nearest[0]}"? ' if nearest else ""
        choices = ", ".join(f'"{choice}"' for choice in rules["choices"])
        yield f'{flag} "{value}": no such choice; {hint}it can be {choices}'
    elif rules["parse"] in (int, float) and value is not None and not _is_allowed(value, rules):
        yield f"{flag} {value}: not {_describe_number(config_field)}"


def _is_allowed(value: Any, rules: Mapping[str, Any]) -> bool:
    kinds = int if rules["parse"] is int else (int, float)
    return (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and rules["minimum"] <= value <= rules["maximum"]
        and rules["above"] < value < math.inf
    )


def _describe_number(config_field: Field) -> str:
    """What a number may be: "a whole number of at least 1 (default: 8)"."""
    rules = config_field.metadata
    kind = "a number" if rules["parse"] is float else "a whole number"
    limits = [
        f" {word} {rules[bound]}"
        for word, bound in (("of at least", "minimum"), ("up to", "maximum"), ("above", "above"))
        if math.isfinite(rules[bound])
    ]
    return f"{kind}{','.join(limits)} (default: {show_default(config_field)})"


def show_default(config_field: Field) -> str:
    """An option's default as a user would type it, or "none", or "off"."""
    default = config_field.default
    if isinstance(default, float):
        return f"{default:g}"
    return {None: "none", False: "off"}.get(default, str(default))


def _check_combinations(config: ExperimentConfig, given: Mapping[str, Any]) -> Iterator[str]:
    """The rules on what texts are cut to, and those that involve more than one option."""
    length, limit = config.context_length, GPTConfig.context_length
    is_number = isinstance(length, int) and 1 <= length <= limit
    if not is_number and length not in CONTEXT_LENGTHS:
        yield (
            f"--context_length {length}: give {' or '.join(CONTEXT_LENGTHS)}, or a whole number "
            f"from 1 to {limit}, which is what GPT-2 can read"
        )
    if config.no_padding and config.batch_size != 1:
        yield (
            f"--no_padding with --batch_size {config.batch_size}: texts of different lengths do "
            "not fit into one batch; add --batch_size 1 (and --accumulation_steps for updates of "
            "more than one text)"
        )
    if not config.uses_lora:
        for name in sorted({"lora_rank", "lora_alpha"} & set(given)):
            yield (
                f"--{name} {given[name]} with --trainable_layers "
                f"{config.trainable_layers}: no LoRA layer would use it; add --trainable_layers "
                f"lora, or leave --{name} out"
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
    elif config.weights not in ("random", "") and not _exists(config.weights):
        yield (
            f'--weights "{config.weights}": no such file or folder; give pretrained, random, or '
            "the path of a safetensors file"
        )


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name too long, or in a folder that may not be entered
        return False


def _check_device(config: ExperimentConfig) -> Iterator[str]:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = config.device
    if device == "auto":
        device = "cuda" if there["cuda"] else "cpu"
    if not there.get(device, True):
        yield f"--device {device}: PyTorch finds no such device here; take --device cpu"
    elif config.precision == "tf32" and device != "cuda":
        yield f"--precision tf32 with --device {device}: only CUDA has it; take fp32 or bf16"
    elif config.precision == "bf16" and (
        device == "mps" or (device == "cuda" and not torch.cuda.is_bf16_supported())
    ):
        yield f"--precision bf16 with --device {device}: this device lacks it; take fp32"
