"""The rules on and between the options of an experiment, checked before any work."""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

from ablation.config.options import (
    OPTIONS,
    ExperimentConfig,
    changed_options,
    plain_columns,
    read_fold,
    split_columns,
    tagged,
)
from ablation.config.sizes import MODEL_SIZES, PUBLISHED_WEIGHTS
from ablation.system.errors import Problem, shorten
from ablation.system.files import ROOM, describe_special, path_problem

COLUMN_FLAGS = ("text_column", "label_column", "group_column")
PART_FILES = {"val_fraction": "val_dataset", "test_fraction": "test_dataset"}


def config_problems(
    config: ExperimentConfig, given: Mapping[str, Any] | None = None
) -> list[Problem]:
    """Check every rule on and between options, without doing any work.

    Args:
        given: the options that were set on purpose, with their values; by default those that
            differ from their defaults.

    Returns:
        A problem for each broken rule, with its flag, its value and the way out.
    """
    return [*option_problems(config, given), *machine_problems(config)]


def option_problems(
    config: ExperimentConfig, given: Mapping[str, Any] | None = None
) -> list[Problem]:
    """The same for the rules that do not depend on the machine that computes."""
    given = changed_options(config) if given is None else given
    return [*use_problems(config, given), *_dataset_problems(config, given)]


def use_problems(config: ExperimentConfig, given: Mapping[str, Any]) -> Iterator[Problem]:
    """The same for the rules that need no file: on values, and on what has a use beside others."""
    yield from value_problems(config, given)
    yield from _weights_problems(config)
    if config.dataset is None:
        for name in sorted(given.keys() & tagged("dataset")):
            yield Problem(
                _as_given(name, given[name]),
                "it is about texts of your own; add --dataset FILE, or leave it out",
            )


def value_problems(config: ExperimentConfig, given: Mapping[str, Any]) -> Iterator[Problem]:
    """The same for the rules on each value, and on some together."""
    found = {name: option.problem(getattr(config, name)) for name, option in OPTIONS.items()}
    yield from filter(None, found.values())
    if config.no_padding and config.batch_size != 1:
        yield Problem(
            f"--no_padding with --batch_size {shorten(config.batch_size)}",
            "texts of different lengths do not fit into one batch; add --batch_size 1 (and "
            "--accumulation_steps for updates of more than one text)",
        )
    n_epochs, patience = config.num_epochs, config.stop_after
    if config.keep_best and n_epochs == 1:
        yield Problem(
            "--keep_best with --num_epochs 1",
            "there is one epoch, and nothing to choose from; take more epochs, or leave it out",
        )
    if not (found["num_epochs"] or found["stop_after"]) and patience and patience > n_epochs - 2:
        yield Problem(
            f"--stop_after {patience} with --num_epochs {n_epochs}",
            f"training ends before it could stop; take at least --num_epochs {patience + 2}, or a "
            "smaller --stop_after, or leave it out",
        )
    if not config.uses_lora:
        layers = f"--trainable_layers {shorten(config.trainable_layers)}"
        for name in sorted(given.keys() & tagged("lora")):
            yield Problem(
                f"{_as_given(name, given[name])} with {layers}",
                f"no LoRA layer would use it; add --trainable_layers lora, or leave --{name} out",
            )


def machine_problems(config: ExperimentConfig) -> Iterator[Problem]:
    """The same for what the machine that computes must have: weights, folders, the device."""
    weights = config.weights
    if weights not in ("pretrained", "random", ""):
        if problem := path_problem("weights", weights):
            yield problem
        elif not Path(weights).exists():
            yield Problem(
                f'--weights "{weights}"',
                "no such file or folder; give pretrained, random, or the path of a safetensors "
                "file",
            )
    for name in ("data_dir", "weights_dir"):
        folder = getattr(config, name)
        if folder and (problem := path_problem(name, folder, ROOM)):
            yield problem
    yield from _device_problems(config.device, config.precision)


def export_problems(config: ExperimentConfig) -> list[Problem]:
    """Why ``transformers`` cannot express a configuration: a problem for each reason.

    It always has the causal mask, and reads a text's last token that is not padding. Precision is
    no reason: all is exported as float32, and a run in bfloat16 has the same probabilities only
    as far as bfloat16 goes.
    """
    position = None if config.average_embeddings else config.trainable_token_pos
    reasons = {}
    if config.disable_causal_mask:
        reasons["disable_causal_mask"] = (
            "the GPT-2 of transformers always has the mask; leave one of the two out"
        )
    if config.average_embeddings:
        reasons["average_embeddings"] = (
            "transformers reads one token of a text; leave one of the two out, and read the last "
            "token with --trainable_token_pos flexible"
        )
    if position == "first":
        reasons["trainable_token_pos first"] = (
            "transformers reads a text's own last token; take --trainable_token_pos flexible, or "
            "leave --export_hf out"
        )
    if position == "last" and not config.no_padding:
        reasons["trainable_token_pos last"] = (
            "that may be padding, and transformers reads a text's own last token; take "
            "--trainable_token_pos flexible, or add --no_padding --batch_size 1"
        )
    return [Problem(f"--export_hf with --{flag}", why) for flag, why in reasons.items()]


def column_problems(columns: Mapping[str, str], header: str) -> Iterator[Problem]:
    """Problems of the columns of one file, by the flags that name them. The first are those of the
    texts, and may be groups as well."""
    text, *others = columns
    names = {flag: [plain_columns(columns[flag])] for flag in others}
    names = {text: split_columns(plain_columns(columns[text])), **names}
    shown = [f'--{flag} "{shorten(column, 60)}"' for flag, column in columns.items()]
    if "" in names[text] or len(set(names[text])) < len(names[text]):
        yield Problem(shown[0], "one of its columns has no name, or is named twice; name each once")
    for one, other in combinations(names, 2):
        if other != "group_column" or one != text:
            for name in sorted({*names[one]} & {*names[other]}):
                flag = f'--{one} "{shorten(name, 60)}" is also the --{other}'
                yield Problem(flag, "name different columns")
    are_numbers = {name.isdecimal() for some in names.values() for name in some}
    if len(are_numbers) > 1:
        yield Problem(
            " with ".join(shown),
            "give names only, or numbers only (with --header yes if the first line has names)",
        )
    elif header == "no" and are_numbers == {False}:
        yield Problem(
            f"--header no with {' and '.join(shown)}",
            "a file without names has numbers for its columns; give these: 1, 2, ...",
        )


def tracker_problems(name: str) -> Iterator[Problem]:
    """A problem if the package of a tracker is not installed."""
    found = importlib.util.find_spec(name)
    if not (found and found.origin):  # a folder of that name is no package
        yield Problem(
            f"--track {name}",
            f"the package {name} is not installed; python -m pip install {name}, or leave it out",
        )


def encoding_problems(name: str) -> Iterator[Problem]:
    """A problem if no encoding of texts has that name."""
    try:
        "a".encode(name)
    except (LookupError, ValueError):
        yield Problem(
            f"--encoding {name}", "no such encoding; give one such as utf-8, cp1252 or utf-16"
        )


def _weights_problems(config: ExperimentConfig) -> Iterator[Problem]:
    if config.weights != "pretrained":
        return
    if config.demo:
        yield Problem(
            "--weights pretrained with --demo",
            "published weights do not know the demo's byte-level tokens; take --weights random, or "
            "leave --demo out",
        )
    elif config.model_size in MODEL_SIZES and config.model_size not in PUBLISHED_WEIGHTS:
        yield Problem(
            f'--weights pretrained with --model_size "{config.model_size}"',
            "no weights of that size were published; add --weights random, or --weights PATH",
        )


def _dataset_problems(config: ExperimentConfig, given: Mapping[str, Any]) -> Iterator[Problem]:
    if config.dataset is None:
        return
    if config.demo:
        yield Problem(
            f"--dataset {config.dataset} with --demo", "both say which texts; leave one out"
        )
    if config.balance and config.class_weights != "none":
        yield Problem(
            f"--balance with --class_weights {config.class_weights}",
            "the training texts have as many of each class already; leave one of the two out",
        )
    for name in ("dataset", *PART_FILES.values()):
        yield from _file_problems(name, getattr(config, name))
    named = {name: getattr(config, name) for name in COLUMN_FLAGS}
    columns = {name: column for name, column in named.items() if column}
    if "text_column" in columns:  # it is wrong, too, if it is empty, and that was said
        yield from column_problems(columns, config.header)
    yield from encoding_problems(config.encoding)
    shares = [name for name, file in PART_FILES.items() if not getattr(config, file)]
    for name in sorted(given.keys() & PART_FILES.keys() - {*shares}):
        yield Problem(
            f"{_as_given(name, given[name])} with --{PART_FILES[name]}",
            "that part is not taken from --dataset; leave it out",
        )
    values = {name: getattr(config, name) for name in shares}
    if config.fold is not None:
        yield from _fold_problems(config, given)
        with suppress(ValueError):
            values["test_fraction"] = 1 / read_fold(config.fold)[1]
    if len(values) == 2 and max(values.values()) < 1 <= sum(values.values()):
        test = f"--test_fraction {config.test_fraction:g}"
        yield Problem(
            f"--val_fraction {config.val_fraction:g} with "
            f"{f'--fold {config.fold}' if config.fold else test}",
            "nothing is left for training; choose smaller ones",
        )


def _fold_problems(config: ExperimentConfig, given: Mapping[str, Any]) -> Iterator[Problem]:
    fold = f"--fold {shorten(config.fold)}"
    try:
        read_fold(config.fold)
    except ValueError:
        yield Problem(
            fold, "no fold; give I/K, such as 2/5, with I from 1 to K and K from 2 to 9999"
        )
    if config.test_dataset:
        yield Problem(
            f"{fold} with --test_dataset", "both say which texts are the test; leave one out"
        )
    elif "test_fraction" in given:
        yield Problem(
            f"{fold} with --test_fraction", "the fold is the test; leave --test_fraction out"
        )


def _file_problems(name: str, path: str | None) -> Iterator[Problem]:
    if not path:
        return
    if problem := path_problem(name, path):
        yield problem
    elif not Path(path).exists():
        yield Problem(f'--{name} "{path}"', "no such file")
    elif special := describe_special(Path(path)):
        yield Problem(f'--{name} "{path}"', f"no such file; it is {special}. Give a file")


def _device_problems(device: str, precision: str) -> Iterator[Problem]:
    if device == "auto" and precision in ("tf32", "bf16"):
        device = "cuda" if _torch_has("cuda") else "cpu"
    both = f"--precision {precision} with --device {device}"
    if device in ("cuda", "mps") and not _torch_has(device):
        yield Problem(f"--device {device}", "PyTorch finds no such device here; take --device cpu")
    elif precision == "tf32" and device in ("cpu", "mps"):
        yield Problem(both, "only CUDA has it; take fp32 or bf16")
    elif precision == "bf16" and (device == "mps" or (device == "cuda" and not _torch_has("bf16"))):
        yield Problem(both, "this device lacks it; take fp32")


def _torch_has(what: str) -> bool:
    """Whether PyTorch finds a kind of device here, or bf16 on CUDA."""
    import torch  # takes more than a second, and few choices depend on what is here

    return {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "bf16": torch.cuda.is_bf16_supported,
    }[what]()


def _as_given(name: str, value: Any) -> str:
    """A flag as it was given, for a message."""
    return f"--{name}" if value is True else f"--{name} {shorten(value)}"
