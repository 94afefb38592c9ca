"""Time a training step and an evaluation batch, against Hugging Face transformers and PEFT.

Both sides do the same work: batches of 8 texts of 120 tokens, the last token read, AdamW,
`gpt2-small (124M)` with random weights, float32. They alternate within one run, so that a
machine that changes its speed changes it for both; medians are compared.

    pip install -r benchmarks/requirements.txt && python benchmarks/plain_step.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from classifier import build_classifier
from data_utils import Batch
from experiment_config import ExperimentConfig
from training import batch_loss

MODES = {
    "last_block": {"trainable_layers": "last_block"},
    "all": {"trainable_layers": "all"},
    "lora": {"trainable_layers": "lora", "lora_rank": 16, "lora_alpha": 16.0},
}
N_TEXTS, N_TOKENS = 8, 120
Loss = Callable[[], Tensor]


def project_loss(options: dict, batch: Batch) -> tuple[nn.Module, Loss]:
    """This project's model, and a function that computes the loss of the batch."""
    config = ExperimentConfig(weights="random", **options)
    model = build_classifier(config)
    return model, lambda: batch_loss(model, batch, config)


def transformers_loss(options: dict, batch: Batch) -> tuple[nn.Module, Loss]:
    """The same of transformers, with its fused attention, and of PEFT for LoRA."""
    config = transformers.GPT2Config(
        num_labels=2, pad_token_id=50256, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0
    )
    model = transformers.GPT2ForSequenceClassification._from_config(
        config, attn_implementation="sdpa"
    )
    if options["trainable_layers"] == "lora":
        layers = ["c_attn", "c_proj", "c_fc"]
        lora = LoraConfig(
            r=16, lora_alpha=256, target_modules=layers, fan_in_fan_out=True, task_type="SEQ_CLS"
        )
        model = get_peft_model(model, lora)
    elif options["trainable_layers"] == "last_block":
        model.requires_grad_(False)
        for module in (model.transformer.h[-1], model.transformer.ln_f, model.score):
            module.requires_grad_(True)
    # No text of the batch ends in padding, so the last token is what the model reads.
    return model, lambda: F.cross_entropy(model(batch.tokens).logits, batch.labels)


def measure(model: nn.Module, loss: Loss) -> tuple[Callable[[], float], Callable[[], float]]:
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
    def evaluate() -> float:
        model.eval()
        started = time.perf_counter()
        loss()
        return time.perf_counter() - started

    return step, evaluate


def compare(options: dict, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each repeat, by side and by kind of work."""
    torch.manual_seed(0)
    batch = Batch(
        tokens=torch.randint(50000, (N_TEXTS, N_TOKENS)),
        lengths=torch.full((N_TEXTS,), N_TOKENS),
        labels=torch.arange(N_TEXTS) % 2,
    )
    sides = {"project": project_loss, "transformers": transformers_loss}
    timers = {name: measure(*side(options, batch)) for name, side in sides.items()}
    seconds = {name: {"step": [], "evaluation": []} for name in sides}
    for repeat in range(repeats + 1):
        for name, (step, evaluate) in timers.items():
            measured = {"step": step(), "evaluation": evaluate()}
            if repeat:  # the first is a warm-up
                for kind, value in measured.items():
                    seconds[name][kind].append(value)
    return seconds


def main() -> None:
    """Measure the chosen modes; print a Markdown table, and write all values as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--repeats", type=int, default=7, help="counted repeats (default: 7)")
    parser.add_argument("--json", type=Path, help="file for all measured values")
    options = parser.parse_args()
    results = {}
    print("| mode | work | project, s | transformers, s | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for mode in options.modes:
        results[mode] = compare(MODES[mode], options.repeats)
        for kind in ("step", "evaluation"):
            ours, theirs = (results[mode][side][kind] for side in ("project", "transformers"))
            ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            print(f"| {mode} | {kind} | {_spread(ours)} | {_spread(theirs)} | {ratio:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
