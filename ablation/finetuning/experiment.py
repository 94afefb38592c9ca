"""One experiment from end to end."""

import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ablation.classifier.build import GPTClassifier
from ablation.classifier.export import export_hf, require_few_classes
from ablation.classifier.saved_models import save_classifier
from ablation.classifier.weight_files import WEIGHTS_NAME
from ablation.config.identity import identify_checkpoint, identify_data, identify_program
from ablation.config.options import ExperimentConfig, without
from ablation.config.rules import config_problems, machine_problems
from ablation.config.runs import OutputOptions
from ablation.data.corpora import load_vocabulary
from ablation.data.own_data import require_ignored_class
from ablation.finetuning.best_epoch import warn_if_inert
from ablation.finetuning.checkpoints import CHECKPOINT_NAME, Checkpoints
from ablation.finetuning.forecast import announce_if_long
from ablation.finetuning.memory import require_memory
from ablation.finetuning.metrics import format_metrics, measure_classes
from ablation.finetuning.outcomes import ExperimentResult, format_accuracies, format_minutes
from ablation.finetuning.shared_work import SharedWork
from ablation.finetuning.training import Schedule, classify_texts, train
from ablation.system.errors import ConfigError, describe_error, logger
from ablation.system.files import checksum_file
from ablation.system.machine import (
    choose_device,
    describe_machine,
    peak_memory_bytes,
    reset_peak_memory,
    set_precision,
)
from ablation.system.output import print_lines
from ablation.system.parallel import from_first, is_first, largest, require_same
from ablation.system.signals import DeferredSignals
from data_utils import count_max_tokens, make_loaders


def run_experiment(
    config: ExperimentConfig,
    shared: SharedWork | None = None,
    output: OutputOptions | None = None,
    *callbacks: Any,
) -> ExperimentResult:
    """Run one experiment, printing the protocol's lines on standard output.

    Args:
        shared: with the other experiments of this process; who made it has checked the rules
            on their options.
        output: by default, nothing is kept.
        callbacks: of :func:`train`, before that of checkpoints.

    Raises:
        ConfigError: options break rules; nothing was downloaded or built.
        DataError, TensorFileError: data or weights are missing or damaged.
        TrainingError, HiddenStateError: a loss or a hidden state is not finite.
        ExportError: the classes are too many to be exported.
        ParallelError: of several processes, one has gone, or other data or weights.
        Interrupted: the process was asked to stop, and a checkpoint was written if it could be.
    """
    output = output or OutputOptions()
    if problems := [*(machine_problems if shared else config_problems)(config)]:
        raise ConfigError(problems)
    device = choose_device(config.device)
    # The places of files may differ by machine.
    flags = {f"--{name}": getattr(config, name) for name in without("local")}
    require_same(lambda: {**identify_program(), **flags, "device": device.type})
    shared = shared or SharedWork([config])
    if output.export_dir:
        require_few_classes(len(shared.corpus.class_names), config)
    if config.dataset:
        require_ignored_class(config, shared.corpus.class_names)
    reset_peak_memory(device)
    texts = shared.texts(config)
    classifier, base = _load_model(shared, config, device)
    schedule = make_schedule(config)
    require_memory(texts, config)
    announce_if_long(classifier, schedule, texts, config)
    if device.type == "cuda":  # whose peak the passes of the forecast would raise
        reset_peak_memory(device)
    inputs, states = shared.inputs(classifier, config)
    loaders = make_loaders(inputs, config.batch_size)
    warn_if_inert(schedule, len(schedule.epoch_lengths(len(loaders.train))))
    with DeferredSignals(agree=largest) as signals:
        checkpoints = Checkpoints(
            output.folder and output.folder / CHECKPOINT_NAME,
            identity=lambda: identify_checkpoint(config, shared.corpus, base),
            every=output.checkpoint_every,
            resume=output.resume,
            features=states.seconds,
            stored=states.stored_seconds,
            signals=signals,
        )
        history = train(classifier, loaders, schedule, *callbacks, checkpoints)
        checkpoints.end_training()
    seconds = checkpoints.seconds
    print_lines(format_minutes(seconds))
    try:
        started = time.perf_counter()
        predictions = loaders.map(lambda loader: classify_texts(classifier, loader))
        seconds["evaluation"] = time.perf_counter() - started
        kept, not_kept = from_first(_keep_model(classifier, base, shared, config, output))
    except BaseException:  # a signal, too: training need not be repeated
        checkpoints.save()
        raise
    if not_kept:  # from there, the same command has only to evaluate and keep
        checkpoints.save()
    accuracy = predictions.map(lambda part: part.accuracy)
    parameters = [*classifier.parameters()]
    print_lines("\n".join(format_accuracies(accuracy)))
    if config.dataset:  # on the SMS data, the protocol's lines are all
        print_lines(format_metrics(measure_classes(predictions.test, shared.corpus.class_names)))
    spent = (f"{name} {s:.1f}" for name, s in seconds.items() if name != "stored")
    logger.info("Seconds: " + ", ".join(spent))
    return ExperimentResult(
        history=history,
        accuracy=accuracy,
        test=predictions.test,
        test_lines=shared.corpus.parts.test["Line"].tolist(),
        class_names=shared.corpus.class_names,
        seconds=seconds,
        n_states={"found": states.n_found, "computed": states.n_computed},
        n_trained=sum(p.numel() for p in parameters if p.requires_grad),
        n_parameters=sum(p.numel() for p in parameters),
        peak_memory=peak_memory_bytes(device),
        machine=describe_machine(device),
        weights=base,
        kept=kept,
        not_kept=not_kept,
    )


def _load_model(
    shared: SharedWork, config: ExperimentConfig, device: torch.device
) -> tuple[GPTClassifier, dict[str, Any]]:
    """What :meth:`SharedWork.model` gives, on the device, the same in all processes."""
    set_precision(config.precision)
    classifier, base = shared.model(config)
    parameters = [*classifier.to(device).parameters()]
    # Weights by their bits: what one seed draws may differ between kinds of processors.
    require_same(
        lambda: {
            "data": identify_data(shared.corpus),
            "weights": sum(torch.hash_tensor(parameter).item() for parameter in parameters),
        }
    )
    return classifier, base


def _keep_model(
    classifier: GPTClassifier,
    base: dict[str, Any],
    shared: SharedWork,
    config: ExperimentConfig,
    output: OutputOptions,
) -> tuple[dict[str, str], dict[str, str]]:
    """Write what is to be kept of a trained model, in the first process.

    Returns what was, with its SHA-256, and what was not, with the reason.
    """
    gpt, corpus = classifier.gpt, shared.corpus
    n_tokens = count_max_tokens(shared.texts(config).train, config)

    def save(folder: Path) -> None:
        save_classifier(folder, gpt, config, base, corpus, n_tokens)

    def export(folder: Path) -> None:
        export_hf(gpt, config, corpus.class_names, n_tokens, folder, load_vocabulary(config))

    wanted = {
        "model": (save, output.save_model and output.folder),
        "export": (export, output.export_dir),
    }
    kept, not_kept = {}, {}
    for name, (write, folder) in wanted.items():
        if folder and is_first():
            try:
                write(folder)
                kept[name] = checksum_file(folder / WEIGHTS_NAME)
            except Exception as error:  # whatever it is: the figures are not lost for it
                not_kept[name] = describe_error(error)
    return kept, not_kept


def make_schedule(config: ExperimentConfig) -> Schedule:
    """The numbers of an experiment's training."""
    return Schedule(**{field.name: getattr(config, field.name) for field in fields(Schedule)})
