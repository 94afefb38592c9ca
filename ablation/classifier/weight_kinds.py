"""What a file or folder is that was given as weights, and is none that training can start from.

Kinds are told by first bytes, names and shapes; nothing of a file is run or unpickled.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from ablation.config.sizes import MODEL_SIZES, PUBLISHED_WEIGHTS, GPTConfig
from ablation.system.errors import DataError

HEAD_BYTES = 1024
TENSORS_OF_A_BLOCK = 12  # and masks, in some files


class Kind(NamedTuple):
    """A kind of file or folder mistaken for weights, how it is told, and what to do about it.

    ``signs`` are regular expressions, any of which tells it: of names of ``tensors``, or keys of
    ``metadata``, of a safetensors file; of the ``head`` of any other file; of the name of that
    ``file``, of an ``entry`` of a folder, or either (``name``); of any ``path``, whatever is in it.
    """

    signs: dict[str, str]
    what: str
    way_out: str  # {folder} stands for the folder


SAVE_AGAIN = (
    "Save it once more with transformers, as one safetensors file: AutoModelForCausalLM"
    '.from_pretrained("{folder}").save_pretrained("OTHER", max_shard_size="20GB"), and give OTHER.'
)
STARTS = "--weights takes what training starts from."
ORIGINAL = "Take the model's safetensors file, from where this one was made."

KINDS = (
    Kind(
        {"tensors": r"generators\.now"},
        "a checkpoint of a run, which --resume goes on from.",
        f"Repeat the run's command with --resume. {STARTS}",
    ),
    Kind(
        {"metadata": "header"},
        "the model that a run kept with --save_model: what was trained, without what is below it.",
        f"Classify texts with it: python predict.py {{folder}}. {STARTS}",
    ),
    Kind(
        {
            "name": r"adapter_(config|model)\..*",
            "tensors": r"base_model\.model\..*|prompt_embeddings|.*\.lora_(A|B|embedding).*",
        },
        "an adapter, which is of use only on top of the weights that it was trained on.",
        "Merge it into them with PEFT (merge_and_unload, then save_pretrained) and give that "
        "folder, or train one here with --trainable_layers lora.",
    ),
    Kind(
        {"tensors": r"(score|classifier)\..*"},
        "a trained classifier as transformers has it, and as --export_hf writes it.",
        'Use it with transformers: pipeline("text-classification", model="{folder}"). For '
        f"predict.py, train with --save_model. {STARTS}",
    ),
    Kind(
        {"name": r"result\.json"},
        "the folder of a run.",
        f"Go on with the run by its own command with --resume, or compare it with --compare. "
        f"{STARTS}",
    ),
    Kind(
        {"name": r".*\.index\.json", "path": r".*-\d+-of-(?!0*1\.)\d+\..*"},
        "a model in several files, or one of them.",
        SAVE_AGAIN,
    ),
    Kind(
        {"head": r"version https://git-lfs"},
        "a git-lfs pointer, which stands for a file and does not hold it.",
        'Get the file itself: run "git lfs pull" in {folder}, or download it.',
    ),
    Kind(
        {"head": r"GGUF|lmgg|fmgg|tjgg", "name": r".*\.(gguf|ggml)"},
        "a GGUF or GGML file, for llama.cpp.",
        ORIGINAL,
    ),
    Kind(
        {"head": r"\x93NUMPY|PK\x03\x04.{0,100}\.npy"},
        "a NumPy array.",
        "Give a GPT-2 as a safetensors file, with the names of tensors that transformers uses.",
    ),
    Kind(
        {
            # Not the length of a safetensors header, which may begin alike.
            "head": r"\x80[\x02-\x05](?!\0{6}\{)|PK\x03\x04.{0,200}data\.pkl",
            "name": r".*\.(bin|pt|pth|pkl)",
        },
        "a PyTorch pickle. Reading one can run code, so this program reads none.",
        SAVE_AGAIN,
    ),
    Kind(
        {
            "head": r"\x89HDF\r\n",
            "name": r".*\.(h5|keras|msgpack)|.*\.ckpt.*|saved_model\.pb|hparams\.json",
        },
        "a model for TensorFlow, Keras or Flax.",
        SAVE_AGAIN,
    ),
    Kind(
        {"head": r"\x08[\x01-\x0f]\x12.{1,2}pytorch", "name": r".*\.onnx"},
        "a model for ONNX.",
        ORIGINAL,
    ),
    Kind(
        {"head": r"(\xef\xbb\xbf)?\s*<"},
        "a web page, which came in place of a file.",
        "Download the file again, perhaps after logging in.",
    ),
    Kind(
        {"head": r"PK\x03\x04|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd|.{257}ustar"},
        "an archive.",
        "Unpack it, and give the safetensors file that it holds.",
    ),
    Kind(
        {"file": r".*\.(json|txt|md)"},
        "text, as it may lie beside weights.",
        "Give the safetensors file itself.",
    ),
    Kind(
        {"entry": "|".join(published.name for published in PUBLISHED_WEIGHTS.values())},
        "a folder as --weights_dir takes it.",
        "Give --weights_dir {folder}, and leave --weights out.",
    ),
    Kind(
        {"name": r"snapshots|models--.+|[0-9a-f]{40}"},
        "a folder of Hugging Face's cache.",
        "Give the folder in a model's snapshots that has the file.",
    ),
)


def describe_kind(path: Path) -> str | None:
    """What a file or folder is, if it is known and no weights, and what to do about it."""
    try:
        return _describe(path, _look_at(path)[0])
    except OSError:
        return None


def require_gpt2(path: Path, gpt: GPTConfig) -> None:
    """Raise :class:`DataError` for a file that is evidently not a GPT-2 of this size.

    What is damaged, or no safetensors file of a known kind, is left to whoever loads it.
    """
    try:
        seen, shapes = _look_at(path)
    except OSError as error:
        raise DataError(f"--weights {path} cannot be read ({error}). Name another file.") from error
    if kind := _describe(path, seen):
        raise DataError(f"--weights {path}: this is {kind}")
    if misfit := shapes and _describe_misfit(shapes, gpt):
        raise DataError(f"--weights {path}: the file holds {misfit}")


def _look_at(path: Path) -> tuple[dict[str, list[str]], dict[str, tuple[int, ...]]]:
    """What :class:`Kind` has signs of, and the shapes of the tensors of a safetensors file. Raises
    ``OSError`` if it cannot be read, or is neither a file nor a folder."""
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        return {"entry": names, "name": names, "path": names}, {}
    if path.exists() and not path.is_file():
        raise OSError("it is neither a file nor a folder")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).decode("latin-1")
    name = [path.name]
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = list(file.keys())
            shapes = {tensor: tuple(file.get_slice(tensor).get_shape()) for tensor in tensors}
            seen = {"path": name, "tensors": tensors, "metadata": list(file.metadata() or ())}
            return seen, shapes
    except SafetensorError:
        return {"head": [head], "file": name, "name": name, "path": name}, {}


def _describe(path: Path, seen: Mapping[str, list[str]]) -> str | None:
    folder = path if "entry" in seen else path.parent
    for kind in KINDS:
        for where, pattern in kind.signs.items():
            matches = re.match if where == "head" else re.fullmatch
            if any(matches(pattern, text, re.DOTALL) for text in seen.get(where, ())):
                return f"{kind.what} {kind.way_out.format(folder=folder)}"
    return None


def _describe_misfit(shapes: Mapping[str, tuple[int, ...]], gpt: GPTConfig) -> str | None:
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
        f"{n_layers} blocks, and {found[0]} numbers for a token, which is not a size that "
        "--model_size has. Give a GPT-2 of such a size."
    )
