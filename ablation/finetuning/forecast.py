"""How long an experiment will take, said before it starts where that is long.

A pass of some tokens through a block takes a fixed time and a time for each token. Both are
measured on the model's own first block; how many passes there are follows from the options.
"""

import shutil
import tempfile
import time
from dataclasses import dataclass, replace

import torch

from ablation.classifier.build import GPTClassifier, count_trained_blocks
from ablation.config.options import ExperimentConfig
from ablation.finetuning.frozen_features import TOKENS_PER_BATCH
from ablation.finetuning.memory import count_positions, estimate_memory
from ablation.finetuning.training import Schedule
from ablation.system.errors import logger
from ablation.system.machine import free_bytes
from ablation.system.parallel import size
from data_utils import EncodedTexts, Splits

LONG = 600.0  # seconds; longer runs are announced
TRIES = 4  # at most: other work on the machine makes a pass slower, and nothing makes it faster
# Forward passes that a backward pass costs. With LoRA, frozen weights need no gradient.
BACKWARD, BACKWARD_LORA = 2, 1


@dataclass(frozen=True)
class PassCost:
    """Seconds of a forward pass through one block."""

    fixed: float
    per_token: float

    def seconds(self, n_tokens: float) -> float:
        """Those of a pass of so many tokens."""
        return self.fixed + n_tokens * self.per_token


@dataclass(frozen=True)
class Forecast:
    """Seconds that the parts of a run take."""

    states: float
    training: float  # with the evaluations in between
    evaluation: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.states + self.training + self.evaluation


def forecast(
    config: ExperimentConfig,
    schedule: Schedule,
    n_texts: Splits[int],
    n_positions: int,
    cost: PassCost,
    tokens_at_once: int,
) -> Forecast:
    """What a run takes in which nothing is there already.

    Args:
        n_positions: of all texts together that go into batches, as ``count_positions`` has them.
        tokens_at_once: in a batch of texts whose hidden states are computed.
    """
    batch, sizes = config.batch_size, vars(n_texts).values()
    n_tokens = batch * n_positions / sum(sizes)  # in a batch
    n_trained = count_trained_blocks(config)
    reuses = not config.no_feature_reuse
    n_frozen = config.gpt.n_layers - n_trained if reuses else 0
    n_run = config.gpt.n_layers - n_frozen
    backward = BACKWARD_LORA if config.uses_lora else BACKWARD
    if reuses and not config.average_embeddings:  # the last block has one query a text
        forward = max(0, n_run - 1) * cost.seconds(n_tokens) + min(1, n_run) * cost.seconds(batch)
        step = (1 + backward) * forward
    else:
        forward = n_run * cost.seconds(n_tokens)
        step = forward + backward * n_trained * cost.seconds(n_tokens)
    epochs = schedule.epoch_lengths(n_texts.train // batch)
    n_evaluations = len(range(0, sum(epochs), config.eval_freq)) + len(epochs)
    evaluated = sum(min(config.eval_iter, -(-n // batch)) for n in list(sizes)[:2])  # batches
    n_whole = -(-n_texts.validation // batch) if schedule.compares_epochs else 0
    # Where even the last block is frozen, it has one query a text.
    n_at_all = n_frozen - int(n_run == 0 and not config.average_embeddings)
    n_states = n_at_all * n_positions + (n_frozen - n_at_all) * sum(sizes)
    return Forecast(
        states=n_states * cost.seconds(tokens_at_once) / tokens_at_once,
        training=sum(epochs) * step + (n_evaluations * evaluated + len(epochs) * n_whole) * forward,
        evaluation=sum(-(-n // batch) for n in sizes) * forward,
    )


def describe(seconds: Forecast, memory: float, on_disk: float, stored: float) -> str:
    """One line on a long run, with the bytes that it takes in memory, on disk while it runs, and
    at most in the store."""
    parts = {
        "hidden states (less where some are there already)": seconds.states,
        "training": seconds.training,
        "the evaluation at the end": seconds.evaluation,
    }
    spent = ", ".join(f"{describe_seconds(s)} for {what}" for what, s in parts.items() if s >= 30)
    needs = [f"{memory / 1e9:.1f} GB of memory"]
    needs += [f"{on_disk / 1e9:.1f} GB of disk while it runs (--feature_memory)"] if on_disk else []
    needs += [f"up to {stored / 1e9:.1f} GB in --feature_store"] if stored else []
    total = describe_seconds(seconds.total)
    return (
        f"From the start, this takes about {total} at the speed just measured: "
        f"{spent}. It needs {', '.join(needs)}. Fewer texts or a smaller --model_size take less."
    )


def describe_seconds(seconds: float) -> str:
    """A time in the unit that one would say it in."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def measure_pass(classifier: GPTClassifier, n_tokens: int, at_once: int) -> PassCost:
    """Time two passes through the first block: of texts of ``n_tokens``, about ``at_once`` in all,
    and of a sixteenth as many, each a text."""
    n_texts = max(1, at_once // 16)
    few = _time_pass(classifier, n_texts, 1)
    n_many = max(1, at_once // n_tokens)
    many = _time_pass(classifier, n_many, n_tokens)
    per_token = max(0.0, many - few) / max(1, n_many * n_tokens - n_texts)
    return PassCost(max(0.0, few - n_texts * per_token), per_token)


@torch.no_grad()
def _time_pass(classifier: GPTClassifier, n_texts: int, n_tokens: int) -> float:
    embeddings = classifier.gpt.token_embedding.weight
    hidden = embeddings.new_ones(n_texts, n_tokens, embeddings.shape[1])
    hidden.sum().item()  # a GPU has finished by then
    started = time.perf_counter()
    classifier.run_blocks(hidden, stop=1).sum().item()
    return time.perf_counter() - started


def announce_if_long(
    classifier: GPTClassifier,
    schedule: Schedule,
    texts: Splits[EncodedTexts],
    config: ExperimentConfig,
) -> None:
    """Say what an experiment will take in time, memory and disk, if that is more than ``LONG``."""
    n_tokens, n_positions = count_positions(texts, config)
    need = estimate_memory(replace(config, feature_memory=None), n_tokens, n_positions, size())
    memory = free_bytes(classifier.device) / 2
    if config.feature_memory is not None:
        memory = config.feature_memory * 1e9
    on_disk = need.states if need.states > memory else 0
    if on_disk > shutil.disk_usage(tempfile.gettempdir()).free:  # then they are computed every time
        config, on_disk = replace(config, no_feature_reuse=True), 0
        need = estimate_memory(config, n_tokens, n_positions, size())
    at_once = TOKENS_PER_BATCH.get(classifier.device.type, TOKENS_PER_BATCH["cpu"])
    n_measured = min(at_once // 2, n_positions if need.states else config.batch_size * n_tokens)
    found = []
    for _ in range(TRIES):
        cost = measure_pass(classifier, n_tokens, n_measured)
        cost = PassCost(cost.fixed, cost.per_token / size())
        found.append(forecast(config, schedule, texts.map(len), n_positions, cost, at_once))
        if found[-1].total < LONG:
            return
    seconds = min(found, key=lambda seconds: seconds.total)
    stored = 0.0
    if need.states and config.feature_store != "off":
        state = config.gpt.emb_dim * classifier.gpt.token_embedding.weight.itemsize
        stored = min(n_positions * state, config.feature_store_gb * 1e9)
    logger.info("%s", describe(seconds, need.total - on_disk, on_disk, stored))
