"""What one experiment is: every option with its default, and the rules between options."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from dataclasses import Field, dataclass, field, fields
from typing import Any

from ablation.config.sizes import MODEL_SIZES, GPTConfig
from ablation.system.errors import shorten

TRAINABLE_LAYERS = (
    "last_layer",
    "last_block",
    "last_two_blocks",
    "all",
    "lora",
    "lora_alternative",
)
TOKEN_POSITIONS = ("first", "last", "flexible")
CONTEXT_LENGTHS = ("longest_training_example", "model_context_length")
PRECISIONS = ("fp32", "tf32", "bf16")
DEVICES = ("auto", "cpu", "cuda", "mps")
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
QUOTINGS = ("auto", "csv", "none")
HEADERS = ("auto", "yes", "no")
GROUPS = ("model", "what trains, and what is read", "data", "training", "run")


def context_length(text: str) -> int | str:
    """A number of tokens where the text is one, else the text: a name."""
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else text


def model_size(text: str) -> str:
    """The full name of the size that has a part of that name: gpt2-medium, medium or 355M."""
    for name in MODEL_SIZES:
        if text.casefold() in re.fullmatch(r"(gpt2-(\w+)) \((\w+)\)", name.casefold()).groups():
            return name
    return text


def delimiter(text: str) -> str:
    """The name of a delimiter that is given by its name or as it is; else the text."""
    names = {character: name for name, character in DELIMITERS.items()}
    return {**names, r"\t": "tab"}.get(text, text)


def option(
    default: Any,
    group: str,
    help: str,
    *,
    parse: Callable[[str], Any] | None = None,
    choices: Collection[str] = (),
    minimum: float = -math.inf,
    maximum: float = 10**9,
    above: float = -math.inf,
    below: float = math.inf,
    metavar: str | None = None,
) -> Any:
    """A field of :class:`ExperimentConfig`: all that is to be known about one flag.

    ``parse`` reads its text (by default with the type of the default); ``choices``,
    ``minimum``, ``maximum`` (inclusive), ``above`` and ``below`` (exclusive) say what is allowed.
    """
    return field(
        default=default,
        metadata={
            "group": group,
            "help": help,
            "parse": parse or type(default),
            "choices": tuple(choices),
            "minimum": minimum,
            "maximum": maximum,
            "above": above,
            "below": below,
            "metavar": metavar,
        },
    )


@dataclass(frozen=True)
class ExperimentConfig:
    """One experiment. The defaults are row 1; each field is the flag of the same name."""

    model_size: str = option(
        "gpt2-small (124M)",
        GROUPS[0],
        "size of the GPT-2: " + ", ".join(f'"{name}"' for name in MODEL_SIZES) + ", or a part of "
        "that, as medium or 355M",
        parse=model_size,
        choices=MODEL_SIZES,
        metavar="SIZE",
    )
    weights: str = option(
        "pretrained",
        GROUPS[0],
        "pretrained: the published ones; random; or the PATH of a GPT-2 safetensors file, or of "
        "a folder that holds one",
        metavar="pretrained|random|PATH",
    )
    weights_dir: str | None = option(
        None,
        GROUPS[0],
        "folder of published weights: DIR/gpt2/model.safetensors and so on are read from it, and "
        "downloaded to it if neither it nor the Hugging Face cache holds them; without it, they "
        "are downloaded to that cache",
        parse=str,
        metavar="DIR",
    )
    disable_causal_mask: bool = option(
        False, GROUPS[0], "let every token attend to every other, not only to those before it"
    )
    trainable_layers: str = option(
        "last_block",
        GROUPS[1],
        "what trains: last_layer (the classifier), last_block (also the last block and the final "
        "norm), last_two_blocks, all, lora (LoRA matrices and the classifier), or "
        "lora_alternative (the same function, the product added to the weight first)",
        choices=TRAINABLE_LAYERS,
        metavar="LAYERS",
    )
    lora_rank: int = option(
        8, GROUPS[1], "rank of the LoRA matrices", minimum=1, maximum=6400, metavar="N"
    )
    lora_alpha: float = option(
        8.0,
        GROUPS[1],
        "plain multiplier of the LoRA product, not divided by the rank",
        above=0,
        metavar="X",
    )
    trainable_token_pos: str = option(
        "last",
        GROUPS[1],
        "position whose logits are trained and read: first, last (which may be padding), or "
        "flexible (each text's own last token)",
        choices=TOKEN_POSITIONS,
        metavar="POSITION",
    )
    average_embeddings: bool = option(
        False,
        GROUPS[1],
        "read the mean over all positions instead; with flexible, over the text's own tokens",
    )
    ignore_index: int = option(
        -100,
        GROUPS[1],
        "class that the loss leaves out; inert unless it is the number of one: 0, 1, ...",
        minimum=-(10**9),
        metavar="N",
    )
    data_dir: str = option(
        "data",
        GROUPS[2],
        "folder of the SMS Spam Collection, downloaded to it if it is not there",
        metavar="DIR",
    )
    dataset: str | None = option(
        None,
        GROUPS[2],
        "file of your own texts and their classes, two or more, instead: CSV, TSV, JSON lines or "
        "Parquet, or one of them as .gz",
        parse=str,
        metavar="FILE",
    )
    text_column: str = option(
        "Text",
        GROUPS[2],
        "name of the column of texts in --dataset; or its number, from 1, which means that the "
        "first line has no names, unless --header yes is given",
        metavar="NAME",
    )
    label_column: str = option(
        "Label", GROUPS[2], "name of the label column, or its number", metavar="NAME"
    )
    header: str = option(
        "auto",
        GROUPS[2],
        "whether the first line has the names of columns: auto (yes if the columns are given by "
        "name), yes, or no (also where it looks like names)",
        choices=HEADERS,
    )
    delimiter: str | None = option(
        None,
        GROUPS[2],
        "what separates columns: comma, semicolon, tab or pipe; by default, this is found from the "
        "first lines, or from an Excel line such as sep=;",
        parse=delimiter,
        choices=DELIMITERS,
    )
    encoding: str = option(
        "utf-8", GROUPS[2], "of the characters, such as cp1252, latin-1 or utf-16", metavar="NAME"
    )
    quoting: str = option(
        "auto",
        GROUPS[2],
        "auto: quotes as in CSV, but a text of several lines is refused if it holds tabs or pipes "
        "that are delimiters, or if each of its lines could be a row; csv: such texts are read; "
        "none: quotes are ordinary characters",
        choices=QUOTINGS,
    )
    drop_incomplete: bool = option(
        False,
        GROUPS[2],
        "leave out rows that lack a label or a text (empty, spaces, NA, NaN, null, ...)",
    )
    min_texts_per_class: int | None = option(
        None,
        GROUPS[2],
        "leave out classes that have fewer texts than this in --dataset",
        parse=int,
        minimum=1,
        metavar="N",
    )
    val_fraction: float = option(
        0.1,
        GROUPS[2],
        "share of --dataset for validation",
        above=0,
        below=1,
        maximum=math.inf,
        metavar="X",
    )
    test_fraction: float = option(
        0.2,
        GROUPS[2],
        "share of --dataset for the test",
        above=0,
        below=1,
        maximum=math.inf,
        metavar="X",
    )
    val_dataset: str | None = option(
        None,
        GROUPS[2],
        "file for validation, which is then not taken from --dataset",
        parse=str,
        metavar="FILE",
    )
    test_dataset: str | None = option(
        None,
        GROUPS[2],
        "file for the test, which is then not taken from --dataset",
        parse=str,
        metavar="FILE",
    )
    balance: bool = option(
        False,
        GROUPS[2],
        "train on as many texts of each class of --dataset as of its rarest, by chance; "
        "validation and test stay as they are",
    )
    demo: bool = option(
        False,
        GROUPS[2],
        "synthetic messages and byte-level tokens, with nothing to download; by default with "
        '--model_size "gpt2-tiny (3M)" --weights random --learning_rate 5e-4',
    )
    context_length: int | str = option(
        "longest_training_example",
        GROUPS[2],
        "tokens that texts are truncated and padded to: longest_training_example, "
        "model_context_length (1024), or a number",
        parse=context_length,
        metavar="LENGTH",
    )
    no_padding: bool = option(
        False, GROUPS[2], "every text keeps its own length; needs --batch_size 1"
    )
    num_epochs: int = option(
        5, GROUPS[3], "passes over the training texts", minimum=1, maximum=10**6, metavar="N"
    )
    batch_size: int = option(8, GROUPS[3], "texts in a batch", minimum=1, metavar="N")
    accumulation_steps: int = option(
        1, GROUPS[3], "batches whose gradients make one update", minimum=1, metavar="N"
    )
    learning_rate: float = option(5e-5, GROUPS[3], "of AdamW", above=0, metavar="X")
    weight_decay: float = option(0.1, GROUPS[3], "of AdamW", minimum=0, metavar="X")
    max_steps: int | None = option(
        None,
        GROUPS[3],
        "stop training after this many batches",
        parse=int,
        minimum=1,
        metavar="N",
    )
    eval_freq: int = option(
        50, GROUPS[4], "batches from one printed loss to the next", minimum=1, metavar="N"
    )
    eval_iter: int = option(
        5, GROUPS[4], "batches averaged for each printed loss", minimum=1, metavar="N"
    )
    seed: int = option(
        123,
        GROUPS[4],
        "of weights, classifier, LoRA and batches; the split has its own",
        minimum=0,
        maximum=2**63 - 1,
        metavar="N",
    )
    device: str = option(
        "auto",
        GROUPS[4],
        "where to compute; auto is cuda where there is one, else cpu",
        choices=DEVICES,
    )

    precision: str = option(
        "fp32",
        GROUPS[4],
        "number format of matrix products: fp32, tf32 (on CUDA only), or bf16 (trained "
        "weights and the classifier stay in fp32)",
        choices=PRECISIONS,
    )
    no_feature_reuse: bool = option(
        False,
        GROUPS[4],
        "compute everything at every step, even what never changes: slow, and the yardstick for "
        "the fast path",
    )
    feature_memory: float | None = option(
        None,
        GROUPS[4],
        "gigabytes that hidden states may take in memory; beyond, they are kept on disk; by "
        "default, half of what is free",
        parse=float,
        minimum=0,
        metavar="GB",
    )
    offline: bool = option(
        False,
        GROUPS[4],
        "touch no network: what is not there is an error; HF_HUB_OFFLINE=1 and "
        "TRANSFORMERS_OFFLINE=1 mean the same",
    )

    @property
    def gpt(self) -> GPTConfig:
        """The model's shape, without the switch of the causal mask."""
        return MODEL_SIZES[self.model_size]

    @property
    def uses_lora(self) -> bool:
        """Whether LoRA matrices train."""
        return self.trainable_layers.startswith("lora")


OPTIONS = {config_field.name: config_field for config_field in fields(ExperimentConfig)}


def parse_options(texts: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Convert the texts of flags. Returns the values, and a problem for each other text."""
    values, problems = {}, []
    for name in texts:
        try:
            values[name] = parse_value(OPTIONS[name], texts[name], f"--{name}")
        except ValueError as error:
            problems.append(str(error))
    return values, problems


def parse_value(config_field: Field, text: str, flag: str) -> Any:
    """The value of an option. Raises ``ValueError``, for people, if the text has none."""
    try:
        return config_field.metadata["parse"](text)
    except ValueError:
        raise ValueError(f"{flag} {shorten(text)}: not {describe_number(config_field)}") from None


LIMIT_WORDS = (
    ("minimum", "of at least"),
    ("maximum", "up to"),
    ("above", "above"),
    ("below", "below"),
)


def describe_number(config_field: Field) -> str:
    """What a number may be: "a whole number of at least 1 (default: 8)"."""
    rules = config_field.metadata
    kind = "a number" if rules["parse"] is float else "a whole number"
    limits = [
        f" {word} {rules[bound]}" for bound, word in LIMIT_WORDS if math.isfinite(rules[bound])
    ]
    return f"{kind}{','.join(limits)} (default: {show_default(config_field)})"


def show_default(config_field: Field) -> str:
    """An option's default as a user would type it, or "none", or "off"."""
    default = config_field.default
    if isinstance(default, float):
        return f"{default:g}"
    return {None: "none", False: "off"}.get(default, str(default))
