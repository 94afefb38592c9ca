"""A sweep that is killed, again and again, or run twice at once, ends as one left in peace."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import SCRIPT, environment_without_network

from ablation.config.tables import Name
from ablation.reports.tables import figures, group_records
from ablation.sweeps.records import read_records

FLAGS = ["--demo", "--max_steps", "40", "--eval_freq", "20", "--num_seeds", "2"]
N_KILLS = 30


def start(output_dir: Path, rows: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, SCRIPT, "--rows", rows, *FLAGS, "--output_dir", str(output_dir)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment_without_network(output_dir, OMP_NUM_THREADS="1"),
    )


def table(output_dir: Path) -> dict[Name, dict[str, str]]:
    """The figures of the sweep's variants, without its times."""
    sections, _ = group_records(read_records(output_dir))
    shown = {name: figures(part) for name, part in sections[1].configurations.items()}
    return {name: {**line, "min": ""} for name, line in shown.items()}


def predictions(output_dir: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in output_dir.glob("*/predictions.csv")}


@pytest.mark.slow
@pytest.mark.faults("kill -9 in a sweep", N_KILLS)
def test_a_sweep_killed_at_random_moments(tmp_path: Path) -> None:
    rows = "1-5,11,14-19"
    started = time.monotonic()
    assert start(tmp_path / "whole", rows).wait() == 0
    seconds = time.monotonic() - started
    moments = random.Random(1)
    n_done = []
    for _ in range(N_KILLS):
        process = start(tmp_path / "killed", rows)
        # The first few seconds only import PyTorch; kills spread over the time that is left.
        time.sleep(2 + moments.random() * max(2.0, seconds / 6))
        process.kill()
        process.wait()
        n_done.append(len(read_records(tmp_path / "killed")))
    assert n_done == sorted(n_done), "nothing that was complete is lost"
    assert len(set(n_done)) > 2, "the kills fell between different runs"
    assert start(tmp_path / "killed", rows).wait() == 0
    assert table(tmp_path / "killed") == table(tmp_path / "whole")
    assert predictions(tmp_path / "killed") == predictions(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.faults("several processes at once")
def test_two_sweeps_in_one_folder(tmp_path: Path) -> None:
    rows = "1,2,16"
    sweeps = [start(tmp_path / "shared", rows) for _ in range(2)]
    for process in sweeps:
        _, messages = process.communicate()
        assert process.returncode == 0, messages
    assert start(tmp_path / "alone", rows).wait() == 0
    assert table(tmp_path / "shared") == table(tmp_path / "alone")
    assert predictions(tmp_path / "shared") == predictions(tmp_path / "alone")
    assert not list((tmp_path / "shared").glob("*/.*")), "no temporary file is left"
