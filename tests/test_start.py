"""The first moments of both scripts: what needs no package, what is missing, and being stopped."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import SCRIPT, read_until

PREDICT = SCRIPT.with_name("predict.py")
# Imported in place of PyTorch: it is slow, and swallows whatever is raised meanwhile.
SLOW_TORCH = """
import time
print("importing", flush=True)
for _ in range(100):
    try:
        time.sleep(1)
    except BaseException:
        pass
"""


def run(*command: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([SCRIPT, "--help"], 0, "--trainable_layers"),
        ([SCRIPT, "--list"], 0, "python additional_experiments.py --average_embeddings"),
        ([SCRIPT, "--version"], 0, "PyTorch not installed"),
        ([SCRIPT, "--no_such_flag", "--batch_size", "0"], 2, "--batch_size 0"),
        ([SCRIPT, "--rows", "1-3", "--device", "gpu", "--num_seeds", "3"], 2, 'mean "cuda"'),
        ([PREDICT, "--help"], 0, "--column"),
        ([PREDICT, "nowhere", "--device", "gpu"], 2, "nowhere: no such folder"),
    ],
    ids=lambda value: " ".join(map(str, value[1:])) if isinstance(value, list) else "",
)
def test_what_needs_no_package_is_answered_without_any(
    arguments: list[object], status: int, words: str
) -> None:
    found = run("-S", *arguments)  # which hides all packages
    assert found.returncode == status, found.stderr
    assert words in found.stdout + found.stderr
    assert (found.stderr == "") == (status == 0)


@pytest.mark.parametrize(
    "arguments",
    [[SCRIPT], [SCRIPT, "--report"], [SCRIPT, "--device", "cuda"], [PREDICT, ".", "text"]],
    ids=lambda arguments: " ".join(map(str, arguments[1:])),
)
def test_a_missing_package_is_one_line(arguments: list[object]) -> None:
    found = run("-S", *arguments)
    assert (found.returncode, found.stdout) == (1, "")
    error = found.stderr.splitlines()[-1]
    assert re.search(r"^Error: the package \w+ is not installed for ", error)
    assert error.endswith(f"-m pip install -r {SCRIPT.with_name('requirements.txt')}")
    assert "Traceback" not in found.stderr


def test_a_broken_package_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libc.so.7: not found\\nmore')")
    found = run(SCRIPT, "--report", PYTHONPATH=str(tmp_path))
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("Error: a package cannot be imported (libc.so.7: not found)")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[SCRIPT, "--help"], [SCRIPT, "--x"], [PREDICT, "--help"]])
def test_help_and_mistakes_are_fast(arguments: list[object]) -> None:
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert usage.ru_utime + usage.ru_stime < 0.7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "arguments",
    [[SCRIPT], [SCRIPT, "--precision", "bf16"], [SCRIPT, "--report"], [PREDICT, ".", "text"]],
    ids=lambda arguments: " ".join(map(str, arguments[1:])),
)
def test_a_signal_while_modules_are_imported(
    arguments: list[object], number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text(SLOW_TORCH)
    for rank, n_lines in ("0", 1), ("1", 0):  # of torchrun's processes, one speaks
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": str(tmp_path), "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        read_until(process, "importing")
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 128 + number
        assert (out, err.count("Interrupted"), err.count("Traceback")) == ("", n_lines, 0)
        assert len(err.splitlines()) <= n_lines + 1, "beside the row that is announced"


def test_a_run_imports_no_package_that_it_does_not_need(tmp_path: Path) -> None:
    """PyTorch's compiler and scikit-learn each take a second."""
    needless = ("torch._dynamo", "sympy", "sklearn", "scipy.stats", "matplotlib", "transformers")
    code = f"""if True:
        import sys
        from additional_experiments import main
        main(["--demo", "--max_steps", "1", "--output_dir", {str(tmp_path)!r}])
        sys.exit(str([name for name in {needless} if name in sys.modules]))"""
    found = run("-c", code, PYTHONPATH=str(SCRIPT.parent))
    assert found.stderr.splitlines()[-1] == "[]", found.stderr
