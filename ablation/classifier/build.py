"""A GPT-2 as a classifier: its weights, its head, what of it trains, and what is read from it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ablation.classifier.published_weights import load_published_weights
from ablation.classifier.weight_files import find_weights
from ablation.config.options import ExperimentConfig
from ablation.system.machine import keep_freed_memory, shapes_only
from ablation.system.parallel import map_rows
from data_utils import Batch, EncodedTexts
from gpt_model import GPTModel, pick
from lora import LoRALinear, MergedLoRALinear, inject_lora

N_TRAINED_BLOCKS = {"last_layer": 0, "last_block": 1, "last_two_blocks": 2}
LORA_LAYERS = {"lora": LoRALinear, "lora_alternative": MergedLoRALinear}


@dataclass(frozen=True)
class Reading:
    """Which positions each text is classified by, and what that allows."""

    position: str = "last"  # or first, or flexible: each text's own last token
    average: bool = False  # the mean over all positions; with flexible, over the text's own
    causal: bool = True  # no position depends on later ones
    padded: bool = True  # all texts have one length
    reuse: bool = True  # results may be computed once, and what nobody reads left out

    @classmethod
    def of(cls, config: ExperimentConfig) -> "Reading":
        """What an experiment reads."""
        return cls(
            config.trainable_token_pos,
            config.average_embeddings,
            not config.disable_causal_mask,
            not config.no_padding,
            not config.no_feature_reuse,
        )

    @property
    def mixes_lengths(self) -> bool:
        """Whether texts of different lengths may share a batch: without the causal mask, they would
        see each other's padding."""
        return self.causal or self.padded

    def ends(self, texts: Batch | EncodedTexts) -> Tensor:
        """The length (B,) up to which each text is read: its own, or that with its padding."""
        return texts.lengths if self.position == "flexible" else texts.padded_lengths

    def positions(self, texts: Batch | EncodedTexts) -> Tensor:
        """The position (B,) that is read of each text, where they are not averaged."""
        ends = self.ends(texts)
        return torch.zeros_like(ends) if self.position == "first" else ends - 1

    def n_needed(self, texts: Batch | EncodedTexts) -> Tensor:
        """How many leading positions (B,) of each text its logits depend on."""
        if not self.causal:
            return texts.padded_lengths
        return self.ends(texts) if self.average else self.positions(texts) + 1

    def select(self, logits: Tensor, texts: Batch) -> Tensor:
        """Logits at every position (B, T, C) -> those that are read, or their mean: (B, C)."""
        if not self.average:
            return pick(logits, self.positions(texts))[:, 0]
        ends = self.ends(texts)[:, None]  # (B, 1)
        is_averaged = torch.arange(logits.shape[1], device=logits.device) < ends  # (B, T)
        return (logits * is_averaged[..., None]).sum(dim=1) / ends


class GPTClassifier(nn.Module):
    """A GPT-2 whose head gives classes, the positions that it reads, and its blocks' precision."""

    def __init__(self, gpt: GPTModel, reading: Reading, precision: str = "fp32") -> None:
        super().__init__()
        keep_freed_memory()  # each block's intermediate results take that of the last one's
        self.gpt, self.reading, self.precision = gpt, reading, precision

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.gpt.device

    @property
    def reuses_work(self) -> bool:
        """Whether work may be reused and left out."""
        return self.reading.reuse

    def forward(self, batch: Batch) -> Tensor:
        """A batch on any device -> the logits (B, C) of its texts, on the classifier's.

        With several processes, each classifies its share of the texts.
        """
        return map_rows(self._classify, batch.to(self.device))

    def _classify(self, batch: Batch) -> Tensor:
        at = None
        if self.reuses_work and not self.reading.average:
            at = self.reading.positions(batch)
        hidden = self.run_blocks(batch.inputs, start=batch.n_blocks, at=at)
        # The final norm and the classifier keep their own precision.
        logits = self.gpt.classify(hidden.to(self.gpt.final_norm.weight.dtype))
        return logits[:, 0] if at is not None else self.reading.select(logits, batch)

    def run_blocks(
        self, inputs: Tensor, start: int = 0, stop: int | None = None, at: Tensor | None = None
    ) -> Tensor:
        """Token ids (B, T), or hidden (B, T, D) before block ``start`` -> hidden before ``stop``.

        With ``at`` (B,) the last block of the model gives only that position's: (B, 1, D).
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            hidden = inputs if inputs.is_floating_point() else self.gpt.embed(inputs)
            return self.gpt.run_blocks(hidden, start, stop, at)


def load_weights(config: ExperimentConfig) -> GPTModel:
    """A GPT-2 without a head, with the weights that training starts from, on the CPU. Raises
    ``DataError`` or ``TensorFileError`` if the weights are missing or damaged."""
    torch.manual_seed(config.seed)
    if config.weights == "random":
        model = GPTModel(config.gpt)
    else:
        model = load_published_weights(config.gpt, find_weights(config))
    model.head = nn.Identity()
    return model


def build_classifier(
    config: ExperimentConfig, base: GPTModel | None = None, n_classes: int = 2
) -> GPTClassifier:
    """Build the model that trains, on the CPU; parameters that do not train need no gradient.

    The order of random draws is the protocol's: the weights, if they are random; then, from the
    seed again, the classifier, and after it LoRA's matrices in module order. Raises ``DataError``
    or ``TensorFileError`` if the weights are missing or damaged.

    Args:
        base: what :func:`load_weights` gave; it never changes, and what does not train is
            shared with it. By default the weights are loaded.
    """
    with shapes_only():
        gpt = GPTModel(replace(config.gpt, causal=not config.disable_causal_mask))
    gpt.head = nn.Identity()  # until it gets its own
    gpt.load_state_dict((base or load_weights(config)).state_dict(), assign=True)
    gpt.requires_grad_(False)
    torch.manual_seed(config.seed)
    gpt.head = nn.Linear(config.gpt.emb_dim, n_classes)
    for module in _trained_modules(gpt, config):
        module.requires_grad_(True)
        if base:
            for parameter in module.parameters():
                parameter.data = parameter.data.clone()
    if config.uses_lora:
        inject_lora(gpt, config.lora_rank, config.lora_alpha, LORA_LAYERS[config.trainable_layers])
    if config.precision == "bf16":
        _cast_frozen(gpt)
    return GPTClassifier(gpt, Reading.of(config), config.precision)


def count_trained_blocks(config: ExperimentConfig) -> int:
    """How many blocks, from the last down, have something trainable in or below them."""
    return N_TRAINED_BLOCKS.get(config.trainable_layers, config.gpt.n_layers)


def _trained_modules(gpt: GPTModel, config: ExperimentConfig) -> Iterable[nn.Module]:
    """The modules whose own weights train, LoRA's matrices aside."""
    if config.trainable_layers == "all":
        return [gpt]
    n_blocks = 0 if config.uses_lora else count_trained_blocks(config)
    norm = [gpt.final_norm] if n_blocks else []
    return [*gpt.blocks[len(gpt.blocks) - n_blocks :], *norm, gpt.head]


def _cast_frozen(gpt: GPTModel) -> None:
    """Cast what does not train to bfloat16 once, rather than at every call.

    Norms stay as they are: they are small, and best kept exact.
    """
    for module in gpt.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.requires_grad:
            module.to(torch.bfloat16)
