"""Hidden states below the first trainable block, computed once.

Without dropout, what the frozen blocks at the bottom of a model make of a text never changes:
it is computed here, in large batches and without autograd, and training runs on top of it.
Texts are cut to the positions that decide what is read of them, equal texts are computed once,
and texts of different lengths are never padded to more than their neighbours in length.
"""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from classifier import autocast, needed_positions, read_positions, takes_fast_path
from data_utils import Batch, EncodedTexts, Splits
from experiment_config import ExperimentConfig
from gpt_model import GPTModel

logger = logging.getLogger("experiments")

# Tokens in a batch of the frozen part. On a CPU its activations should stay in the cache; on a
# GPU a batch should fill it.
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 65536}


class HiddenStateError(RuntimeError):
    """Hidden states cannot be used: they are not finite."""


@dataclass(frozen=True)
class HiddenStates(Dataset):
    """N texts as the hidden states that the first ``n_blocks`` blocks made of them.

    Text i has ``n_states[i]`` states, from row ``starts[i]`` of ``states`` (rows, D). A list of
    indices gives their :class:`Batch`, which repeats the last state of the shorter texts.
    """

    states: Tensor
    starts: Tensor  # (N,) int64
    n_states: Tensor  # (N,) int64
    lengths: Tensor  # (N,) int64
    widths: Tensor  # (N,) int64
    labels: Tensor  # (N,) int64
    n_blocks: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        n_states = self.n_states[indices]
        positions = torch.arange(int(n_states.max()))
        positions = torch.minimum(positions, n_states[:, None] - 1)  # (B, T)
        rows = (self.starts[indices][:, None] + positions).to(self.states.device)
        return Batch(
            self.states[rows],
            self.lengths[indices],
            self.widths[indices],
            self.labels[indices],
            self.n_blocks,
        )


def prepare_inputs(
    model: GPTModel, datasets: Splits[EncodedTexts], config: ExperimentConfig
) -> Splits[Dataset]:
    """What training and evaluation run on, chosen by what is frozen and what is read.

    Where nothing may be reused, the texts as they are; otherwise the hidden states below the
    first trainable block, or, if there is no frozen block, the texts' needed tokens.

    Raises:
        HiddenStateError: a hidden state is not finite.
    """
    if not takes_fast_path(model, config):
        return datasets
    needed = datasets.map(lambda texts: _cut(texts, config))
    n_blocks = count_frozen_blocks(model)
    states = _compute_states(model, needed, n_blocks, config) if n_blocks else None
    return states or needed


def count_frozen_blocks(model: GPTModel) -> int:
    """How many blocks, from the first on, have nothing trainable in or below them."""
    modules = (model.token_embedding, model.position_embedding, *model.blocks)
    for i, module in enumerate(modules):
        if any(parameter.requires_grad for parameter in module.parameters()):
            return max(0, i - 2)
    return len(model.blocks)


def _cut(texts: EncodedTexts, config: ExperimentConfig) -> EncodedTexts:
    """The same texts, of which only the needed positions go into batches."""
    cut = copy.copy(texts)
    cut.n_inputs = needed_positions(texts.lengths, texts.widths, config)
    return cut


@torch.no_grad()
def _compute_states(
    model: GPTModel, datasets: Splits[EncodedTexts], n_blocks: int, config: ExperimentConfig
) -> Splits[HiddenStates] | None:
    """Run the frozen blocks over all different texts of all parts; none where nothing fits."""
    # Where even the last block is frozen, only the position that is read is kept.
    reads_one = n_blocks == len(model.blocks) and not config.average_embeddings
    different: dict[tuple[tuple[int, ...], int], int] = {}  # (token ids, position read) -> number
    numbers = datasets.map(lambda texts: _number(texts, different, config))
    texts = list(different)
    n_states = torch.tensor([1 if reads_one else len(ids) for ids, _ in texts])
    starts = n_states.cumsum(0) - n_states
    states = _allocate(int(n_states.sum()), model, config)
    if states is None:
        return None
    model.eval()
    with tqdm(total=len(texts), desc="hidden states", unit="text", disable=None) as progress:
        for batch in _batch_by_length(texts, model.device, config):
            ids = [torch.tensor(texts[i][0]) for i in batch]
            tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(model.device)
            at = torch.tensor([texts[i][1] for i in batch], device=model.device)
            with autocast(model, config):
                hidden = model.run_blocks(
                    model.embed(tokens), stop=n_blocks, at=at if reads_one else None
                )
            if not torch.isfinite(hidden).all():
                raise HiddenStateError(_name_first_block(model, tokens, config))
            for i, text_states in zip(batch, hidden, strict=True):
                states[starts[i] : starts[i] + n_states[i]] = text_states[: n_states[i]]
            progress.update(len(batch))

    def dataset(part: str) -> HiddenStates:
        number, texts = getattr(numbers, part), getattr(datasets, part)
        return HiddenStates(
            states=states,
            starts=starts[number],
            n_states=n_states[number],
            lengths=torch.ones_like(texts.lengths) if reads_one else texts.lengths,
            widths=torch.ones_like(texts.widths) if reads_one else texts.widths,
            labels=texts.labels,
            n_blocks=n_blocks,
        )

    return Splits("train", "validation", "test").map(dataset)


def _number(
    texts: EncodedTexts, different: dict[tuple[tuple[int, ...], int], int], config: ExperimentConfig
) -> Tensor:
    """The number (N,) of each text among the different ones, which are added to."""
    positions = read_positions(texts.lengths, texts.widths, config)
    keys = (
        (tuple(ids[:n].tolist()), int(at))
        for ids, n, at in zip(texts.tokens, texts.n_inputs, positions, strict=True)
    )
    return torch.tensor([different.setdefault(key, len(different)) for key in keys])


def _batch_by_length(
    texts: Sequence[tuple[tuple[int, ...], int]], device: torch.device, config: ExperimentConfig
) -> Iterator[list[int]]:
    """Numbers of texts in batches of similar length; of equal length where every token sees
    every other, padding included."""
    limit = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])
    batch: list[int] = []
    for i in sorted(range(len(texts)), key=lambda i: len(texts[i][0])):
        length = len(texts[i][0])
        is_full = (len(batch) + 1) * length > limit
        if batch and (is_full or (config.disable_causal_mask and length > len(texts[batch[0]][0]))):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _allocate(n_rows: int, model: GPTModel, config: ExperimentConfig) -> Tensor | None:
    """Room (n_rows, D) for the states: on the model's device, in memory, on disk, or none."""
    like = model.token_embedding.weight
    shape = (n_rows, like.shape[1])
    n_bytes = shape[0] * shape[1] * like.element_size()
    for device in dict.fromkeys((model.device, torch.device("cpu"))):
        budget = free_bytes(device) / 2
        if config.feature_memory is not None:
            budget = config.feature_memory * 1e9
        if n_bytes <= budget:
            return like.new_empty(shape, device=device)
    need = f"Hidden states take {n_bytes / 1e9:.1f} GB, more than the {budget / 1e9:.1f} GB"
    if n_bytes > shutil.disk_usage(tempfile.gettempdir()).free:
        logger.warning("%s that they may take; computing them at every step instead", need)
        return None
    logger.warning("%s of memory that they may take (--feature_memory); keeping them on disk", need)
    # The folder goes at once where a mapped file may be deleted, and at the latest on exit.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = f"{folder}/states"
        flat = torch.from_file(path, shared=True, size=shape[0] * shape[1], dtype=like.dtype)
        return flat.view(shape)


def free_bytes(device: torch.device) -> int:
    """Bytes of memory that can still be had on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _name_first_block(model: GPTModel, tokens: Tensor, config: ExperimentConfig) -> str:
    hidden = model.embed(tokens)
    with autocast(model, config):
        for number in range(len(model.blocks)):
            if not torch.isfinite(hidden).all():
                break
            hidden = model.run_blocks(hidden, start=number, stop=number + 1)
        else:
            number += 1
    place = f"after block {number} of {len(model.blocks)}" if number else "after the embedding"
    return (
        f"Hidden states are not finite {place}: the weights, or --precision {config.precision}, "
        "are not fit for this. Get the weights again, or take --precision fp32."
    )
