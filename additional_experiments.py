"""Finetune a GPT-2 as a spam classifier, to find out which choices matter.

One run is one experiment: by default row 1 of the README's table.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import torch

from classifier import build_classifier
from data_utils import (
    DataError,
    EncodedTexts,
    Splits,
    encode_splits,
    find_dataset,
    gpt2_encoding,
    make_loaders,
    read_messages,
    split_messages,
    write_csv_files,
)
from demo_data import byte_encoding, demo_messages
from experiment_config import (
    GROUPS,
    OPTIONS,
    ConfigError,
    ExperimentConfig,
    find_problems,
    parse_options,
    show_default,
)
from experiment_rows import ROWS, Row, differing_options, format_flag
from frozen_features import (
    HiddenStateError,
    count_frozen_blocks,
    free_bytes,
    prepare_inputs,
)
from gpt_model import CheckpointError, GPTModel
from training import Accuracy, History, TrainingError, evaluate_accuracy, report, train

logger = logging.getLogger("experiments")

SMALLER = "A smaller --batch_size, --context_length or --model_size needs less, and so does LoRA."
# A model that small, with random weights, learns in five epochs only from larger steps.
DEMO_FLAGS = {"model_size": "gpt2-tiny (3M)", "weights": "random", "learning_rate": 5e-4}


@dataclass(frozen=True)
class ExperimentResult:
    """What one experiment gave: its history, its accuracy on each part, and its seconds.

    ``seconds`` has ``features`` (hidden states computed once), ``training`` (with the
    evaluations in between) and ``evaluation`` (of the whole parts, at the end).
    """

    history: History
    accuracy: Splits[Accuracy]
    seconds: dict[str, float]


def run_experiment(config: ExperimentConfig) -> ExperimentResult:
    """Run one experiment, printing the protocol's lines on standard output.

    Raises:
        ConfigError: options break rules; nothing was downloaded or built.
        DataError, CheckpointError: data or weights cannot be had, or are damaged.
        TrainingError, HiddenStateError: a loss or a hidden state is not finite.
    """
    problems = find_problems(config)
    if problems:
        raise ConfigError(problems)
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    texts = load_data(config)
    model = build_classifier(config).to(choose_device(config.device))
    require_memory(model, texts, config)
    times = [time.perf_counter()]
    inputs = prepare_inputs(model, texts, config)
    times.append(time.perf_counter())
    loaders = make_loaders(inputs, config.batch_size)
    history = train(model, loaders, config)
    times.append(time.perf_counter())
    report(f"Training completed in {(times[2] - times[0]) / 60:.2f} minutes.")
    accuracy = loaders.map(lambda loader: evaluate_accuracy(model, loader, config))
    times.append(time.perf_counter())
    report(f"Training accuracy: {accuracy.train}")
    report(f"Validation accuracy: {accuracy.validation}")
    report(f"Test accuracy: {accuracy.test}")
    phases = zip(("features", "training", "evaluation"), pairwise(times), strict=True)
    seconds = {name: end - start for name, (start, end) in phases}
    logger.info("Seconds: " + ", ".join(f"{name} {s:.1f}" for name, s in seconds.items()))
    return ExperimentResult(history, accuracy, seconds)


def load_data(config: ExperimentConfig) -> Splits[EncodedTexts]:
    """The messages, or the demo's, split and as token ids."""
    if config.demo:
        logger.warning("Demo: the messages are synthetic, so the figures mean nothing.")
        splits, encoding = split_messages(demo_messages()), byte_encoding()
    else:
        data_dir = Path(config.data_dir)
        splits = split_messages(read_messages(find_dataset(data_dir)))
        write_csv_files(splits, data_dir)
        encoding = gpt2_encoding()
    return encode_splits(splits, encoding, config)


def require_memory(model: GPTModel, texts: Splits[EncodedTexts], config: ExperimentConfig) -> None:
    """Raise ``MemoryError`` where AdamW's two moments are sure not to fit, and warn where what
    a training step keeps of each token (about 17 D numbers in a block) may not fit as well."""
    trained = [p for p in model.parameters() if p.requires_grad]
    moments = 2 * sum(p.numel() * p.element_size() for p in trained)
    n_blocks = len(model.blocks) - count_frozen_blocks(model)
    n_tokens = config.batch_size * int(texts.train.widths.max())
    activations = n_tokens * n_blocks * 17 * model.config.emb_dim * 4
    free = free_bytes(model.device)
    if moments > free:
        raise MemoryError(
            f"AdamW's moments alone take {moments / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        )
    if 1.25 * (moments + activations) > free:
        logger.warning(
            "Memory is short: training takes about %.1f GB, and %.1f GB are free. Half the "
            "--batch_size with twice the --accumulation_steps makes the same updates with less.",
            (moments + activations) / 1e9,
            free / 1e9,
        )


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def config_from_flags(argv: Sequence[str]) -> ExperimentConfig:
    """Turn the command line into a configuration, and say on standard error which row it is.

    A flag that is given wins over the demo's, the demo's over the row's, the row's over the
    default.

    Raises:
        ConfigError: with every problem of the command line.
    """
    namespace, unknown = build_parser().parse_known_args(argv)
    texts = vars(namespace)
    number = texts.pop("rows", None)
    given, problems = parse_options(texts)
    row = {str(number): row for number, row in ROWS.items()}.get(number)
    if number is not None and not row:
        problems.append(f"--rows {number}: no such row; give a number from 1 to {len(ROWS)}")
    values = {**(row.flags if row else {}), **(DEMO_FLAGS if "demo" in given else {}), **given}
    if not values.get("trainable_layers", "").startswith("lora"):
        # Without LoRA, what the row says of it means nothing.
        for name in {"lora_rank", "lora_alpha"} - given.keys():
            values.pop(name, None)
    config = ExperimentConfig(**values)
    problems += find_problems(config, given)
    problems += _name_unknown(unknown, problems)
    if problems:
        raise ConfigError(problems)
    _announce_row(config, row)
    return config


class _Parser(argparse.ArgumentParser):
    """Reports its errors like all other problems of the command line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError([message])


def build_parser() -> argparse.ArgumentParser:
    """A flag for each option, by group. Texts are not converted, and no default is set, so
    that what was given can be told from what was not and all problems be named together."""
    parser = _Parser(
        usage="python additional_experiments.py [--flag value ...]",
        description=__doc__,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rows",
        metavar="N",
        help=f"the flags of row N, 1 to {len(ROWS)}; other flags win over them, and then the run "
        "is a variant of the row (default: no row)",
    )
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for name, option in OPTIONS.items():
        rules = option.metadata
        kind = {"action": "store_true"}
        if not isinstance(option.default, bool):
            choices = f"{{{','.join(rules['choices'])}}}"
            kind = {"metavar": rules["metavar"] or choices}
        groups[rules["group"]].add_argument(
            f"--{name}", help=f"{rules['help']} (default: {show_default(option)})", **kind
        )
    return parser


def _name_unknown(unknown: Sequence[str], problems: Sequence[str]) -> list[str]:
    """A problem for each argument that belongs to no flag."""
    known = ["--help", "--rows", *(f"--{name}" for name in OPTIONS)]
    flags = [argument.split("=")[0] for argument in unknown if argument.startswith("-")]
    named = []
    for flag in flags:
        nearest = difflib.get_close_matches(flag, known, n=1, cutoff=0.5)
        named.append(f"{flag}: no such flag" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    # Words after a flag that is unknown or lacks its space are its values, not another problem.
    explained = flags or any("a space is missing" in problem for problem in problems)
    words = [argument for argument in unknown if not argument.startswith("-")]
    if words and not explained:
        named.append(
            f"{' '.join(words)}: belongs to no flag; switches take no value, and a value with "
            "spaces needs quotes"
        )
    return named


def _announce_row(config: ExperimentConfig, asked: Row | None) -> None:
    for number, row in ROWS.items():
        differing = differing_options(config, row)
        if not differing:
            logger.info("Row %d: %s", number, row.command)
        elif row is asked:
            flags = " ".join(format_flag(name, getattr(config, name)) for name in differing)
            logger.info("A variant of row %d, not the row, because of %s", number, flags)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script. Returns the exit status: 0, 2 for wrong usage, 1 for other faults."""
    _log_to_standard_error()
    try:
        run_experiment(config_from_flags(sys.argv[1:] if argv is None else argv))
    except ConfigError as error:
        problems = "\n".join(f"  {problem}" for problem in error.problems)
        print(f"Nothing was started:\n{problems}\nSee --help for every flag.", file=sys.stderr)
        return 2
    except (DataError, CheckpointError, HiddenStateError, TrainingError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except (torch.OutOfMemoryError, MemoryError) as error:
        print(f"Error: out of memory: {str(error).splitlines()[0]}. {SMALLER}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the results has gone; a last flush would fail too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


def _log_to_standard_error() -> None:
    logger.handlers[:] = [logging.StreamHandler(sys.stderr)]
    logger.setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
