"""The flags of additional_experiments.py: what is to be done, and every option of a run."""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ablation.config.cluster_request import LOCAL
from ablation.config.flag_types import MANY, Number, Option, Text, one_of, option, options_of
from ablation.config.options import GROUPS, OPTIONS
from ablation.config.rows import SOURCE
from ablation.config.runs import EPOCH
from ablation.config.tables import parse_rows
from ablation.system.console import Once, Parser
from ablation.system.errors import Problem, shorten

DESCRIPTION = """\
Finetune a GPT-2 as a classifier, and see which choices matter.

  python additional_experiments.py --demo
      try it: a small run on synthetic messages, with nothing to download
  python additional_experiments.py --rows 1-5,16 --num_seeds 5
      a sweep: rows of the README's table, five seeds each, and a report
  python additional_experiments.py --dataset my.csv --text_column review \\
      --label_column stars --save_model
      your own texts, and a classifier for predict.py

Without flags it runs row 1, on the SMS Spam Collection. --rows list prints all
rows, with what they cost."""
# What people call flags that have another name here.
MEANT = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "gradient_accumulation": "accumulation_steps",
    "max_length": "context_length",
    "pooling": "average_embeddings",
    "output": "output_dir",
    "gpu": "device cuda",
    "cuda": "device cuda",
    "cpu": "device cpu",
    "bf16": "precision bf16",
}


@dataclass(frozen=True)
class Actions:
    """What is to be done, and not how a run is made; each field is the flag of the same name."""

    rows: tuple[str, ...] | None = option(None, Text("ROWS", may_be_empty=True), nargs="+")
    """the flags of row N, or of many: 1-5,16, or all. Other flags win over them, and then a run is
    a variant of its row. list prints the rows and runs none"""
    table: str | None = option(None, Text("FILE"))
    """take the rows from a TOML file, all of them unless --rows names some; docs/sweeps.md says
    what it holds"""
    vary: tuple[str, ...] | None = option(None, Text("OPTION=V1,V2,..."), nargs=MANY)
    """other values of an option, each a change to the flags beside it, or to each of --rows, and
    compared with these; several options, or --vary several times. A switch is on or off"""
    cross: bool = option(False)
    """with --vary: every combination of the values instead"""
    yes: bool = option(False)
    """with --vary: run also more than 1,000 runs"""
    seeds: tuple[int, ...] | None = option(None, OPTIONS["seed"].values, nargs="+")
    """run each row with each of these seeds"""
    num_seeds: int | None = option(None, Number(high=1000))
    """run each row with this many seeds, from --seed on; a comparison needs 2 or more, and 5 to 10
    to show a difference of a few points"""
    folds: int | None = option(None, Number(low=2, high=1000))
    """with --dataset: run each row with each seed on N splits, so that each text is in the test of
    one; docs/statistics.md says what that shows"""
    output_dir: str = option("runs", Text("DIR"))
    """folder for the records of runs and the report on them; with --demo it is runs/demo"""
    resume: bool = option(False)
    """go on from the last checkpoint of this run, if there is one; sweeps always do"""
    checkpoint_every: int | str | None = option(None, Number(names=(EPOCH,)))
    """write a checkpoint after every N batches, or after each epoch, which is the default with
    --resume, --save_model and --export_hf"""
    save_model: bool = option(False)
    """keep the trained classifier in the run's folder, for predict.py"""
    export_hf: str | None = option(None, Text("DIR"))
    """write the trained classifier to a folder that Hugging Face transformers can load, and LoRA
    also as an adapter for PEFT"""
    track: str | None = option(None, one_of("tensorboard", "wandb", "trackio", "mlflow"))
    """show losses, accuracies, options and figures to a tracker, which writes below --output_dir
    and sends nothing elsewhere, unless you have told it where (see docs/sweeps.md)"""
    no_watch: bool = option(False)
    """on a terminal, show a bar instead of the panel with losses, accuracies and the time left"""
    ray: str | None = option(None, Text("ADDRESS"), nargs="?", const=LOCAL)
    """run on Ray: without ADDRESS, started on this machine; HOST:PORT, on that cluster; auto, on
    the one this machine has joined"""
    gpus_per_run: float = option(1.0, Number(float, 0.0001, 1))
    """with --ray, how much of a GPU each task takes, where there are GPUs: 1, or less for several
    at once on one GPU"""
    cpus_per_run: int | None = option(None, Number(high=9999))
    """with --ray, cores that each task takes where no GPU is used; by default, all of the smallest
    node"""
    dry_run: bool = option(False)
    """print the runs, which of them are done, and about how long the others take, and run none;
    with --vary also its table, for --table"""
    report: bool = option(False)
    """report on the records in --output_dir, and run nothing"""
    open: bool = option(False)
    """with --report or a sweep: open the page in a browser when it is written"""
    compare: tuple[str, ...] | None = option(None, Text(("A", "B")), nargs=2)
    """compare two rows by their numbers, with all seeds that both have, or two recorded runs by
    their folders, on the same test messages, and run nothing"""
    plan: float | None = option(None, Number(float, 0, 50, above=True))
    """say how many seeds and test texts it takes until a difference of so many points shows, from
    the runs in --output_dir, if there are any, and run nothing"""
    fail_unless: tuple[str, ...] | None = option(None, Text("EXPRESSION"), nargs=MANY)
    """with a sweep or --report: exit with 1 if the report contradicts an expression such as
    "row 16 > row 1", and with 3 if it cannot decide; several are allowed"""
    list: bool = option(False)
    """print the rows: question, command, published figures, and what they cost here"""
    version: bool = option(False)
    """print the versions of this code and of PyTorch"""


ACTIONS = options_of(Actions)


def build_parser() -> Parser:
    """A flag for each action, and for each option by group."""
    parser = Parser(
        usage="python additional_experiments.py [--flag value ...]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser, ACTIONS.values())
    titles = {name: title for title, name in GROUPS.items()}
    for option_ in OPTIONS.values():
        if option_.name in titles:
            group = parser.add_argument_group(titles[option_.name])
        add_flags(group, [option_])
    return parser


def add_flags(parser: argparse._ActionsContainer, options: Iterable[Option]) -> None:
    """Add a flag for each option.

    Texts are not converted, and no default is set, so that what was given can be told from what
    was not, and all problems are named together.
    """
    for option_ in options:
        kind = {"action": "store_true"}
        if option_.values:
            kind = {"action": Once, "metavar": option_.values.metavar}
            kind |= {"nargs": option_.nargs, "const": option_.const}
            if option_.nargs == MANY:
                kind |= {"action": "extend", "nargs": "+"}
        parser.add_argument(
            f"--{option_.name}",
            help=f"{option_.help} (default: {option_.shown_default})".replace("%", "%%"),
            default=argparse.SUPPRESS,
            **kind,
        )


def unknown_problems(unknown: Sequence[str], explained: bool) -> list[Problem]:
    """A problem for each argument that belongs to no flag.

    Args:
        explained: another problem says why words stand alone.
    """
    flags = [argument.split("=")[0] for argument in unknown if argument.startswith("-")]
    words = " ".join(argument for argument in unknown if not argument.startswith("-"))
    problems = []
    for flag in flags:
        nearest = " or ".join(f"--{name}" for name in _nearest_flags(flag))
        hint = f"; did you mean {nearest}?" if nearest else ""
        problems.append(Problem(shorten(flag), f"no such flag{hint}"))
    # Words after a flag that is unknown are its values, not another problem.
    if words and not flags and not explained:
        way_out = "switches take no value, and a value with spaces needs quotes"
        if words in {*ACTIONS, *OPTIONS}:
            way_out = f"did you mean --{words}?"
        elif not parse_rows(words, SOURCE)[1]:
            way_out = f"for these rows of the table write --rows {words}"
        problems.append(Problem(shorten(words), f"belongs to no flag; {way_out}"))
    return problems


def _nearest_flags(flag: str) -> list[str]:
    """What an unknown flag may stand for: flags of which it is a part, or else the most alike."""
    word = flag.lstrip("-").replace("-", "_").casefold()
    names = ["help", *ACTIONS, *OPTIONS]
    whole = [name for name in names if {*word.split("_")} <= {*name.split("_")}]
    nearest = whole or difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return [MEANT[word]] if word in MEANT else nearest
