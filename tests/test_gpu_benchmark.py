"""The benchmark of a GPU: on an emulated card, on a CPU, and where time or memory runs out."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from emulated_device import MEMORY, emulated_card
from helpers import environment_without_network

from ablation.system.output import print_lines
from additional_experiments import main as script
from benchmarks import gpu

ROOT = Path(__file__).parent.parent
PUBLISHED = (
    *(0.28, 0.28, 0.25, 0.33, 0.69, 0.75, 1.50, 2.83, 8.12, 0.69),
    *(0.75, 5.79, 2.46, 1.75, 1.70, 0.30, 0.29, 0.28, 0.32),
)
LINE = "Ep 1 (Step {:06d}): Train loss 0.500, Val loss 0.250"


def run(*flags: str) -> tuple[dict, str]:
    """The JSON and the Markdown that the benchmark leaves."""
    gpu.main(["--output", "out", *flags])
    return json.loads(Path("out/gpu.json").read_text()), Path("out/gpu.md").read_text()


def cells(text: str, start: str) -> list[str]:
    """The cells of the only line of a text that begins like this."""
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def require_all(results: dict, text: str, precisions: tuple[str, ...], last_step: int) -> None:
    """Nineteen whole rows beside what was published, and losses that are those of the CPU."""
    assert {number: row["published_minutes"] for number, row in results["rows"].items()} == {
        str(number): minutes for number, minutes in enumerate(PUBLISHED, start=1)
    }
    assert {row["status"] for row in results["rows"].values()} == {"whole"}
    for number, minutes in enumerate(PUBLISHED, start=1):
        row, line = results["rows"][str(number)], cells(text.split("## Cost")[1], f"| {number} |")
        training = (row["seconds"]["features"] + row["seconds"]["training"]) / 60
        assert line[1] == f"{row['seconds']['features']:.2f}"
        assert line[6:8] == [f"{training:.2f}", f"{minutes:.2f}"]
        assert line[8] == f"{results['transformers'][str(number)]['whole'] / 60:.2f}"
        assert row["first_losses"] > 0
        assert row["peak_memory_bytes"] > 0
    cases = [case for case in results["losses"] if case["part"] == "losses"]
    assert len(cases) == 4 * 2 * len(precisions)
    for case in cases:
        limit = {"fp32": 0.001}.get(case["precision"], 0.02)
        assert case["difference"] <= limit, case
        assert case["last_step"] == last_step
    for number in (1, 5, 11, 16):
        for path in ("fast", "plain"):
            line = cells(text.split("## Cost")[0], f"| {number} | {path} |")
            assert len(line) == 2 + len(precisions)
            assert line[2] in [f"{found} (to step {last_step})" for found in ("0.000", "0.001")]


@pytest.mark.slow
@pytest.mark.usefixtures("few_demo_messages", "small_models")
def test_on_an_emulated_card(capsys: pytest.CaptureFixture) -> None:
    with emulated_card():
        results, text = run("--tiny", "--minutes", "100")
    assert text == capsys.readouterr().out
    assert text.startswith("# emulated card, PyTorch 2")
    require_all(results, text, ("fp32", "tf32", "bf16"), last_step=10)
    assert results["rows"]["9"]["peak_memory_bytes"] == MEMORY
    # The losses of the CPU are those that the script prints.
    flags = "--demo --rows 1 --max_steps 21 --eval_freq 10 --eval_iter 1 --learning_rate 5e-5"
    assert script(flags.split()) == 0
    printed = re.findall(r"\(Step (\d+)\): Train loss (.*), Val loss (.*)", capsys.readouterr().out)
    losses = {str(int(step)): [float(train), float(val)] for step, train, val in printed}
    assert losses == results["losses"][0]["losses"]
    assert list(losses) == ["0", "10"]


@pytest.mark.slow
def test_on_a_cpu_as_a_command(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", "--minutes", "100", "--output", "out"],
        cwd=tmp_path,
        env=environment_without_network(tmp_path, CUDA_VISIBLE_DEVICES=""),
        capture_output=True,
        text=True,
        check=True,
    )
    results = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert found.stdout == (tmp_path / "out" / "gpu.md").read_text()
    assert "the figures mean nothing" in found.stdout
    require_all(results, found.stdout, ("fp32", "bf16"), last_step=20)


@pytest.mark.usefixtures("few_demo_messages")
def test_what_did_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_experiment(config: object, shared: object) -> None:
        if config.average_embeddings:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        if config.disable_causal_mask:
            raise MemoryError("AdamW's moments alone take 12.5 GB, and 8.0 GB are free")
        if config.ignore_index > 0:
            raise RuntimeError("Expected all tensors to be on the same device\nand more")
        if config.trainable_layers == "all":
            print_lines(LINE.format(50))
            time.sleep(60)
        return SimpleNamespace(seconds={"features": 60.0, "training": 30.0, "evaluation": 1.0})

    monkeypatch.setattr(gpu, "run_experiment", run_experiment)
    monkeypatch.setattr(gpu, "COMPARED", ())
    monkeypatch.setitem(gpu.SHARES, "transformers", 0)
    results, text = run("--minutes", "0.05")
    status = {int(number): row["status"] for number, row in results["rows"].items()}
    assert status[17] == status[19] == "not enough memory"
    assert status[5] == status[9] == status[10] == "stopped after step 50: no time left"
    assert status[1] == "whole"
    assert status[18] == "failed: RuntimeError: Expected all tensors to be on the same device"
    cost = text.split("## Cost")[1]
    assert cells(cost, "| 19 |")[6:] == ["", "0.32", "not run: no time left", "not enough memory"]
    assert cells(cost, "| 1 |")[1:4] == ["60.00", "30.00", "1.00"]
    assert cells(cost, "| 1 |")[6] == "1.50"
    assert cells(cost, "| 5 |")[1:4] == ["", "", ""]


@pytest.mark.usefixtures("few_demo_messages")
def test_without_any_time_and_without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.delitem(sys.modules, "benchmarks.compare", raising=False)
    results, text = run("--minutes", "0")
    assert [row["status"] for row in results["rows"].values()] == ["not run: no time left"] * 19
    assert cells(text.split("## Cost")[0], "| 16 | plain |")[2:] == ["not run: no time left"] * 2
    assert "Not compared with transformers and PEFT: peft is not installed." in text


def test_losses_are_compared_as_far_as_both_go() -> None:
    found = {0: (0.7, 0.8), 10: (0.5, 0.6)}
    assert gpu.compare(found, {0: (0.701, 0.8)}) == {"difference": 0.001, "last_step": 0}
    other = {0: (0.7, 0.8), 10: (0.5, 0.612), 20: (0.1, 0.1)}
    assert gpu.compare(found, other) == {"difference": 0.012, "last_step": 10}
    assert gpu.compare(found, {}) == {"difference": None, "last_step": None}
