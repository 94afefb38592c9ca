"""The flags of additional_experiments.py: what is to be done, and every option of a run."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from ablation.config.cluster_request import LOCAL
from ablation.config.options import GROUPS, OPTIONS, show_default
from ablation.config.rows import ROWS, parse_rows
from ablation.system.console import Once, Parser
from ablation.system.errors import shorten

DESCRIPTION = """\
Finetune a GPT-2 as a spam classifier, to find out which choices matter.

One run is one experiment: by default row 1 of the README's table. --rows and
--seeds make many runs, and a report on them."""

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
class Action:
    """A flag that says what is to be done, and not how a run is made."""

    help: str
    metavar: str | tuple[str, ...] | None = None  # none for a switch
    nargs: str | int | None = None
    const: str | None = None  # the value of a flag that is given without one
    default: str = "none"


ACTIONS = {
    "rows": Action(
        f"the flags of row N, 1 to {len(ROWS)}, or of many: 1-5,16, or all; other flags win over "
        "them, and then a run is a variant of its row; list prints them and runs none",
        metavar="ROWS",
        nargs="+",
    ),
    "seeds": Action("run each row with each of these seeds", metavar="N", nargs="+"),
    "num_seeds": Action(
        "run each row with this many seeds, from --seed on; a verdict takes 2 or more, and 5 to "
        "10 to show a few points",
        metavar="N",
    ),
    "output_dir": Action(
        "folder for the records of runs and the report on them; with --demo it is runs/demo",
        metavar="DIR",
        default="runs",
    ),
    "resume": Action(
        "go on from the last checkpoint of this run, if there is one; sweeps always do",
        default="off",
    ),
    "checkpoint_every": Action(
        "write a checkpoint of a run after so many batches, or after each epoch, which is the "
        "default with --resume, --save_model and --export_hf",
        metavar="N|epoch",
    ),
    "save_model": Action(
        "keep the trained classifier in the run's folder, for predict.py", default="off"
    ),
    "export_hf": Action(
        "write the trained classifier to a folder that Hugging Face transformers can load, "
        "and LoRA also as an adapter for PEFT",
        metavar="DIR",
    ),
    "ray": Action(
        "hand the runs to Ray: to one that is started on this machine, or to the cluster at "
        "ADDRESS, which is HOST:PORT, or auto for the one that this machine is in",
        metavar="ADDRESS",
        nargs="?",
        const=LOCAL,
    ),
    "gpus_per_run": Action(
        "with --ray, how much of a GPU each task takes, where there are GPUs: 1, or less for some "
        "at once on one GPU",
        metavar="X",
        default="1",
    ),
    "cpus_per_run": Action(
        "with --ray, cores that each task takes, where no GPU is used",
        metavar="N",
        default="all of the smallest node",
    ),
    "dry_run": Action("print the runs and which of them are done, and run none", default="off"),
    "report": Action("report on the records in --output_dir, and run nothing", default="off"),
    "compare": Action(
        "compare two rows by their numbers, with all seeds that both have, or two recorded runs by "
        "their folders, on the same test messages, and run nothing",
        metavar=("A", "B"),
        nargs=2,
    ),
    "list": Action(
        "print the rows, their questions and their published figures, and run nothing",
        default="off",
    ),
    "version": Action("print the versions of this code and of PyTorch", default="off"),
}


def build_parser() -> Parser:
    """A flag for each option, by group. Texts are not converted, and no default is set, so
    that what was given can be told from what was not and all problems be named together."""
    parser = Parser(
        usage="python additional_experiments.py [--flag value ...]",
        description=DESCRIPTION,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, action in ACTIONS.items():
        kind = {"metavar": action.metavar, "nargs": action.nargs, "const": action.const}
        parser.add_argument(
            f"--{name}",
            help=f"{action.help} (default: {action.default})",
            **({"action": Once, **kind} if action.metavar else {"action": "store_true"}),
        )
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for name, option in OPTIONS.items():
        rules = option.metadata
        kind = {"action": "store_true"}
        if not isinstance(option.default, bool):
            choices = f"{{{','.join(rules['choices'])}}}"
            kind = {"action": Once, "metavar": rules["metavar"] or choices}
        groups[rules["group"]].add_argument(
            f"--{name}", help=f"{rules['help']} (default: {show_default(option)})", **kind
        )
    return parser


def name_unknown(unknown: Sequence[str], explained: bool) -> list[str]:
    """A problem for each argument that belongs to no flag.

    Args:
        explained: another problem says why words stand alone.
    """
    flags = [argument.split("=")[0] for argument in unknown if argument.startswith("-")]
    words = " ".join(argument for argument in unknown if not argument.startswith("-"))
    named = []
    for flag in flags:
        nearest = " or ".join(f"--{name}" for name in find_nearest(flag))
        hint = f"; did you mean {nearest}?" if nearest else ""
        named.append(f"{shorten(flag)}: no such flag{hint}")
    # Words after a flag that is unknown are its values, not another problem.
    if words and not flags and not explained:
        way_out = "switches take no value, and a value with spaces needs quotes"
        if words in {*ACTIONS, *OPTIONS}:
            way_out = f"did you mean --{words}?"
        elif not parse_rows(words)[1]:
            way_out = f"for these rows of the table write --rows {words}"
        named.append(f"{shorten(words)}: belongs to no flag; {way_out}")
    return named


def find_nearest(flag: str) -> list[str]:
    """What an unknown flag may stand for: flags of which it is a part, or else the most alike."""
    word = flag.lstrip("-").replace("-", "_").casefold()
    names = ["help", *ACTIONS, *OPTIONS]
    if word in MEANT:
        return [MEANT[word]]
    parts = set(word.split("_"))
    whole = [name for name in names if parts <= set(name.split("_"))]
    return whole or difflib.get_close_matches(word, names, n=1, cutoff=0.5)
