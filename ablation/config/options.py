"""What one experiment is: every option with its default, what it may be, and its help.

Tags say what an option is about, wherever that matters:

- ``circumstance``: it may differ without making a run another run.
- ``repeat``: it makes another run of the same experiment.
- ``local``: it may differ between the machines that share a run.
- ``dataset``: it means something only with ``--dataset``; ``lora``: only if LoRA trains.
- ``same_test``: of those of a data set, it leaves the same rows in the test.
- ``model``: it says what a kept classifier is; ``shape``: which parameters there are, their
  dtypes, and which of them train; ``machine``: a kept classifier may need another.
"""

import re
from dataclasses import dataclass, replace

from ablation.config.flag_types import Number, Text, one_of, option, options_of
from ablation.config.sizes import MODEL_SIZES, GPTConfig

TRAINABLE_LAYERS = (
    *("last_layer", "last_block", "last_two_blocks", "all"),
    *("lora", "lora_alternative"),
)
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
BETWEEN_COLUMNS = " + "  # the names of those that make one text
CONTEXT_LENGTHS = ("longest_training_example", "model_context_length")
# The title of each group of options, and its first option.
GROUPS = {
    "model": "model_size",
    "what trains, and what is read": "trainable_layers",
    "data": "data_dir",
    "training": "num_epochs",
    "run": "eval_freq",
}


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


def plain_columns(names: str) -> str:
    """Columns with no zeros before their numbers, so that one column has one name."""
    return BETWEEN_COLUMNS.join(
        (name.lstrip("0") or "0") if name.isdecimal() else name for name in split_columns(names)
    )


def split_columns(names: str) -> list[str]:
    """The columns that a value of ``--text_column`` names."""
    return names.split(BETWEEN_COLUMNS)


POSITIVE = Number(float, 0, above=True)
SHARE = Number(float, 0, 1, above=True, below=True)
DIR, FILE, NAME = Text("DIR"), Text("FILE"), Text("NAME")
COLUMN = Text("NAME", parse=plain_columns)
COLUMNS = replace(COLUMN, glue=BETWEEN_COLUMNS)


@dataclass(frozen=True)
class ExperimentConfig:
    """One experiment. The defaults are row 1; each field is the flag of the same name."""

    model_size: str = option(
        "gpt2-small (124M)", Text("SIZE", MODEL_SIZES, model_size), "model", "shape"
    )
    """size of the GPT-2: {names}; a part of the name is enough, such as medium or 355M"""
    weights: str = option("pretrained", Text("pretrained|random|PATH"), "machine")
    """pretrained: the published ones; random; or the PATH of a GPT-2 safetensors file, or of a
    folder that holds one"""
    weights_dir: str | None = option(None, DIR, "circumstance", "local", "machine")
    """folder of published weights, as DIR/gpt2/model.safetensors; they are downloaded to it, or
    without it to the Hugging Face cache, unless one of the two has them"""
    disable_causal_mask: bool = option(False, None, "model")
    """let every token attend to every other, not only to those before it"""
    trainable_layers: str = option("last_block", Text("LAYERS", TRAINABLE_LAYERS), "model", "shape")
    """what trains: last_layer (the classifier), last_block (also the last block and the final
    norm), last_two_blocks, all, lora (LoRA matrices and the classifier), or lora_alternative
    (the same function, with the product added to the weight first)"""
    lora_rank: int = option(8, Number(high=6400), "lora", "model", "shape")
    """rank of the LoRA matrices"""
    lora_alpha: float = option(8.0, POSITIVE, "lora", "model")
    """plain multiplier of the LoRA product, not divided by the rank"""
    trainable_token_pos: str = option("last", one_of("first", "last", "flexible"), "model")
    """position whose logits are trained and read: first, last (which may be padding), or flexible
    (each text's own last token)"""
    average_embeddings: bool = option(False, None, "model")
    """read the mean over all positions instead; with flexible, over the text's own tokens"""
    ignore_index: int = option(-100, Number(low=-(10**9)))
    """number of a class to leave out of the loss; no effect if there is no such class"""
    class_weights: str = option("none", one_of("none", "balanced"))
    """balanced: in the loss, a text counts n / (classes * texts of its class), of the training
    texts, so that rare classes count as much as frequent ones. Printed losses are weighted too"""
    data_dir: str = option("data", DIR, "circumstance", "local")
    """folder of the SMS Spam Collection, which is downloaded if it is not there"""
    dataset: str | None = option(None, FILE, "local")
    """train on your own texts and classes instead: a CSV, TSV, JSON lines or Parquet file, also
    as .gz"""
    text_column: str = option("Text", COLUMNS, "dataset", "same_test", nargs="+")
    """name of the text column, or its number from 1, for files whose first line has no names
    (if it has, add --header yes). Several columns are one text, a line break between them:
    --text_column subject body, or "subject + body\""""
    label_column: str = option("Label", COLUMN, "dataset")
    """name of the label column, or its number"""
    header: str = option("auto", one_of("auto", "yes", "no"), "dataset")
    """whether the first line has the names of columns: auto (yes if you give columns by name),
    yes, or no (even if it looks like names)"""
    delimiter: str | None = option(None, one_of(*DELIMITERS, parse=delimiter), "dataset")
    """what separates columns; by default, found in the first lines, or in a line such as sep=;"""
    encoding: str = option("utf-8", NAME, "dataset")
    """character encoding of the file, such as cp1252, latin-1 or utf-16"""
    quoting: str = option("auto", one_of("auto", "csv", "none"), "dataset")
    """csv: quotes may hold texts of several lines; auto: the same, but such a text is refused if
    it may be several rows; none: quotes are ordinary characters"""
    drop_incomplete: bool = option(False, None, "dataset")
    """leave out rows that lack a label, a text or, with --group_column, a group (empty, spaces, NA,
    NaN, null, ...)"""
    min_texts_per_class: int | None = option(None, Number(), "dataset")
    """leave out classes that have fewer texts than this in --dataset"""
    val_fraction: float = option(0.1, SHARE, "dataset")
    """share of --dataset for validation"""
    test_fraction: float = option(0.2, SHARE, "dataset")
    """share of --dataset for the test"""
    val_dataset: str | None = option(None, FILE, "dataset", "local")
    """file for validation, instead of a share of --dataset"""
    test_dataset: str | None = option(None, FILE, "dataset", "local")
    """file for the test, instead of a share of --dataset"""
    group_column: str | None = option(None, COLUMN, "dataset")
    """name or number of a column of groups, such as senders: texts of one group stay in one part"""
    fold: str | None = option(None, Text("I/K"), "dataset", "repeat")
    """take fold I of K for the test, such as 2/5; the K tests have no text in common, and together
    they are the whole file"""
    balance: bool = option(False, None, "dataset", "same_test")
    """train on as many texts of each class as of the rarest, drawn at random; validation and test
    stay as they are"""
    demo: bool = option(False, None, "model")
    """synthetic messages and byte-level tokens, with nothing to download; uses
    --model_size tiny --weights random --learning_rate 5e-4 unless you say otherwise"""
    context_length: int | str = option(
        "longest_training_example", Number(high=GPTConfig.context_length, names=CONTEXT_LENGTHS)
    )
    """tokens that texts are truncated and padded to; model_context_length is 1024"""
    no_padding: bool = option(False, None, "model")
    """every text keeps its own length; needs --batch_size 1"""
    num_epochs: int = option(5, Number(high=10**6))
    """passes over the training texts"""
    batch_size: int = option(8, Number())
    """texts in a batch"""
    accumulation_steps: int = option(1, Number())
    """batches whose gradients make one update"""
    learning_rate: float = option(5e-5, POSITIVE)
    """learning rate of AdamW"""
    weight_decay: float = option(0.1, Number(float, 0))
    """weight decay of AdamW"""
    max_steps: int | None = option(None, Number())
    """stop training after this many batches"""
    keep_best: bool = option(False)
    """evaluate the whole validation part after each epoch, and end with the weights of the epoch
    that has the best accuracy there (of equal ones, the lowest loss)"""
    stop_after: int | None = option(None, Number())
    """stop when so many epochs in a row were not better than the best before them; the same
    evaluation decides. Add --keep_best to end with the weights of the best"""
    eval_freq: int = option(50, Number())
    """batches from one printed loss to the next"""
    eval_iter: int = option(5, Number())
    """batches averaged for each printed loss"""
    seed: int = option(123, Number(low=0, high=2**63 - 1), "repeat", "model")
    """for weights, classifier, LoRA and batches; the split has its own"""
    device: str = option("auto", one_of("auto", "cpu", "cuda", "mps"), "circumstance", "machine")
    """where to compute; auto is cuda if there is one, else cpu"""
    precision: str = option("fp32", one_of("fp32", "tf32", "bf16"), "model", "shape")
    """number format of matrix products: fp32, tf32 (on CUDA only), or bf16 (trained weights and
    the classifier stay in fp32)"""
    no_feature_reuse: bool = option(False, None, "circumstance")
    """compute everything at every step, even what never changes: slow, but the yardstick for the
    fast path"""
    feature_memory: float | None = option(None, Number(float, 0), "circumstance")
    """gigabytes of hidden states to keep in memory; more than that goes to disk; by default, half
    of what is free"""
    feature_store: str | None = option(None, Text("DIR|off"), "circumstance", "local")
    """folder where hidden states that took long to compute are kept for other commands; by default
    features below --data_dir. Delete it to empty it; off keeps none"""
    feature_store_gb: float = option(5.0, Number(float, 0), "circumstance", "local")
    """gigabytes that --feature_store may take; beyond that, the least recently used is deleted"""
    offline: bool = option(False, None, "circumstance", "local", "machine")
    """never use the network; whatever is missing is an error. HF_HUB_OFFLINE=1 and
    TRANSFORMERS_OFFLINE=1 mean the same"""

    @property
    def gpt(self) -> GPTConfig:
        """The model's shape, without the switch of the causal mask."""
        return MODEL_SIZES[self.model_size]

    @property
    def uses_lora(self) -> bool:
        """Whether LoRA matrices train."""
        return self.trainable_layers.startswith("lora")


OPTIONS = options_of(ExperimentConfig)


def read_fold(text: str) -> tuple[int, int]:
    """The number of a fold, from 1, and how many there are. Raises ``ValueError`` if it is none."""
    if not re.fullmatch(r"[1-9][0-9]{0,3}/[1-9][0-9]{0,3}", text):
        raise ValueError(text)
    number, n = map(int, text.split("/"))
    if number > n or n < 2:
        raise ValueError(text)
    return number, n


def tagged(*tags: str) -> list[str]:
    """The names of the options with one of these tags."""
    return [name for name, one in OPTIONS.items() if not one.tags.isdisjoint(tags)]


def without(*tags: str) -> list[str]:
    """The names of the others."""
    return [name for name, one in OPTIONS.items() if one.tags.isdisjoint(tags)]


def changed_options(config: ExperimentConfig) -> dict[str, object]:
    """The options that differ from their defaults, with their values."""
    values = {name: getattr(config, name) for name in OPTIONS}
    return {name: v for name, v in values.items() if v != OPTIONS[name].default}
