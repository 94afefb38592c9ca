import pytest
import torch

from ablation.system.errors import (
    ConfigError,
    Problem,
    TensorFileError,
    describe_error,
    is_out_of_memory,
    shorten,
)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_runs_out_is_known_without_pytorch(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert "A smaller --batch_size" in describe_error(error)


def test_other_errors_are_not_out_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert describe_error(RuntimeError("shapes\ndiffer")) == "RuntimeError: shapes"
    assert describe_error(TensorFileError("two\nlines")) == "two\nlines"


def test_a_problem_says_where_it_stands_from_outside_in() -> None:
    problem = Problem("--batch_size 0", "too small")
    assert str(problem) == "--batch_size 0: too small"
    inside = problem.within('row "a"').within('--table "t.toml"')
    assert str(inside) == '--table "t.toml": row "a": --batch_size 0: too small'
    assert (inside.flag, inside.sentence) == (problem.flag, problem.sentence)
    assert problem == Problem("--batch_size 0", "too small", place=""), "it is a value"
    whole = Problem("", "no such file").within("t.toml")
    assert str(ConfigError([whole, problem])) == "t.toml: no such file\n--batch_size 0: too small"


def test_what_is_long_is_shortened() -> None:
    assert shorten("a" * 200) == "a" * 200
    assert shorten("a" * 201) == "a" * 200 + "..."
    assert shorten("abc", 2) == "ab..."
    assert shorten(10**5000) == "a number of thousands of digits"
