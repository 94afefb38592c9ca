"""The tables of docs/scaling.md: what runs need, exchange and cost, on machines of other sizes.

    python benchmarks/scaling.py

prints them, from the rows and their published minutes, the records in ``results/``, the
estimates of memory, and the figures of ``benchmarks/README.md`` that ``measured.json`` names. A
test fails when those in the document are others.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ablation.config.options import ExperimentConfig
from ablation.config.rows import ROWS
from ablation.config.runs import Run
from ablation.config.sizes import MODEL_SIZES
from ablation.config.tables import configure
from ablation.finetuning.memory import MemoryNeed, estimate_memory
from ablation.finetuning.shared_work import prefix_key
from ablation.sweeps.records import Record, read_records
from ablation.sweeps.sweep import order_runs

MEASURED = json.loads((Path(__file__).parent / "measured.json").read_text())

SIZES = [size for size in MODEL_SIZES if size != "gpt2-tiny (3M)"]
MODES = {
    "last block": {},
    "all layers": {"trainable_layers": "all"},
    "LoRA, rank 16": {"trainable_layers": "lora", "lora_rank": 16},
}
CARDS = (8, 12, 16, 24, 40, 48, 80)  # GiB
MARGIN = 1.15  # how far estimates may be off
GIB = 2**30
# Bytes a second.
LINKS = {"1 Gbit/s": 1e9 / 8, "10 Gbit/s": 1e10 / 8, "100 Gbit/s": 1e11 / 8, "300 GB/s": 3e11}
EXCHANGING_ROWS = {
    1: "last block",
    13: "last block, 1,024 tokens",
    4: "two blocks",
    5: "all layers",
    11: "LoRA",
    8: "gpt2-xl, last block",
    9: "gpt2-xl, all layers",
    12: "gpt2-xl, LoRA",
}
N_UPDATES = 5 * (1045 // 8)  # of a row with batches of 8
N_SEEDS = 100
N_GPUS = (1, 8, 64)
# For each mode the rows whose minutes were published, by size; the first is gpt2-small's.
GROWING_ROWS = {"frozen": (1, 6, 7, 8), "all": (5, 9), "lora": (11, 12)}


# ---------------------------------------------------------------- memory


def positions(config: ExperimentConfig) -> dict[str, int]:
    """What :func:`memory_needs.count_positions` finds for the messages, but equal ones once."""
    texts = MEASURED["texts"]
    n_texts, n_tokens = texts["different"], texts["tokens_of_longest"]
    if config.context_length == "model_context_length":
        n_tokens = config.gpt.context_length
    if config.no_feature_reuse:
        return {"n_tokens": n_tokens, "n_states": 0}
    if config.trainable_token_pos == "first":
        return {"n_tokens": 1, "n_states": n_texts}
    reads_own = config.no_padding or config.trainable_token_pos == "flexible"
    n_states = texts["tokens_of_all"] if reads_own else n_texts * n_tokens
    return {"n_tokens": n_tokens, "n_states": n_states}


@cache
def need_of(config: ExperimentConfig, device: str = "cuda") -> MemoryNeed:
    """What a run on the messages needs."""
    return estimate_memory(replace(config, device=device), **positions(config))


def bytes_on_card(need: MemoryNeed, card: int) -> int:
    """What a run takes of a card of so many GiB: states beyond half of what is free are kept in
    the machine's memory."""
    free = card * GIB - need.process - need.weights
    return need.total - (need.states if need.states > free / 2 else 0)


def fits(need: MemoryNeed, card: int, margin: float = MARGIN) -> bool:
    """Whether a run fits a card of so many GiB."""
    return margin * bytes_on_card(need, card) <= card * GIB


def describe_cards(need: MemoryNeed) -> str:
    """The smallest card that a run fits, and a smaller one that it fits without the margin."""
    card = next(card for card in CARDS if fits(need, card))
    tight = next(card for card in CARDS if fits(need, card, margin=1))
    return f"{card}" if tight == card else f"{card} (perhaps {tight})"


def memory_table() -> str:
    """By size and mode, what a GPU holds."""
    lines = []
    for size in SIZES:
        for mode, flags in MODES.items():
            for precision in ("fp32", "bf16"):
                config = ExperimentConfig(model_size=size, precision=precision, **flags)
                need, one = need_of(config), need_of(replace(config, batch_size=1))
                parts = (need.weights, need.gradients, need.moments, need.states)
                activations = (need.activations, one.activations)
                lines.append(
                    [f"{size.split()[0]}, {mode}", precision]
                    + [gigabytes(n) for n in (*parts, *activations, need.total, one.total)]
                )
    header = "size, what trains|precision|weights|gradients|moments|states|activations, 8 texts"
    return table(f"{header}|1 text|all, 8 texts|1 text", lines, n_texts=2)


def cards_table() -> str:
    """By row, what a GPU holds and which is large enough, and what makes it less."""
    ways = ({}, {"precision": "bf16"}, {"batch_size": 1, "accumulation_steps": 8})
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, row in ROWS.items():
        needs = [need_of(replace(row.config, **way)) for way in ways]
        cells = [cell for need in needs for cell in (gigabytes(need.total), describe_cards(need))]
        groups.setdefault(tuple(cells), []).append(number)
    lines = [[join(rows), *cells] for cells, rows in groups.items()]
    header = "rows|fp32, GB|card, GiB|bf16, GB|card, GiB|8 batches of 1, GB|card, GiB"
    return table(header, lines, n_texts=1)


def cards_facts() -> str:
    """The rows that small cards do not hold."""

    def others(card: int, **way: str) -> str:
        configs = {number: replace(row.config, **way) for number, row in ROWS.items()}
        return join([number for number in ROWS if not fits(need_of(configs[number]), card)])

    return fill(
        f"So a card of 16 GiB runs all rows but {others(16)}, and one of 8 GiB all but "
        f"{others(8)}, or in bf16 all but {others(8, precision='bf16')}."
    )


def peaks_facts() -> str:
    """How far estimates are from the peaks that were measured on CPUs."""
    off = []
    for peak in MEASURED["peak_memory"]:
        config = replace(ROWS[peak["row"]].config, **peak["options"])
        off.append(need_of(config, "cpu").total / 1e9 / peak["gigabytes"] - 1)
    return (
        f"For {len(off)} runs on CPUs whose peak was measured, the estimate is off by "
        f"{100 * min(off):+.0f} to {100 * max(off):+.0f} %."
    )


def memory_facts() -> str:
    """The largest row in words."""
    need = need_of(ROWS[9].config)
    kept = need_of(replace(ROWS[9].config, accumulation_steps=2))
    lora = need_of(ROWS[12].config)
    return fill(
        f"gpt2-xl with all layers (row 9) has {gigabytes(need.weights)} GB of weights, as many of "
        f"gradients if all are kept, and {gigabytes(need.moments)} GB of moments: "
        f"{gigabytes(need.weights + kept.gradients + need.moments)} GB. As gradients are freed "
        f"block by block, it is {gigabytes(need.weights + need.moments)} GB, the "
        f"{gigabytes(need.gradients)} GB of the largest part, and {gigabytes(need.activations)} GB "
        "of activations. Accumulating keeps all gradients from batch to batch, which here is more "
        f"than smaller batches save. LoRA (row 12) needs {gigabytes(lora.total)} GB in all."
    )


# ---------------------------------------------------------------- exchange


def exchanged(config: ExperimentConfig) -> int:
    """Bytes of gradients that an update of data parallel training sums up."""
    return need_of(config).moments // 2


def sent(n_bytes: int, n_processes: int) -> float:
    """Bytes that each process sends in a ring all-reduce."""
    return 2 * (n_processes - 1) / n_processes * n_bytes


def breaks_even(n_bytes: int, seconds: float) -> float:
    """The bytes a second at which the exchange takes as long as sharing saves, for any number of
    processes: 2 (N - 1) / N bytes against (N - 1) / N seconds."""
    return 2 * n_bytes / seconds


def exchange_table() -> str:
    """By row, the gradients of an update, the seconds that 8 processes exchange them, and the link
    below which they gain nothing."""
    lines = []
    for number, trains in EXCHANGING_ROWS.items():
        n_bytes = exchanged(ROWS[number].config)
        exchange = [significant(sent(n_bytes, 8) / speed) for speed in LINKS.values()]
        published = ROWS[number].published.minutes * 60 / N_UPDATES
        on_cores = seconds_of_update(number)
        for_even = [
            significant(breaks_even(n_bytes, seconds) * 8 / 1e9) if seconds else ""
            for seconds in (published, on_cores)
        ]
        seconds = [f"{published:.3f}", f"{on_cores:.3f}" if on_cores else ""]
        megabytes = significant(n_bytes / 1e6)
        lines.append([str(number), trains, megabytes, *exchange, *seconds, *for_even])
    links = "|".join(f"at {link}, s" for link in LINKS)
    times = "A100, s|two cores, s|A100 even, Gbit/s|two cores even, Gbit/s"
    return table(f"row|what trains|MB|{links}|{times}", lines, n_texts=2)


def seconds_of_update(row: int) -> float | None:
    """What an update takes on two cores, with its share of evaluations, where it was recorded."""
    record = find_record(row)
    return record.result["seconds"]["training"] / N_UPDATES if record else None


def exchange_facts() -> str:
    """Where data parallelism does not pay, and what it costs to share a frozen prefix, in words."""
    update, n_bytes = MEASURED["update_above_states"], exchanged(ROWS[1].config)
    even = breaks_even(n_bytes, update["seconds"]) * 8 / 1e9
    states = [gigabytes(need_of(ROWS[row].config).states) for row in (1, 13)]
    return fill(
        f"Above hidden states, an update of row 1 takes {update['seconds'] * 1000:.0f} ms on two "
        f"cores, and {n_bytes / 1e6:.0f} MB would be exchanged for it: at {even:.0f} Gbit/s "
        "nothing would be gained, even if half of the texts took half of the time. The states "
        "themselves are cheap to share out: each process computes those of its texts, and all "
        f"exchange them once, {states[0]} GB in row 1 and {states[1]} GB in row 13."
    )


def parallel_table() -> str:
    """What two processes with a core each take, and one with a core, as measured."""
    lines = []
    for found in MEASURED["data_parallel"]:
        one, two = found["seconds"]
        seconds = (f"{one:.1f}", f"{two:.1f}", f"{one / two:.2f}")
        lines.append([str(found["row"]), found["part"], *seconds])
    return table("row|part|one process, s|two processes, s|ratio", lines, n_texts=2)


def engine_facts() -> str:
    """What torchrun and Ray add, in words."""
    launched, ray = MEASURED["torchrun"], MEASURED["ray"]
    return fill(
        "The engines themselves cost little: one process under torchrun took "
        f"{launched['torchrun_ratio']:.3f} times as long as without it, within the machine's "
        f"noise, and Ray {ray['start_seconds']} s to start and stop, and nothing measurable for "
        f"each task (runs of {ray['seconds_of_a_run']} s took as long without it)."
    )


# ---------------------------------------------------------------- time


def find_record(row: int) -> Record | None:
    """The record of a row with random weights, if there is one; row 5 with them is row 10."""
    config = replace(ROWS[row].config, weights="random")
    return next((record for record in recorded() if record.config == config), None)


@cache
def recorded() -> list[Record]:
    """The records that are part of the project."""
    return read_records(Path(__file__).resolve().parent.parent / "results")


def measured_seconds() -> dict[int, float]:
    """Seconds of a whole run on two cores, by row, where it was run by itself."""
    found = {run["row"]: run["seconds"] for run in MEASURED["run_seconds"]}
    for row in (5, 10, 13):
        found[row] = sum(find_record(row).result["seconds"].values())
    return {**found, 18: found[1]}  # whose flag changes nothing


def throughput_table() -> str:
    """Runs an hour, by row and machine."""
    measured, groups = measured_seconds(), {}
    for number, row in ROWS.items():
        seconds = measured.get(number)
        cores = (f"{seconds / 60:.1f}", f"{3600 / seconds:.1f}") if seconds else ("", "")
        hourly = 60 / row.published.minutes
        cells = (*cores, f"{row.published.minutes:.2f}", f"{hourly:.0f}", f"{8 * hourly:.0f}")
        groups.setdefault(cells, []).append(number)
    lines = [[join(rows), *cells] for cells, rows in groups.items()]
    header = "rows|two cores, min|runs an hour|A100, min|runs an hour|8 A100, runs an hour"
    return table(header, lines, n_texts=1)


def mode_of(config: ExperimentConfig) -> str:
    """What the cost of a run grows like with its size."""
    if config.uses_lora:
        return "lora"
    return "all" if config.trainable_layers == "all" else "frozen"


def growth(mode: str, size: str) -> float:
    """How many times as long a run takes as with gpt2-small: as published where it was, otherwise
    a power of the arithmetic for a token in all blocks, through gpt2-xl's."""
    first, *others = GROWING_ROWS[mode]
    published = {
        ROWS[row].config.model_size: ROWS[row].published.minutes for row in (first, *others)
    }
    times = {name: minutes / ROWS[first].published.minutes for name, minutes in published.items()}
    return times.get(size, interpolated(times[SIZES[-1]], size))


def interpolated(times: float, size: str) -> float:
    """The growth to a size, where that to gpt2-xl is known."""
    return arithmetic(size) ** (math.log(times) / math.log(arithmetic(SIZES[-1])))


def growth_facts() -> str:
    """What the power gives where it is not needed."""
    times = growth("frozen", SIZES[-1])
    given = [f"{ROWS[1].published.minutes * interpolated(times, size):.2f}" for size in SIZES[1:3]]
    published = [f"{ROWS[row].published.minutes:.2f}" for row in (6, 7)]
    return fill(
        f"For rows 6 and 7, where it is not needed, that power gives {' and '.join(given)} "
        f"minutes; {' and '.join(published)} were published."
    )


def arithmetic(size: str) -> float:
    """Of a token in all blocks, in multiples of gpt2-small's."""
    shape, small = MODEL_SIZES[size], MODEL_SIZES[SIZES[0]]
    return shape.n_layers * shape.emb_dim**2 / (small.n_layers * small.emb_dim**2)


def plan(size: str) -> dict[ExperimentConfig, float]:
    """The different runs that the rows make of a size with one seed, and their A100 minutes."""
    small = {row: rows[0] for rows in GROWING_ROWS.values() for row in rows}
    minutes = {}
    for number, row in ROWS.items():
        config = configure(row, {"model_size": size})
        published = ROWS[small.get(number, number)].published.minutes
        minutes[config] = published * growth(mode_of(config), size)
    runs = order_runs([Run(config) for config in minutes])
    return {run.config: minutes[run.config] for run in runs}


def cost_table() -> str:
    """What all rows cost at each size, with many seeds, on some numbers of GPUs."""
    plans = {size: plan(size) for size in SIZES}
    lines = []
    for name, minutes in (*plans.items(), ("all", merge(plans.values()))):
        hours = N_SEEDS * sum(minutes.values()) / 60
        lines.append(
            [name, f"{N_SEEDS * len(minutes):,}", f"{max(minutes.values()):.1f}", f"{hours:,.0f}"]
            + [f"{hours / n:,.1f}" for n in N_GPUS[1:]]
        )
    gpus = "|".join(f"hours on {n}" for n in N_GPUS[1:])
    return table(f"size|runs|longest run, min|GPU-hours|{gpus}", lines, n_texts=1)


def sharing_facts() -> str:
    """What is saved where seeds share hidden states, in words."""
    minutes = merge(plan(size) for size in SIZES)
    sharing = [c for c in minutes if c.weights == "pretrained" and mode_of(c) == "frozen"]
    share = sum(minutes[config] for config in sharing) / sum(minutes.values())
    seeds = MEASURED["seeds_of_row_1"]
    one, further = seeds["seconds_of_one"], seeds["seconds_of_a_further_one"]
    together = one + (N_SEEDS - 1) * further
    return fill(
        f"{N_SEEDS * len(sharing):,} of these {N_SEEDS * len(minutes):,} runs, {100 * share:.0f} % "
        "of the GPU-hours, rest on hidden states that no seed changes: "
        f"{len({prefix_key(config) for config in sharing})} sets of them serve all. How much that "
        "saves was measured only for row 1 on two cores: a "
        f"further seed takes {further} s where the first took {one} s, so {N_SEEDS} seeds take "
        f"{together / 60:.0f} minutes in one process, and {N_SEEDS * one / 3600:.1f} hours if each "
        "computes its own."
    )


def merge(plans: Iterable[dict[ExperimentConfig, float]]) -> dict[ExperimentConfig, float]:
    """The runs of several sizes in one."""
    return {config: minutes for runs in plans for config, minutes in runs.items()}


# ---------------------------------------------------------------- text

fill = partial(textwrap.fill, width=110, break_on_hyphens=False)


def gigabytes(n_bytes: float, digits: int = 1) -> str:
    """In units of 10⁹ bytes."""
    return f"{n_bytes / 1e9:.{digits}f}"


def join(rows: Sequence[int]) -> str:
    """Numbers of rows, in words."""
    return ", ".join(map(str, rows))


def significant(value: float) -> str:
    """With two digits that count, or all before the point."""
    digits = max(0, 1 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f}"


def table(header: str, lines: Iterable[Sequence[str]], n_texts: int) -> str:
    """Markdown; ``n_texts`` columns are placed to the left, the others to the right."""
    columns = header.split("|")
    sides = ["left"] * n_texts + ["right"] * (len(columns) - n_texts)
    return tabulate(lines, columns, tablefmt="pipe", disable_numparse=True, colalign=sides)


def contents() -> list[str]:
    """Everything in the document that is generated, in its order."""
    return [
        memory_facts(),
        peaks_facts(),
        memory_table(),
        cards_table(),
        cards_facts(),
        throughput_table(),
        growth_facts(),
        cost_table(),
        sharing_facts(),
        exchange_table(),
        exchange_facts(),
        parallel_table(),
        engine_facts(),
    ]


if __name__ == "__main__":
    print(*contents(), sep="\n\n")
