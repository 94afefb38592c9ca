"""One experiment from end to end, and what several of them share."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import tiktoken
import torch
from torch.utils.data import Dataset

from checkpoints import CHECKPOINT_NAME, Checkpoints
from classifier import (
    build_classifier,
    count_trained_blocks,
    fingerprint,
    load_weights,
    takes_fast_path,
)
from config_rules import find_machine_problems, find_problems
from data_summary import describe_corpus, format_cut
from data_utils import (
    DATASET_NAME,
    DATASET_SHA256,
    LABELS,
    Corpus,
    EncodedTexts,
    Splits,
    count_max_tokens,
    encode_splits,
    find_dataset,
    make_loaders,
    read_messages,
    split_messages,
    write_csv_files,
)
from demo_data import byte_encoding, demo_messages
from errors import ConfigError, DataError, describe_error
from experiment_config import ExperimentConfig
from experiment_rows import CIRCUMSTANCES
from files import checksum_file
from frozen_features import FrozenPrefix, count_frozen_blocks, cut_texts, prepare_inputs
from gpt_model import GPTModel
from hf_export import export_hf, require_few_classes
from interruption import Patience
from machine import (
    choose_device,
    describe_machine,
    describe_program,
    free_bytes,
    peak_memory_bytes,
    reset_peak_memory,
)
from memory_needs import MemoryNeed, count_positions, estimate_memory
from metrics import format_metrics, measure_classes
from model_sizes import MODEL_SIZES
from output import report
from own_data import load_own_corpus, require_ignored_class
from parallel import first_on_node, from_first, is_first, largest, require_same, size
from runs import Keep
from saved_models import save_classifier
from training import Accuracy, History, Predictions, classify_texts, train
from vocabulary import gpt2_encoding
from weight_files import WEIGHTS_NAME, describe_base

logger = logging.getLogger("experiments")


@dataclass(frozen=True)
class ExperimentResult:
    """What one experiment gave.

    ``seconds`` has ``features`` (the hidden states it rests on, also where another experiment
    had them computed), ``training`` (with the evaluations in between) and ``evaluation`` (of the
    whole parts, at the end).
    """

    history: History
    accuracy: Splits[Accuracy]
    test: Predictions
    test_lines: list[int]  # of the source file, where each test text begins
    labels: tuple[str, ...]  # names of the classes, by number
    seconds: dict[str, float]
    n_trained: int  # parameters
    n_parameters: int  # trained or not
    peak_memory: int  # bytes
    machine: dict[str, Any]  # that computed it, as describe_machine has it
    weights: dict[str, Any]  # that it started from, as describe_base has them
    kept: dict[str, str] = field(default_factory=dict)  # "model", "export": their SHA-256
    not_kept: dict[str, str] = field(default_factory=dict)  # the same: why they are not there


def run_experiment(
    config: ExperimentConfig, shared: SharedWork | None = None, keep: Keep | None = None
) -> ExperimentResult:
    """Run one experiment, printing the protocol's lines on standard output.

    Args:
        shared: with the other experiments of this process; who made it has checked the rules
            on their options.
        keep: by default, nothing is kept.

    Raises:
        ConfigError: options break rules; nothing was downloaded or built.
        DataError, CheckpointError: data or weights cannot be had, or are damaged.
        TrainingError, HiddenStateError: a loss or a hidden state is not finite.
        ExportError: the classes are too many to be exported.
        ParallelError: of several processes, one has gone, or other data or weights.
        Interrupted: the process was asked to stop, and a checkpoint was written if it could be.
    """
    keep = keep or Keep()
    if keep.save_model and not keep.folder:
        raise ValueError("a model is to be kept, but no folder is named")
    problems = find_machine_problems(config) if shared else find_problems(config)
    if problems:
        raise ConfigError(problems)
    device = choose_device(config.device)
    require_same(lambda: {**describe_program(), **_flags(config), "device": device.type})
    shared = shared or SharedWork([config])
    if keep.export_dir:
        require_few_classes(len(shared.corpus.labels), config)
    if config.dataset:
        require_ignored_class(config, shared.corpus.labels)
    reset_peak_memory(device)
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    texts = shared.texts(config)
    model, base = shared.model(config)
    model.to(device)
    parameters = list(model.parameters())
    require_same(lambda: {"data": describe_data(shared.corpus), "weights": fingerprint(model)})
    require_memory(texts, config)
    inputs, feature_seconds = shared.inputs(model, config)
    loaders = make_loaders(inputs, config.batch_size)
    with Patience(agree=largest) as patience:
        checkpoints = Checkpoints(
            keep.folder and keep.folder / CHECKPOINT_NAME,
            identity=lambda: _identity(shared.corpus, config, base),
            every=keep.checkpoint_every,
            resume=keep.resume,
            features=feature_seconds,
            patience=patience,
        )
        history = train(model, loaders, config, checkpoints)
        checkpoints.end_training()
    seconds = checkpoints.seconds
    report(format_minutes(seconds))
    try:
        started = time.perf_counter()
        predictions = loaders.map(lambda loader: classify_texts(model, loader, config))
        seconds["evaluation"] = time.perf_counter() - started
        kept, not_kept = from_first(_keep_model(model, base, texts, shared.corpus, config, keep))
    except BaseException:
        checkpoints.save()
        raise
    if not_kept:  # from there, the same command has only to evaluate and keep
        checkpoints.save()
    accuracy = predictions.map(lambda part: part.accuracy)
    report("\n".join(format_accuracies(accuracy)))
    if config.dataset:  # on the SMS data, the protocol's lines are all
        report(format_metrics(measure_classes(predictions.test, shared.corpus.labels)))
    logger.info("Seconds: " + ", ".join(f"{name} {s:.1f}" for name, s in seconds.items()))
    return ExperimentResult(
        history=history,
        accuracy=accuracy,
        test=predictions.test,
        test_lines=shared.corpus.parts.test["Line"].tolist(),
        labels=shared.corpus.labels,
        seconds=seconds,
        n_trained=sum(p.numel() for p in parameters if p.requires_grad),
        n_parameters=sum(p.numel() for p in parameters),
        peak_memory=peak_memory_bytes(device),
        machine=describe_machine(device),
        weights=base,
        kept=kept,
        not_kept=not_kept,
    )


def _keep_model(
    model: GPTModel,
    base: dict[str, Any],
    texts: Splits[EncodedTexts],
    corpus: Corpus,
    config: ExperimentConfig,
    keep: Keep,
) -> tuple[dict[str, str], dict[str, str]]:
    """Write what is to be kept of a trained model, in the first process.

    Returns what was, with its SHA-256, and what was not, with the reason.
    """
    n_tokens = count_max_tokens(texts.train, config)

    def save(folder: Path) -> None:
        save_classifier(folder, model, config, base, corpus, n_tokens)

    def export(folder: Path) -> None:
        export_hf(model, config, corpus.labels, n_tokens, folder, find_encoding(config))

    folders = {"model": keep.save_model and keep.folder, "export": keep.export_dir}
    kept, not_kept = {}, {}
    for (name, folder), write in zip(folders.items(), (save, export), strict=True):
        if folder and is_first():
            try:
                write(folder)
                kept[name] = checksum_file(folder / WEIGHTS_NAME)
            except Exception as error:  # whatever it is: the figures are not lost for it
                not_kept[name] = describe_error(error)
    return kept, not_kept


def format_minutes(seconds: Mapping[str, float]) -> str:
    """The line that follows training."""
    minutes = (seconds["features"] + seconds["training"]) / 60
    return f"Training completed in {minutes:.2f} minutes."


def format_accuracies(accuracy: Splits[Accuracy]) -> list[str]:
    """The lines that end a run."""
    return [
        f"Training accuracy: {accuracy.train}",
        f"Validation accuracy: {accuracy.validation}",
        f"Test accuracy: {accuracy.test}",
    ]


def _flags(config: ExperimentConfig) -> dict[str, Any]:
    """The options by their flags, but for the places of files, which may differ by machine."""
    return {
        f"--{name}": value
        for name, value in asdict(config).items()
        if not name.endswith(("_dir", "dataset", "offline"))
    }


def _identity(corpus: Corpus, config: ExperimentConfig, base: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint belongs to: equal for runs that would go the same way from it."""
    return {
        "options": {
            name: value
            for name, value in asdict(config).items()
            if name == "seed" or name not in CIRCUMSTANCES
        },
        "data": describe_data(corpus),
        "base": base,
    }


def load_corpus(config: ExperimentConfig) -> Corpus:
    """The texts: the messages, the demo's, or one's own.

    Raises:
        DataError: they cannot be had, or are not what they should be.
    """
    labels = tuple(LABELS)
    if config.dataset:
        return load_own_corpus(config)
    if config.demo:
        logger.warning("Demo: the messages are synthetic, so the figures mean nothing.")
        return Corpus(split_messages(demo_messages()), labels, "demo", None)
    data_dir = Path(config.data_dir)
    messages = split_messages(read_messages(find_dataset(data_dir, config.offline)))
    write_csv_files(messages, data_dir)
    return Corpus(messages, labels, DATASET_NAME, DATASET_SHA256)


def describe_data(corpus: Corpus) -> dict[str, Any]:
    """What a run was made on, for its record: runs with another description do not compare."""
    return {
        "name": corpus.name,
        "file_sha256": corpus.file_sha256,
        "split_sha256": checksum(corpus.parts),
    }


def checksum(parts: Splits[pd.DataFrame]) -> str:
    """SHA-256 of the texts and labels of all parts, in order: another split has another."""
    texts = (part[["Label", "Text"]].to_json(orient="values") for part in vars(parts).values())
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def find_encoding(config: ExperimentConfig) -> tiktoken.Encoding:
    """How texts become tokens.

    Raises:
        DataError: there is no vocabulary.
    """
    return byte_encoding() if config.demo else gpt2_encoding(config.offline)


class SharedWork:
    """What experiments in one process have in common: texts, weights, hidden states.

    Each is kept only while it is needed: experiments in the order of :func:`sharing_order`
    have everything computed once, and take no more memory than the largest of them.

    Args:
        configs: every experiment that belongs together, also those that need not be run again,
            so that the others find the states that they would have found beside them.
        corpus, encoding: their texts, and how these become tokens; by default they are loaded.
    """

    def __init__(
        self,
        configs: Sequence[ExperimentConfig],
        corpus: Corpus | None = None,
        encoding: tiktoken.Encoding | None = None,
    ) -> None:
        self._configs = configs
        with first_on_node():
            self.corpus = corpus or load_corpus(configs[0])
        if not corpus:  # who has loaded it has described it
            logger.info(describe_corpus(self.corpus, is_own=bool(configs[0].dataset)))
        self._encoding = encoding
        self._described: set[str] = set()  # how texts were cut
        self._texts: dict[Any, Splits[EncodedTexts]] = {}
        self._weights: tuple[Any, GPTModel | None] = (None, None)
        self._prefix: tuple[Any, FrozenPrefix | None] = (None, None)

    def texts(self, config: ExperimentConfig) -> Splits[EncodedTexts]:
        """The corpus as token ids.

        Raises:
            DataError: they do not fill a batch, or there is no vocabulary.
        """
        key = (config.context_length, config.no_padding, config.batch_size)
        if key not in self._texts:
            with first_on_node():
                encoding = self._encoding or find_encoding(config)
            self._texts[key] = encode_splits(self.corpus.parts, encoding, config)
            if config.dataset:
                self._describe_cut(self._texts[key], config)
        return self._texts[key]

    def _describe_cut(self, texts: Splits[EncodedTexts], config: ExperimentConfig) -> None:
        """Say how many texts are cut, unless that was said of another experiment."""
        line = format_cut(texts, count_max_tokens(texts.train, config))
        if line not in self._described:
            self._described.add(line)
            logger.info(line)

    def model(self, config: ExperimentConfig) -> tuple[GPTModel, dict[str, Any]]:
        """The model that trains, on the CPU, and what it starts from, as :func:`describe_base` has
        it; what does not train may be shared with others.

        Raises:
            DataError, CheckpointError: the weights cannot be had, are damaged, or change meanwhile.
        """
        base, n_classes = describe_base(config), len(self.corpus.labels)
        key = (_weights_key(config), base)
        others = [other for other in self._configs if _weights_key(other) == key[0]]
        if config.trainable_layers == "all" or len(others) < 2:
            # Nothing of it could be shared: a second copy would only take memory.
            self._weights = self._prefix = (None, None)
            model = build_classifier(config, n_classes=n_classes)
        else:
            if self._weights[0] != key:
                self._weights = self._prefix = (None, None)  # before the next ones are read
                self._weights = (key, load_weights(config))
            model = build_classifier(config, self._weights[1], n_classes)
        if describe_base(config) != base:
            raise DataError(f"--weights {config.weights} changed while it was read. Run it again.")
        return model, base

    def inputs(self, model: GPTModel, config: ExperimentConfig) -> tuple[Splits[Dataset], float]:
        """What training and evaluation run on, and the seconds that its hidden states took.

        Raises:
            HiddenStateError: a hidden state is not finite.
        """
        started = time.perf_counter()
        texts, prefix = self.texts(config), None
        if takes_fast_path(model, config) and count_frozen_blocks(model):
            key = prefix_key(config)
            if self._prefix[0] != key:
                self._prefix = (None, None)  # before there are others
                together = [other for other in self._configs if prefix_key(other) == key]
                needs = [
                    self.texts(other).map(partial(cut_texts, config=other)) for other in together
                ]
                self._prefix = (key, FrozenPrefix(needs))
            prefix = self._prefix[1]
            started -= prefix.seconds
        inputs = prepare_inputs(model, texts, config, prefix)
        return inputs, time.perf_counter() - started


def sharing_order(config: ExperimentConfig) -> tuple[Any, ...]:
    """Sorts experiments so that those that share weights and states follow each other.

    Small models come first, and of those that share states, those that freeze fewer blocks.
    """
    return (
        list(MODEL_SIZES).index(config.model_size),
        _weights_key(config),
        config.trainable_layers == "all",
        prefix_key(config),
        -count_trained_blocks(config),
    )


def _weights_key(config: ExperimentConfig) -> tuple[Any, ...]:
    """Equal for experiments that start from the same weights."""
    return (config.model_size, config.weights, config.seed if config.weights == "random" else -1)


def prefix_key(config: ExperimentConfig) -> tuple[Any, ...]:
    """Equal for experiments whose frozen blocks make the same of the same beginning; empty where
    there are no states that could be shared."""
    if config.no_feature_reuse or count_trained_blocks(config) == config.gpt.n_layers:
        return ()
    # Without the mask, padding is seen by every position.
    unmasked = f"padding {not config.no_padding}" if config.disable_causal_mask else ""
    return (*_weights_key(config), config.precision, str(config.context_length), unmasked)


def require_memory(texts: Splits[EncodedTexts], config: ExperimentConfig) -> None:
    """Raise ``MemoryError`` where AdamW's two moments are sure not to fit, and warn where what a
    training step needs beside them may not fit as well. The weights are in memory already."""
    need = estimate_memory(config, *count_positions(texts, config), size())
    free = free_bytes(choose_device(config.device))
    if need.moments > free:
        raise MemoryError(
            f"AdamW's moments alone take {need.moments / 1e9:.1f} GB, and {free / 1e9:.1f} GB are "
            "free"
        )
    if 1.25 * need.training > free:
        logger.warning(
            "Memory is short: training takes about %.1f GB, and %.1f GB are free. %s",
            need.training / 1e9,
            free / 1e9,
            _advise_on_memory(texts, config, need),
        )


def _advise_on_memory(
    texts: Splits[EncodedTexts], config: ExperimentConfig, need: MemoryNeed
) -> str:
    """What would need less. Accumulating keeps all gradients, which may be more than it saves."""
    halved = replace(
        config,
        batch_size=max(1, config.batch_size // 2),
        accumulation_steps=2 * config.accumulation_steps,
    )
    if estimate_memory(halved, *count_positions(texts, halved), size()).training < need.training:
        return (
            "Half the --batch_size with twice the --accumulation_steps makes the same updates "
            "with less."
        )
    return (
        "A smaller --batch_size, --context_length or --model_size needs less, and so does LoRA; "
        "--accumulation_steps would need more, for all gradients at once."
    )
