"""What a file or folder is that was given as weights, and is none that training can start from.

Kinds are told by first bytes, names and shapes; nothing of a file is run or unpickled.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ablation.config.sizes import MODEL_SIZES, PUBLISHED_WEIGHTS, GPTConfig
from ablation.system.errors import DataError

HEAD_BYTES = 1024
TENSORS_OF_A_BLOCK = 12  # and masks, in some files


@dataclass(frozen=True)
class Facts:
    """What is seen of a path. Of a file that safetensors cannot read, there are no shapes."""

    path: Path
    names: tuple[str, ...] = ()  # in a folder
    head: bytes = b""  # the first bytes of a file
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of tensors
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """One kind of what is no file of weights, how it is told, and what to do about it."""

    name: str
    tell: Callable[[Facts], bool]
    way_out: str  # {folder} stands for the folder


def begins(pattern: bytes) -> Callable[[Facts], bool]:
    """Tells files that safetensors cannot read, by their first bytes."""
    return lambda facts: not facts.shapes and bool(re.match(pattern, facts.head, re.DOTALL))


def named(pattern: str) -> Callable[[Facts], bool]:
    """Tells files that safetensors cannot read by their names, and folders by what they hold."""
    return lambda facts: (
        not facts.shapes
        and any(re.fullmatch(pattern, name) for name in facts.names or (facts.path.name,))
    )


def holds_tensor(pattern: str) -> Callable[[Facts], bool]:
    """Tells safetensors files by the name of a tensor."""
    return lambda facts: any(re.fullmatch(pattern, name) for name in facts.shapes)


def any_of(*ways: Callable[[Facts], bool]) -> Callable[[Facts], bool]:
    """Tells by any of several signs."""
    return lambda facts: any(tell(facts) for tell in ways)


def is_shard(facts: Facts) -> bool:
    """Whether a file, or one in a folder, is one of several that make a model."""
    parts = (re.search(r"-\d+-of-(\d+)\.", name) for name in facts.names or (facts.path.name,))
    return any(part and int(part[1]) > 1 for part in parts)


SAVE_AGAIN = (
    "Save it once more with transformers, as one safetensors file: AutoModelForCausalLM"
    '.from_pretrained("{folder}").save_pretrained("OTHER", max_shard_size="20GB"), and give OTHER.'
)
STARTS = "--weights takes what training starts from."

KINDS = (
    Kind(
        "a checkpoint of a run, which --resume goes on from.",
        holds_tensor(r"generators\.now"),
        f"Repeat the run's command with --resume. {STARTS}",
    ),
    Kind(
        "the model that a run kept with --save_model: what was trained, without what is below it.",
        lambda facts: "header" in facts.metadata,
        f"Classify texts with it: python predict.py {{folder}}. {STARTS}",
    ),
    Kind(
        "an adapter, which is of use only on top of the weights that it was trained on.",
        any_of(
            named(r"adapter_(config|model)\..*"),
            holds_tensor(r"base_model\.model\..*|prompt_embeddings|.*\.lora_(A|B|embedding).*"),
        ),
        "Merge it into them with PEFT (merge_and_unload, then save_pretrained) and give that "
        "folder, or train one here with --trainable_layers lora.",
    ),
    Kind(
        "a trained classifier as transformers has it, and as --export_hf writes it.",
        holds_tensor(r"(score|classifier)\..*"),
        'Use it with transformers: pipeline("text-classification", model="{folder}"). For '
        f"predict.py, train with --save_model. {STARTS}",
    ),
    Kind(
        "the folder of a run.",
        named(r"result\.json"),
        f"Go on with the run by its own command with --resume, or compare it with --compare. "
        f"{STARTS}",
    ),
    Kind(
        "a model in several files, or one of them.",
        any_of(named(r".*\.index\.json"), is_shard),
        SAVE_AGAIN,
    ),
    Kind(
        "a git-lfs pointer, which stands for a file and does not hold it.",
        begins(rb"version https://git-lfs"),
        'Get the file itself: run "git lfs pull" in {folder}, or download it.',
    ),
    Kind(
        "a GGUF or GGML file, for llama.cpp.",
        any_of(begins(rb"GGUF|lmgg|fmgg|tjgg"), named(r".*\.(gguf|ggml)")),
        "Take the model's safetensors file, from where this one was made.",
    ),
    Kind(
        "an array of NumPy.",
        begins(rb"\x93NUMPY|PK\x03\x04.{0,100}\.npy"),
        "Give a GPT-2 as a safetensors file, with the names of tensors that transformers uses.",
    ),
    Kind(
        "a PyTorch pickle. Reading one can run code, so none is read here.",
        any_of(
            # Not the length of a safetensors header, which may begin alike.
            begins(rb"\x80[\x02-\x05](?!\0{6}\{)|PK\x03\x04.{0,200}data\.pkl"),
            named(r".*\.(bin|pt|pth|pkl)"),
        ),
        SAVE_AGAIN,
    ),
    Kind(
        "a model for TensorFlow, Keras or Flax.",
        any_of(
            begins(rb"\x89HDF\r\n"),
            named(r".*\.(h5|keras|msgpack)|.*\.ckpt.*|saved_model\.pb|hparams\.json"),
        ),
        SAVE_AGAIN,
    ),
    Kind(
        "a model for ONNX.",
        any_of(begins(rb"\x08[\x01-\x0f]\x12.{1,2}pytorch"), named(r".*\.onnx")),
        "Take the model's safetensors file, from where this one was made.",
    ),
    Kind(
        "a web page, which came in place of a file.",
        begins(rb"(\xef\xbb\xbf)?\s*<"),
        "Download the file again, perhaps after logging in.",
    ),
    Kind(
        "an archive.",
        begins(rb"PK\x03\x04|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd|.{257}ustar"),
        "Unpack it, and give the safetensors file that it holds.",
    ),
    Kind(
        "text, as it may lie beside weights.",
        lambda facts: not facts.names and named(r".*\.(json|txt|md)")(facts),
        "Give the safetensors file itself.",
    ),
    Kind(
        "a folder as --weights_dir takes it.",
        lambda facts: any(size.name in facts.names for size in PUBLISHED_WEIGHTS.values()),
        "Give --weights_dir {folder}, and leave --weights out.",
    ),
    Kind(
        "a folder of Hugging Face's cache.",
        named(r"snapshots|models--.+|[0-9a-f]{40}"),
        "Give the folder in a model's snapshots that has the file.",
    ),
)


def look_at(path: Path) -> Facts:
    """What is seen of a file or folder.

    Raises:
        OSError: it cannot be read, or is neither.
    """
    if path.is_dir():
        return Facts(path, names=tuple(sorted(entry.name for entry in path.iterdir())))
    if path.exists() and not path.is_file():
        raise OSError("it is neither a file nor a folder")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {
                name: tuple(file.get_slice(name).get_shape())
                for name in file.keys()  # noqa: SIM118
            }
            return Facts(path, head=head, shapes=shapes, metadata=file.metadata() or {})
    except SafetensorError:
        return Facts(path, head=head)


def describe_kind(path: Path) -> str | None:
    """What a file or folder is, if it is known and no weights, and what to do about it."""
    try:
        return _describe(look_at(path))
    except OSError:
        return None


def _describe(facts: Facts) -> str | None:
    folder = facts.path if facts.names else facts.path.parent
    for kind in KINDS:
        if kind.tell(facts):
            return f"{kind.name} {kind.way_out.format(folder=folder)}"
    return None


def require_gpt2(path: Path, gpt: GPTConfig) -> None:
    """Raise :class:`DataError` for a file that is evidently not a GPT-2 of this size.

    What is damaged, or no safetensors file of a known kind, is left to whoever loads it.
    """
    try:
        facts = look_at(path)
    except OSError as error:
        raise DataError(f"--weights {path} cannot be read ({error}). Name another file.") from error
    if kind := _describe(facts):
        raise DataError(f"--weights {path}: this is {kind}")
    if misfit := facts.shapes and _find_misfit(facts.shapes, gpt):
        raise DataError(f"--weights {path}: the file holds {misfit}")


def _find_misfit(shapes: Mapping[str, tuple[int, ...]], gpt: GPTConfig) -> str | None:
    """What tensors are instead, if they are another model or a GPT-2 of another size."""
    shapes = {name.removeprefix("transformer."): shape for name, shape in shapes.items()}
    if "wte.weight" not in shapes:
        return f"no GPT-2: its tensors have names like {', '.join(sorted(shapes)[:3])}. Give one."
    blocks = Counter(name.split(".")[1] for name in shapes if re.match(r"h\.\d+\.", name))
    # A block that lacks a tensor, or a tensor that belongs to none, is damage and not another size.
    n_layers = sum(n > TENSORS_OF_A_BLOCK // 2 for n in blocks.values())
    found = (*shapes["wte.weight"][-1:], n_layers)
    if found == (gpt.emb_dim, gpt.n_layers):
        return None
    for name, size in MODEL_SIZES.items():
        if found == (size.emb_dim, size.n_layers):
            return f'a GPT-2 of another size: it seems to be "{name}". Add --model_size "{name}".'
    return (
        f"{n_layers} blocks, and {found[0]} numbers for a token, which is no size that "
        "--model_size has. Give a GPT-2 of such a size."
    )
