"""Nothing from outside gives a terminal orders, or forges a line."""

import ast
import csv
import logging
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import torch
from fault_server import FaultServer
from safetensors.torch import load_file, save_file

import predict
from ablation.data import corpora, sms
from ablation.data.demo import byte_encoding
from ablation.system.output import LogFormatter, print_lines, printable
from ablation.system.version import code_files
from additional_experiments import main

ORDERS = "\x1b]0;x\x07\x1b[2J\x9b1A\u202e\nForged: 1\rover"
SHOWN = r"\x1b]0;x\x07\x1b[2J\x9b1A\u202e\nForged: 1\rover"
# What a terminal obeys, or what turns the order of what it shows.
CONTROLS = {*map(chr, (*range(32), *range(127, 160)))}
DIRECTIONS = {*"\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c"}
UNSEEN = {*"\u200b\u200c\u200d\u2028\u2029\u2060\ufeff\u00ad"}
SURROGATES = {*map(chr, range(0xD800, 0xE000))}
FLAGS = ["--demo", "--max_steps", "1"]

pytestmark = pytest.mark.usefixtures("few_demo_messages", "plain_pictures")


def require_shown(text: str, shown: str = SHOWN) -> None:
    """Fail unless a value is there with its escapes, and nothing acts."""
    assert shown in text
    assert not {*text} & (CONTROLS - {"\n"} | DIRECTIONS)
    assert not any(line.startswith("Forged") for line in text.split("\n"))


# ---------------------------------------------------------------- the one place


def test_what_acts_is_shown_and_nothing_else() -> None:
    acting = CONTROLS | DIRECTIONS | UNSEEN | SURROGATES
    for character in acting:
        shown = printable(f"a{character}b")
        assert shown.isascii()
        assert shown.isprintable()
        assert shown[1:-1].encode().decode("unicode_escape") == character
    for text in ("", "Grüße, 你好, привет, سلام", "a\u00a0b\u3000c", "🙂", r"C:\new\x1b"):
        assert printable(text) == text
    assert printable(ORDERS) == SHOWN


def test_results_and_logs(capsys: pytest.CaptureFixture) -> None:
    print_lines("one \x1b[2J\u202e\ntwo\r")
    assert capsys.readouterr().out == "one \\x1b[2J\\u202e\ntwo\\r\n"
    record = logging.makeLogRecord(
        {"msg": "own\nlines: %s, %d of %.1f", "args": (OSError(ORDERS), 3, 4.25)}
    )
    assert LogFormatter().format(record) == f"own\nlines: {SHOWN}, 3 of 4.2"
    assert LogFormatter().format(logging.makeLogRecord({"msg": "100 %\x1b"})) == r"100 %\x1b"


def test_errors_are_one_line() -> None:
    """What an error is made of comes from outside, so its line breaks are no line breaks."""
    for path in code_files():
        raised = [node for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.Raise]
        parts = [part for node in raised for part in ast.walk(node) if type(part) is ast.Constant]
        own = [part.lineno for part in parts if "\n" in str(part.value) != "\n"]
        assert not own, path


# ---------------------------------------------------------------- where it comes from


def answer_rudely(status: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        phrase = "\x1b]0;x\x07\x1b[2J\x9b1A"  # of which a server has a line of Latin-1
        handler.wfile.write(f"HTTP/1.0 {status} {phrase}\r\n\r\n".encode("latin-1"))

    return answer


def test_the_words_of_a_server(
    fault_server: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    urls = [fault_server.address(answer_rudely(status)) for status in (503, 404)]
    monkeypatch.setattr(sms, "DATASET_URLS", urls)
    assert main(["--weights", "random"]) == 1
    error = capsys.readouterr().err
    phrase = r"\x1b]0;x\x07\x1b[2J\x9b1A"
    require_shown(error, f"503 {phrase}; trying again")
    require_shown(error, f"404 {phrase})")


def test_names_of_tensors(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tensors = load_file(Path(checkpoint) / "model.safetensors")
    save_file({**tensors, ORDERS: torch.zeros(1)}, tmp_path / "w.safetensors")
    assert main([*FLAGS, "--weights", str(tmp_path / "w.safetensors")]) == 1
    require_shown(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (["--nothing" + ORDERS], 2),
        ([ORDERS], 2),
        (["--batch_size", ORDERS], 2),
        (["--model_size", ORDERS], 2),
        (["--rows", ORDERS], 2),
        (["--seeds", ORDERS], 2),
        (["--ray", ORDERS], 2),
        (["--weights", ORDERS], 2),
        (["--checkpoint_every", ORDERS], 2),
        (["--dataset", ORDERS], 2),
        (["--compare", ORDERS, "b"], 1),
        (["--report", "--output_dir", ORDERS], 1),
        (["--demo", "--dry_run", "--output_dir", ORDERS], 0),
        (["--dataset", __file__, "--dry_run", "--label_column", ORDERS], 0),
    ],
)
def test_flags_and_paths(flags: list[str], status: int, capsys: pytest.CaptureFixture) -> None:
    assert main(flags) == status
    require_shown("".join(capsys.readouterr()))


def write_csv(path: Path, rows: list[tuple[str, str]]) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def test_names_of_columns(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = write_csv(tmp_path / "a.csv", [("topic", ORDERS), ("a", "b")])
    assert main(["--dataset", table]) == 1
    require_shown(capsys.readouterr().err)
    assert main(["--dataset", table, "--label_column", ORDERS]) == 1
    require_shown(capsys.readouterr().err)


def test_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """In errors, in the table of classes, and in what predict.py says of a text."""
    monkeypatch.setattr(corpora, "gpt2_encoding", lambda *_: byte_encoding())
    rows = [("Label", "Text"), *((f"{ORDERS}{i % 2}", f"text {i}") for i in range(40))]
    table = write_csv(tmp_path / "a.csv", rows)
    flags = ["--dataset", table, "--model_size", "gpt2-tiny (3M)", "--weights", "random"]
    assert main([*flags, "--max_steps", "1", "--save_model"]) == 0
    require_shown(capsys.readouterr().out, SHOWN[:10])  # tables cut long labels
    (folder,) = Path("runs").glob("*/")
    assert predict.main([str(folder), ORDERS]) == 0
    out = capsys.readouterr().out
    require_shown(out)
    assert out.count(SHOWN[:20]) == 2, "the label and the text"
    write_csv(tmp_path / "b.csv", [*rows, (f"rare {ORDERS}", "x")])
    assert main(["--dataset", str(tmp_path / "b.csv")]) == 1
    require_shown(capsys.readouterr().err)
