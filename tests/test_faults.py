"""Faults of the world outside, against the whole script: the right result, or a clear error."""

import ctypes
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import SCRIPT, count_faults, environment_without_network
from safetensors.torch import load_file, save_file

from ablation.classifier.tensor_files import read_tensors
from ablation.finetuning.checkpoints import CHECKPOINT_NAME
from ablation.sweeps.records import read_records

pytestmark = pytest.mark.slow

RUN = ["--demo", "--max_steps", "40", "--eval_freq", "20"]
SHORT = ["--demo", "--max_steps", "2"]


def start(folder: Path, *flags: str, before: Callable | None = None) -> subprocess.Popen:
    """The script in a process of its own, with its records in ``folder``."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *flags, "--output_dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment_without_network(folder, OMP_NUM_THREADS="1"),
        preexec_fn=before,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def without_minutes(out: str) -> list[str]:
    return [line for line in out.splitlines() if "minutes" not in line]


# ---------------------------------------------------------------- processes

N_KILLS = 30


@pytest.mark.faults("kill -9 in a run with checkpoints", N_KILLS)
def test_a_run_killed_at_random_moments(tmp_path: Path) -> None:
    flags = ["--demo", "--num_epochs", "100", "--eval_freq", "500"]
    status, out, _ = finish(start(tmp_path / "whole", *flags))
    assert status == 0
    flags += ["--resume", "--checkpoint_every", "10", "--save_model"]
    moments = random.Random(2)
    steps = [0]
    for _ in range(N_KILLS):
        process = start(tmp_path / "killed", *flags)
        assert process.stdout.readline(), "training has begun, or goes on"
        time.sleep(moments.random() / 2)
        process.kill()
        process.communicate()
        if (found := list((tmp_path / "killed").glob(f"*/{CHECKPOINT_NAME}"))) != []:
            steps.append(read_tensors(found[0])[0]["step"])
    assert steps == sorted(steps), "no checkpoint is older than the one before it"
    assert len(set(steps)) > N_KILLS / 2, "the kills fell between different checkpoints"
    status, resumed, _ = finish(start(tmp_path / "killed", *flags))
    assert status == 0
    assert without_minutes(resumed) == without_minutes(out)
    (whole,), (killed,) = (read_records(tmp_path / name) for name in ("whole", "killed"))
    assert killed.predictions.equals(whole.predictions)
    # A kill can leave what it was writing, under another name, for a day.
    files = sorted(path.name for path in killed.folder.iterdir() if path.name[0] != ".")
    assert files == ["config.json", "model.safetensors", "predictions.csv", "result.json"]


@pytest.mark.faults("SIGTERM, SIGINT, at full size")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_gpt2_small_resumed_is_bitwise_the_same(
    number: signal.Signals, real_data_dir: Path, tmp_path: Path
) -> None:
    flags = ["--rows", "2", "--weights", "random", "--data_dir", str(real_data_dir)]
    flags += ["--max_steps", "70", "--eval_freq", "10"]
    status, out, _ = finish(start(tmp_path / "whole", *flags))
    assert status == 0
    process = start(tmp_path / "stopped", *flags)
    for line in process.stdout:
        if "Step 000040" in line:
            break
    process.send_signal(number)
    assert finish(process)[0] == 128 + number
    status, resumed, err = finish(start(tmp_path / "stopped", *flags, "--resume"))
    assert status == 0
    assert "Continuing after step" in err
    assert without_minutes(resumed) == without_minutes(out)
    (whole,), (stopped,) = (read_records(tmp_path / name) for name in ("whole", "stopped"))
    assert stopped.result["history"] == whole.result["history"], "every bit of every loss"
    assert stopped.predictions.equals(whole.predictions)


@pytest.mark.faults("several processes at once")
@pytest.mark.parametrize("flags", [[], ["--resume", "--checkpoint_every", "1", "--save_model"]])
def test_two_processes_on_one_run(flags: list[str], tmp_path: Path) -> None:
    processes = [start(tmp_path / "shared", *RUN, *flags) for _ in range(2)]
    (status, out, _), (other_status, other, _) = map(finish, processes)
    assert (status, other_status) == (0, 0)
    assert without_minutes(out) == without_minutes(other)
    (record,) = read_records(tmp_path / "shared")
    assert record.is_complete
    assert not list(record.folder.glob(".*"))


# ---------------------------------------------------------------- disks

KEEP = ["--save_model", "--checkpoint_every", "1000"]
EXPORT = ["--trainable_token_pos", "flexible", "--export_hf", "exported"]
# What is written, how large a file may be in bytes, and what the message names. Whatever a run
# writes is larger, but for the checkpoint, without which it goes on.
FULL_DISK = {
    "record": (RUN, 100, 1, "cannot be written"),
    "predictions": (SHORT, 1_700, 1, "cannot be written"),
    "model": ([*RUN, *KEEP], 100_000, 1, "model.safetensors cannot be written"),
    "checkpoint": ([*RUN, "--checkpoint_every", "10"], 100_000, 0, "No checkpoint"),
    "export": ([*RUN, *EXPORT], 1_000_000, 1, "--export_hf exported cannot be written"),
    "report": ([*SHORT, "--rows", "1,2"], 30_000, 1, "report cannot be written"),
}


@pytest.mark.faults("a full disk")
@pytest.mark.parametrize("what", FULL_DISK)
def test_a_full_disk(what: str, tmp_path: Path) -> None:
    flags, n_bytes, expected, message = FULL_DISK[what]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    status, _, err = finish(start(tmp_path, *flags, before=limit))
    assert status == expected
    assert message in err
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()], "nothing half-written"
    for path in tmp_path.rglob("*.json"):
        json.loads(path.read_text())
    assert finish(start(tmp_path, *flags))[0] == 0, "with room, the same command does it"


def obey_permissions() -> None:
    """Take from root the right to write where nobody may."""
    pr_capbset_drop, cap_dac_override = 24, 1
    ctypes.CDLL(None).prctl(pr_capbset_drop, cap_dac_override, 0, 0, 0)


@pytest.mark.faults("a read-only folder")
@pytest.mark.parametrize("place", ["output_dir", "run", "data_dir", "export"])
def test_a_read_only_folder(place: str, tmp_path: Path) -> None:
    folder, flags = tmp_path / "runs", RUN
    locked = folder
    folder.mkdir()
    if place == "run":
        assert finish(start(folder, *RUN))[0] == 0
        (locked,) = (path for path in folder.iterdir() if path.is_dir())
    if place == "data_dir":
        locked = tmp_path / "data"
        locked.mkdir()
        flags = ["--weights", "random", "--data_dir", str(locked)]
    if place == "export":
        locked = tmp_path / "exports"
        locked.mkdir()
        flags = [*RUN, *EXPORT[:-1], str(locked / "model")]
    before = sorted(locked.iterdir())
    locked.chmod(0o555)
    status, _, err = finish(start(folder, *flags, before=obey_permissions))
    assert status == 1
    assert str(locked) in err
    assert sorted(locked.iterdir()) == before
    locked.chmod(0o755)


# ---------------------------------------------------------------- weights

WEIGHTS = {
    "shape": lambda tensors: {**tensors, "wpe.weight": tensors["wpe.weight"][:, :-1].contiguous()},
    "missing": lambda tensors: {k: v for k, v in tensors.items() if k != "h.1.ln_1.bias"},
    "additional": lambda tensors: {**tensors, "h.9.ln_1.bias": torch.zeros(64)},
    "duplicated": lambda tensors: {**tensors, "transformer.ln_f.bias": torch.zeros(64)},
    "NaN": lambda tensors: {**tensors, "ln_f.bias": torch.full((64,), torch.nan)},
    "integers": lambda tensors: {**tensors, "ln_f.bias": torch.ones(64, dtype=torch.int32)},
}
BYTES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "header longer than the file": lambda content: b"\xff\xff\xff\x7f\0\0\0\0" + content[8:],
    "header of 2**63": lambda content: b"\0" * 7 + b"\x80" + content[8:],
    "offsets beyond the end": lambda content: content.replace(
        b'"data_offsets":[0,', b'"data_offsets":[9,'
    ),
    "a web page": lambda content: b"<!DOCTYPE html><title>Not found</title>" * 100,
    "a pickle": lambda content: b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.",
}


@pytest.mark.faults("damaged weights")
@pytest.mark.parametrize("damage", [*WEIGHTS, *BYTES])
def test_damaged_weights(damage: str, checkpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    original = Path(checkpoint) / "model.safetensors"
    if damage in WEIGHTS:
        tensors = {k.removeprefix("transformer."): v for k, v in load_file(original).items()}
        save_file(WEIGHTS[damage](tensors), path)
    else:
        path.write_bytes(BYTES[damage](original.read_bytes()))
    status, out, err = finish(start(tmp_path / "runs", *RUN, "--weights", str(path)))
    assert (status, out) == (1, "")
    assert str(path) in err
    assert not (tmp_path / "pwned").exists()
    assert not Path("pwned").exists()


# ---------------------------------------------------------------- texts

TABLES = {
    "empty": b"",
    "names only": b"Label,Text\n",
    "no such column": b"class,words\na,b\n",
    "one class": b"Label,Text\n" + b"a,b\n" * 30,
    "NUL bytes": b"Label,Text\na,b\0c\n" + b"a,b\nc,d\n" * 30,
    "Latin-1": b"Label,Text\na,caf\xe9\n" + b"a,b\nc,d\n" * 30,
    "UTF-16": ("Label,Text\n" + "a,b\nc,d\n" * 30).encode("utf-16"),
    "a quote that never closes": b'Label,Text\na,"b\n' + b"a,b\nc,d\n" * 30,
    "rows of different length": b"Label,Text\n" + b"a,b\nc,d,e\n" * 30,
    "a class of one text": b"Label,Text\nrare,b\n" + b"a,b\nc,d\n" * 30,
    "a zip": b"PK\x03\x04" + bytes(range(256)) * 4,
}
GOOD_TABLES = {
    "a million characters": b"Label,Text\na," + b"word " * 200_000 + b"\n" + b"a,b\nc,d\n" * 30,
    "a byte-order mark": b"\xef\xbb\xbfLabel,Text\n" + b"a,b\nc,d\n" * 30,
    "CRLF": b"Label,Text\r\n" + b"a,b\r\nc,d\r\n" * 30,
    "formulas": b"Label,Text\n=1+1,\"=cmd|'/C calc'!A0\"\n@a,-1\n" * 1 + b"=1+1,b\n@a,c\n" * 30,
    "empty texts": b"Label,Text\n" + b"a,\na,b\nc,d\n" * 30,
    "special tokens": b"Label,Text\n" + b"a,<|endoftext|>\nc,NA\nc,d\n" * 30,
    "any characters": "Label,Text\n🙂,\u202e\u0000é\uffff\n".replace("\0", "").encode()
    + "🙂,ß\nc,d\n".encode() * 30,
}
OWN = ["--model_size", "gpt2-tiny (3M)", "--weights", "random", "--max_steps", "2"]


@pytest.mark.faults("damaged tables of texts")
@pytest.mark.parametrize("fault", TABLES)
def test_damaged_tables(fault: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(TABLES[fault])
    flags = ["--dataset", str(tmp_path / "a.csv"), *OWN]
    status, out, err = finish(start(tmp_path / "runs", *flags))
    assert (status, out) == (1, "")
    assert "a.csv" in err
    assert err.count("\n") < 8


@pytest.mark.faults("unusual tables of texts")
@pytest.mark.parametrize("kind", GOOD_TABLES)
@pytest.mark.skipif("TIKTOKEN_CACHE_DIR" not in os.environ, reason="needs GPT-2's vocabulary")
def test_unusual_tables(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(GOOD_TABLES[kind])
    flags = ["--dataset", str(tmp_path / "a.csv"), *OWN, "--context_length", "50", "--save_model"]
    flags += ["--drop_incomplete"]
    status, out, err = finish(start(tmp_path / "runs", *flags))
    assert status == 0, err
    assert "Test balanced accuracy" in out
    (record,) = read_records(tmp_path / "runs")
    script = SCRIPT.with_name("predict.py")
    found = subprocess.run(
        [sys.executable, script, record.folder, "--csv", tmp_path / "a.csv", "--format", "csv"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    n_texts = len(record.predictions) + record.result["accuracy"]["validation"]["total"]
    assert len(found.stdout.splitlines()) > n_texts


# ---------------------------------------------------------------- the count


def test_the_page_counts_them(request: pytest.FixtureRequest) -> None:
    if request.config.option.keyword or request.config.args != request.config.getini("testpaths"):
        pytest.skip("counts all tests, and only some were asked for")
    counts = count_faults(request.session.items)
    table = "".join(f"| {kind} | {number} |\n" for kind, number in sorted(counts.items()))
    table += f"| all | {counts.total()} |\n"
    assert table in (SCRIPT.parent / "docs" / "reliability.md").read_text()
