"""A trained classifier as a folder that ``transformers`` loads, and LoRA as one that PEFT loads.

The files are written here, so that neither package is needed. Letters in shapes: D ``emb_dim``,
C classes.

Sources: ``GPT2ForSequenceClassification`` and ``GPT2Tokenizer`` of transformers; the formats of
safetensors (https://huggingface.co/docs/safetensors) and of PEFT's checkpoints
(https://huggingface.co/docs/peft/developer_guides/checkpoint).
"""

import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablation.classifier.published_weights import BLOCK_MODULES, TRANSPOSED, published_names
from ablation.classifier.tensor_files import write_safetensors
from ablation.classifier.weight_files import WEIGHTS_NAME
from ablation.config.options import ExperimentConfig
from ablation.config.rules import export_problems
from ablation.config.runs import CONFIG_NAME
from ablation.config.sizes import PUBLISHED_WEIGHTS
from ablation.system.errors import ExportError
from ablation.system.files import ROOM, parse_json, path_problem
from data_utils import PADDING_TOKEN
from gpt_model import GPTModel
from lora import LoRALinear

ARCHITECTURE = "GPT2ForSequenceClassification"
ADAPTER_NAME = "adapter"  # a folder
NAMES = {
    *(CONFIG_NAME, WEIGHTS_NAME, ADAPTER_NAME),
    *("vocab.json", "merges.txt", "tokenizer_config.json"),
}
PADDING_TEXT = "<|endoftext|>"
FOLD_TOLERANCE = 1e-6  # of logits


def require_export_folder(folder: Path) -> None:
    """Raise :class:`ExportError` if an export cannot be written to a folder, before any work.

    It may be there if it is empty, or an earlier export and nothing else: then it is replaced.
    """
    if problem := path_problem("export_hf", folder, ROOM):
        raise ExportError(str(problem))
    try:
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if names and not (names <= NAMES and _is_export(folder / CONFIG_NAME)):
            raise ExportError(
                f"--export_hf {folder}: the folder exists and is not just an earlier export. "
                "Choose another one, or move it away."
            )
        temporary = _temporary_folder(folder)
        temporary.mkdir(parents=True)
        temporary.rmdir()
    except OSError as error:
        raise _not_written(folder, error) from error


def require_few_classes(n_classes: int, config: ExperimentConfig) -> None:
    """Raise :class:`ExportError` if a classifier has more classes than its bias can be folded for,
    before any work."""
    if n_classes > config.gpt.emb_dim:
        raise ExportError(
            f"--export_hf with {n_classes} classes: the classifier of transformers has no bias, "
            f'and with --model_size "{config.model_size}" {config.gpt.emb_dim} classes at most '
            "can be expressed without one. Take a larger --model_size, or leave --export_hf out."
        )


@torch.no_grad()
def export_hf(
    model: GPTModel,
    config: ExperimentConfig,
    class_names: Sequence[str],
    max_tokens: int,
    folder: Path,
    vocabulary: Mapping[str, bytes] | None = None,
) -> None:
    """Write a classifier as a folder for ``AutoModelForSequenceClassification.from_pretrained``.

    LoRA is merged. That class has no bias in its classifier, so it is folded into the final
    norm's shift. Of the model, which stays as it is, only one tensor at a time is copied. The
    folder gets its name when it is complete. Raises ``ExportError`` if the configuration cannot be
    expressed, the bias cannot be folded, or the folder cannot be written.

    With LoRA, ``folder/adapter`` has what ``PeftModel.from_pretrained`` puts on the weights that
    training started from, loaded with ``num_labels`` C and ``pad_token_id`` 50256.

    Args:
        model: with a head of C outputs and a bias; it may hold LoRA layers.
        class_names: the C names of the classes, by number.
        max_tokens: what texts are truncated to, where truncation is asked for.
        vocabulary: ``merges.txt`` and ``vocab.json``; without it, the folder has no tokenizer.
    """
    if problems := export_problems(config):
        raise ExportError("; ".join(map(str, problems)))
    require_export_folder(folder)
    shift = _fold_bias(model)
    target, temporary = folder.resolve(), _temporary_folder(folder)
    earlier = temporary.with_name(f"{temporary.name}.earlier")
    try:
        temporary.mkdir()
        _write_json(temporary / CONFIG_NAME, _model_config(model, class_names))
        _write_tensors(temporary / WEIGHTS_NAME, lambda: _model_tensors(model, shift))
        if vocabulary:
            for name, content in vocabulary.items():
                (temporary / name).write_bytes(content)
            _write_json(temporary / "tokenizer_config.json", _tokenizer_config(max_tokens))
        if config.uses_lora:
            _write_adapter(temporary / ADAPTER_NAME, model, config, shift)
        # An earlier export goes only when the new one has its name.
        if target.exists():
            target.rename(earlier)
        try:
            temporary.rename(target)
        except OSError:
            if earlier.exists():
                earlier.rename(target)
            raise
        shutil.rmtree(earlier, ignore_errors=True)
    except OSError as error:
        raise _not_written(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_export(config: Path) -> bool:
    """Whether this is the configuration that :func:`export_hf` writes."""
    try:
        return parse_json(config.read_bytes())["architectures"] == [ARCHITECTURE]
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _not_written(folder: Path, error: OSError) -> ExportError:
    return ExportError(
        f"--export_hf {folder} cannot be written ({error}). Make room, or choose another folder."
    )


def _temporary_folder(folder: Path) -> Path:
    """A name that no other process takes, beside the folder, so that renaming is enough."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")


# ---------------------------------------------------------------- model


def _fold_bias(model: GPTModel) -> Tensor:
    """The final norm's shift (D,) that makes the classifier's bias zero, in float32 on the CPU.

    W (x + s) + b = W (x + s') with s' = s + W⁺ b, where W⁺ is the pseudoinverse of W (C, D):
    W W⁺ b = b for every b, if the rows of W are linearly independent.
    """
    weight, bias = model.head.weight.cpu().double(), model.head.bias.cpu().double()
    shift = model.final_norm.bias.cpu().double()
    folded = (shift + torch.linalg.pinv(weight) @ bias).float()
    error = (weight @ (folded.double() - shift) - bias).abs().max()
    if not error <= FOLD_TOLERANCE:  # also where it is not a number
        raise ExportError(
            "The classifier cannot be exported: transformers has none with a bias, and folding it "
            f"into the final norm changes logits by {error:.1g}, because the weights of one class "
            "are nearly a combination of the others', or too large. Train with another --seed, or "
            "a smaller --learning_rate."
        )
    return folded


def _model_tensors(model: GPTModel, shift: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the exported model, by name, one after the other."""
    for name, parameters in published_names(model.config.n_layers).items():
        # By attributes: the weight of a LoRA layer is the merged one.
        places = (parameter.rpartition(".") for parameter in parameters)
        parts = [getattr(model.get_submodule(module), kind) for module, _, kind in places]
        tensor = shift if name == "ln_f.bias" else torch.cat(parts)
        yield f"transformer.{name}", tensor.t() if name.endswith(TRANSPOSED) else tensor
    yield "score.weight", model.head.weight


def _write_tensors(path: Path, give: Callable[[], Iterable[tuple[str, Tensor]]]) -> None:
    """Write a safetensors file in float32.

    Linear layers are transposed here, one by one: measured with GPT-2 small, all at once take
    391 MiB more memory and this 19. For XL it would be 6 GB.
    """
    write_safetensors(path, lambda: ((name, tensor.float()) for name, tensor in give()))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _model_config(model: GPTModel, class_names: Sequence[str]) -> dict[str, Any]:
    shape = model.config
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "gpt2",
        "vocab_size": shape.vocab_size,
        "n_positions": shape.context_length,
        "n_embd": shape.emb_dim,
        "n_layer": shape.n_layers,
        "n_head": shape.n_heads,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": model.final_norm.eps,
        **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0),
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), PADDING_TOKEN),
        "id2label": {str(i): name for i, name in enumerate(class_names)},
        "label2id": {name: i for i, name in enumerate(class_names)},
        "problem_type": "single_label_classification",
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _tokenizer_config(max_tokens: int) -> dict[str, Any]:
    """Makes a ``GPT2Tokenizer`` give the ids of tiktoken's ``encode_ordinary``.

    That is none for an empty text, of which the project makes one padding token.
    """
    return {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": max_tokens,
        "add_prefix_space": False,
        "padding_side": "right",
        "truncation_side": "right",
        "split_special_tokens": True,  # a text that spells out a special token is text
        **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), PADDING_TEXT),
    }


# ---------------------------------------------------------------- LoRA


def _write_adapter(folder: Path, model: GPTModel, config: ExperimentConfig, shift: Tensor) -> None:
    """Write the LoRA layers of the blocks, and the classifier and the final norm as they became."""
    folder.mkdir()
    published = PUBLISHED_WEIGHTS[config.model_size] if config.weights == "pretrained" else None
    targets = {
        theirs: len(ours)
        for theirs, ours in BLOCK_MODULES.items()
        if f"{theirs}.weight".endswith(TRANSPOSED)
    }
    # PEFT multiplies by alpha over rank, where alpha here multiplies as it is.
    rank, alpha = config.lora_rank, config.lora_rank * config.lora_alpha
    content = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": published and published.repository,
        "revision": published and published.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": True,  # published linear layers are transposed
        "target_modules": list(targets),
        "rank_pattern": {name: n * rank for name, n in targets.items() if n > 1},
        "alpha_pattern": {name: n * alpha for name, n in targets.items() if n > 1},
        "modules_to_save": ["score", "ln_f"],
    }
    _write_json(folder / "adapter_config.json", content)
    _write_tensors(folder / "adapter_model.safetensors", lambda: _adapter_tensors(model, shift))


def _adapter_tensors(model: GPTModel, shift: Tensor) -> Iterator[tuple[str, Tensor]]:
    prefix = "base_model.model"
    for i, block in enumerate(model.blocks):
        for theirs, ours in BLOCK_MODULES.items():
            layers = [block.get_submodule(name) for name in ours]
            if isinstance(layers[0], LoRALinear):
                # Layers that share a published one become one adapter of their ranks' sum:
                # each reads its own rows of the first matrix, and fills its own outputs.
                name = f"{prefix}.transformer.h.{i}.{theirs}"
                yield f"{name}.lora_A.weight", torch.cat([layer.A.t() for layer in layers])
                yield f"{name}.lora_B.weight", torch.block_diag(*(layer.B.t() for layer in layers))
    yield f"{prefix}.transformer.ln_f.weight", model.final_norm.weight
    yield f"{prefix}.transformer.ln_f.bias", shift
    yield f"{prefix}.score.weight", model.head.weight
