"""What a row costs: the fast path, the plain path, and Hugging Face transformers with PEFT.

Above frozen blocks, the fast path is the script itself, run whole. A whole run of the others
takes up to hours, so their training step and their evaluation batch are timed, alternating within
this one run, and multiplied by how many of them the row has; so is the fast path where nothing
is frozen. All sides have random weights of the same size, and
batches of the same shape; each uses fused attention and fused AdamW.

    pip install -r benchmarks/requirements.txt
    python benchmarks/compare.py --rows 1 16 --json results.json
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ablation.classifier.build import Reading, build_classifier, count_trained_blocks
from ablation.config.options import ExperimentConfig
from ablation.config.rows import ROWS
from ablation.finetuning.frozen_features import FrozenPrefix, cut_texts, prepare_inputs
from ablation.finetuning.shared_work import SharedWork
from ablation.system.products import linear
from data_utils import Batch, EncodedTexts, Splits

N_TEXTS = Splits(1045, 149, 300)
MEAN_TOKENS = 31  # of a message, where nothing is padded
Loss = Callable[[], Tensor]
ROOT = Path(__file__).resolve().parent.parent


def row_config(number: int, precision: str) -> ExperimentConfig:
    """A row with random weights."""
    return replace(ROWS[number].config, weights="random", precision=precision)


def count_work(config: ExperimentConfig) -> tuple[int, int]:
    """How many training batches and evaluation batches a whole run has."""
    per_epoch = N_TEXTS.train // config.batch_size
    n_steps = config.num_epochs * per_epoch
    n_printed = -(-n_steps // config.eval_freq) + config.num_epochs
    n_final = per_epoch + sum(
        -(-n // config.batch_size) for n in (N_TEXTS.validation, N_TEXTS.test)
    )
    return n_steps, n_printed * 2 * config.eval_iter + n_final


def make_batch(config: ExperimentConfig) -> Batch:
    """A batch of random tokens, as many as the row's texts have."""
    n_tokens = {"longest_training_example": 120, "model_context_length": 1024}[
        config.context_length
    ]
    if config.no_padding:
        n_tokens = MEAN_TOKENS
    torch.manual_seed(0)
    n = config.batch_size
    lengths = torch.full((n,), n_tokens)
    return Batch(torch.randint(50000, (n, n_tokens)), lengths, lengths, torch.arange(n) % 2)


def project_loss(config: ExperimentConfig, batch: Batch) -> tuple[nn.Module, Loss]:
    """This project's model, and a function that computes the loss of the batch."""
    classifier = build_classifier(config)
    return classifier, lambda: F.cross_entropy(classifier(batch), batch.labels)


def transformers_loss(config: ExperimentConfig, batch: Batch) -> tuple[nn.Module, Loss]:
    """The same of transformers, with its fused attention, and of PEFT for LoRA."""
    shape = config.gpt
    gpt2 = transformers.GPT2Config(
        **{"n_embd": shape.emb_dim, "n_layer": shape.n_layers, "n_head": shape.n_heads},
        **{"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
        **{"num_labels": 2, "pad_token_id": 50256, "use_cache": False},
    )
    model = transformers.GPT2ForSequenceClassification._from_config(
        gpt2, attn_implementation="sdpa"
    )
    if config.uses_lora:
        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_rank * config.lora_alpha,
            target_modules=["c_attn", "c_proj", "c_fc"],
            fan_in_fan_out=True,
            task_type="SEQ_CLS",
        )
        model = get_peft_model(model, lora)
    elif config.trainable_layers != "all":
        n_blocks = {"last_layer": 0, "last_block": 1, "last_two_blocks": 2}[config.trainable_layers]
        model.requires_grad_(False)
        blocks = model.transformer.h[shape.n_layers - n_blocks :]
        for module in (*blocks, *([model.transformer.ln_f] if n_blocks else []), model.score):
            module.requires_grad_(True)
    bf16 = config.precision == "bf16"

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(batch.inputs).logits
        return F.cross_entropy(logits.float(), batch.labels)

    return model, loss


def timers(model: nn.Module, loss: Loss) -> dict[str, Callable[[], float]]:
    """Functions that run and time one step, and one evaluation batch, in seconds."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5, weight_decay=0.1, fused=True)

    def step() -> float:
        model.train()
        started = time.perf_counter()
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    @torch.no_grad()
    def evaluation() -> float:
        model.eval()
        started = time.perf_counter()
        loss()
        return time.perf_counter() - started

    return {"step": step, "evaluation": evaluation}


def measure_parts(config: ExperimentConfig, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of steps and evaluation batches of each side, alternating."""
    batch = make_batch(config)
    plain = replace(config, no_feature_reuse=True)
    sides = {
        "plain": timers(*project_loss(plain, batch)),
        "transformers": timers(*transformers_loss(config, batch)),
    }
    if config.uses_lora or config.trainable_layers == "all":  # its run is steps, too
        sides["fast"] = timers(*project_loss(config, batch))
    parts = {side: {"step": [], "evaluation": [], "ceiling": []} for side in sides}
    for side, kinds in sides.items():  # a warm-up, which also counts
        with FlopCounterMode(display=False) as counter:
            kinds["step"]()
        parts[side]["operations"] = counter.get_total_flops()
        kinds["evaluation"]()
    for _ in range(repeats):
        for side, kinds in sides.items():
            parts[side]["ceiling"].append(measure_ceiling(config.precision, repeats=5))
            for kind, run in kinds.items():
                parts[side][kind].append(run())
    return parts


if torch.backends.mkldnn.is_available():

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def count_by_onednn(rows: torch.Size, weight: torch.Size, *_: object, **named: object) -> int:
        """Operations of a product that oneDNN computes."""
        return 2 * math.prod(rows) * weight[0]


def measure_ceiling(precision: str, repeats: int = 20) -> float:
    """Operations per second of a product of the feed-forward layer's shape."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, w = (torch.randn(n, 768, dtype=dtype) for n in (960, 3072))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        linear(x, w)
        seconds.append(time.perf_counter() - started)
    return 2 * 960 * 768 * 3072 / statistics.median(seconds)


def run_whole(flags: list[str], data_dir: str) -> tuple[float, list[dict]]:
    """Run the script once: seconds of the whole process, and the records that it left."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "additional_experiments.py"), *flags]
        started = time.perf_counter()
        subprocess.run(
            [*command, "--data_dir", data_dir, "--output_dir", folder, "--feature_store", "off"],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        seconds = time.perf_counter() - started
        return seconds, [json.loads(path.read_text()) for path in Path(folder).glob("*/*.json")]


def measure_fast(number: int, options: argparse.Namespace) -> dict[str, float]:
    """A row's whole run: seconds of the process and by phase, peak memory, and the part of the
    ceiling that its frozen blocks reach."""
    flags = ["--rows", str(number), "--weights", "random", "--precision", options.precision]
    ceiling = measure_ceiling(options.precision)
    seconds, (record,) = run_whole(flags, options.data_dir)
    ceiling = (ceiling + measure_ceiling(options.precision)) / 2
    operations = count_prefix_operations(row_config(number, options.precision), options.data_dir)
    return {
        "seconds": seconds,
        **record["seconds"],
        "peak_gb": record["peak_memory_bytes"] / 1e9,
        "of_ceiling": operations / record["seconds"]["features"] / ceiling,
    }


def count_prefix_operations(config: ExperimentConfig, data_dir: str) -> float:
    """Of the matrix products with weights of the frozen blocks: 24 D² a token and block."""
    config = replace(config, data_dir=data_dir)
    cut = partial(cut_texts, reading=Reading.of(config))
    prefix = FrozenPrefix([SharedWork([config]).texts(config).map(cut)])
    n_blocks = config.gpt.n_layers - count_trained_blocks(config)
    return 24.0 * config.gpt.emb_dim**2 * prefix.n_states * n_blocks


def measure_seeds(options: argparse.Namespace, n_seeds: int = 10) -> dict[str, float]:
    """Seconds of row 1's process with one seed and with several, from weights in a file."""
    shape = row_config(1, "fp32").gpt
    gpt2 = transformers.GPT2Config(
        n_embd=shape.emb_dim, n_layer=shape.n_layers, n_head=shape.n_heads
    )
    with tempfile.TemporaryDirectory() as folder:
        transformers.GPT2Model(gpt2).save_pretrained(folder)
        flags = ["--rows", "1", "--weights", folder, "--precision", options.precision]
        one, _ = run_whole([*flags, "--num_seeds", "1"], options.data_dir)
        many, _ = run_whole([*flags, "--num_seeds", str(n_seeds)], options.data_dir)
    return {"1 seed": one, f"{n_seeds} seeds": many, "a further seed": (many - one) / (n_seeds - 1)}


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds of what is done inside to ``seconds`` under ``name``."""
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


def measure_growth() -> dict[str, float]:
    """Seconds of the frozen prefix, by number of texts, their length, and blocks frozen."""
    config = row_config(1, "fp32")
    seconds: dict[str, float] = {}
    cases = [(n, 120, "last_block") for n in (16, 32, 64)]
    cases += [(32, length, "last_block") for length in (30, 60, 240, 480, 1024)]
    cases += [(32, 120, "last_two_blocks")]
    for n, length, layers in cases:
        case = replace(config, trainable_layers=layers)
        model = build_classifier(case)
        torch.manual_seed(0)
        tokens = torch.randint(50000, (3, n, length)).tolist()
        texts = Splits(*(EncodedTexts(part, [0] * n, width=length) for part in tokens))
        with timed(seconds, f"{3 * n} texts of {length} tokens below {layers}"):
            prepare_inputs(model, texts)
    return seconds


def main() -> None:
    """Measure the chosen rows; print Markdown, and write all values as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="*", type=int, default=[1], choices=ROWS, metavar="N")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=5, help="counted repeats (default: 5)")
    parser.add_argument("--data_dir", default="data", help="of the real data (default: data)")
    parser.add_argument("--parts_only", action="store_true", help="no whole run of the fast path")
    parser.add_argument("--growth", action="store_true", help="measure how cost grows")
    parser.add_argument("--json", type=Path, help="file for all measured values")
    options = parser.parse_args()
    results = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    results["ceiling"] = measure_ceiling(options.precision)
    print(f"products: {results['ceiling'] / 1e9:.0f} GFLOP/s in {options.precision}\n")
    if options.growth:
        results["growth"] = measure_growth()
        results["growth"] |= measure_seeds(options)
        for case, value in results["growth"].items():
            print(f"- {case}: {value:.1f} s")
    print("| row | side | step, s | of the ceiling | evaluation batch, s | whole, s | to fast |")
    print("| --: | --- | --- | --: | --- | --: | --: |")
    for number in options.rows:
        results[number] = measure_row(number, options)
        print_row(number, results[number])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def measure_row(number: int, options: argparse.Namespace) -> dict:
    """The parts of each side, whole runs estimated from them, and the fast path's whole run."""
    config = row_config(number, options.precision)
    parts = measure_parts(config, options.repeats)
    n_steps, n_evaluations = count_work(config)
    whole = {
        side: n_steps * statistics.median(part["step"])
        + n_evaluations * statistics.median(part["evaluation"])
        for side, part in parts.items()
    }
    row = {"parts": parts, "whole": whole}
    if "fast" not in whole and not options.parts_only:
        row["fast"] = measure_fast(number, options)
        whole["fast"] = row["fast"]["seconds"]
    return row


def print_row(number: int, row: dict) -> None:
    """A line of the table for each side."""
    fast = row["whole"].get("fast")
    for side, seconds in row["whole"].items():
        part = row["parts"].get(side)
        cells = ["", "", ""]
        if part:
            ceiling = statistics.median(part["ceiling"])
            fraction = part["operations"] / statistics.median(part["step"]) / ceiling
            cells = [_spread(part["step"]), f"{fraction:.2f}", _spread(part["evaluation"])]
        ratio = f"{seconds / fast:.1f} x" if fast else ""
        print(f"| {number} | {side} | {' | '.join(cells)} | {seconds:.0f} | {ratio} |")
    if "fast" in row:
        detail = ", ".join(f"{name} {value:.2f}" for name, value in row["fast"].items())
        print(f"| {number} | fast, in detail | {detail} |  |  |  |  |", flush=True)


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


if __name__ == "__main__":
    main()
