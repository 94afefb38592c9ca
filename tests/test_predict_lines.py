"""What predict.py makes of standard input, and of labels that a spreadsheet would compute."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import config_from_flags, environment_without_network

import predict
from ablation.classifier.saved_models import load_classifier
from ablation.config.runs import OutputOptions
from ablation.data.demo import byte_encoding
from ablation.data.texts_to_classify import read_lines
from ablation.finetuning.classify import classify_texts
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.prediction_lines import Prediction, format_prediction
from ablation.system.errors import DataError
from ablation.system.output import disarm, use_utf8, write


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Makes bytes the standard input, which ends lines with LF alone, as Python starts."""

    def give(content: bytes) -> None:
        stdin = io.TextIOWrapper(io.BytesIO(content), encoding="ascii", newline="\n")
        monkeypatch.setattr(sys, "stdin", stdin)

    return give


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"a", ["a"]),
        (b"a\rb\rc\r", ["a", "b", "c"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\nc\r\nd", ["a", "b", "c", "d"]),
        (b"a\n\rb", ["a", "", "b"]),
        (b"\r\r\n\n", ["", "", ""]),
        (b"\xef\xbb\xbfa\r\xef\xbb\xbfb", ["a", "\ufeffb"]),
        (b" a \t\n", [" a \t"]),
        ("a\u2028b\x0bc\x85d\x1ce\n".encode(), ["a\u2028b\x0bc\x85d\x1ce"]),
        ("ü€🙂\r".encode() * 3000, ["ü€🙂"] * 3000),  # pieces end within characters and CRLF
        (b"ab\r\n" * 5001, ["ab"] * 5001),
        (b"x" * 3_000_000, ["x" * 3_000_000]),
    ],
)
def test_lines_end_with_lf_crlf_or_cr(give: Callable, content: bytes, lines: list[str]) -> None:
    give(content)
    assert list(read_lines()) == lines


@pytest.mark.parametrize(
    ("content", "n_good", "words"),
    [
        (b"a\nb\n\xe9t\xe9\nd", 2, ("line 3", "byte 0xe9 at place 1", "iconv -f cp1252")),
        (b"a\rb\r\xff", 2, ("line 3", "byte 0xff")),
        ("a\nbü".encode()[:-1], 1, ("line 2", "byte 0xc3 at place 2")),
        (b"\xed\xa0\x80", 0, ("line 1", "byte 0xed")),  # a surrogate
        ("hello\nyou".encode("utf-16"), 0, ("line 1", "iconv -f utf-16")),
        ("hello\nyou".encode("utf-16-le"), 0, ("line 1", "NUL", "iconv -f utf-16")),
        ("hello\nyou".encode("utf-16-be"), 0, ("line 1", "NUL", "iconv -f utf-16")),
        (b"ok\nan\0other", 1, ("line 2", "NUL")),
    ],
)
def test_what_is_no_text_is_named_with_its_line(
    give: Callable, content: bytes, n_good: int, words: tuple[str, ...]
) -> None:
    give(content)
    lines = read_lines()
    for _ in range(n_good):
        next(lines)
    with pytest.raises(DataError) as error:
        next(lines)
    assert all(word in str(error.value) for word in ("Standard input", *words))


# ---------------------------------------------------------------- spreadsheets

FORMULAS = [
    *("=1+1", "+1+1", "-1+1", "@SUM(A1)", "=", "-", "--1", "+-1", "-inf", "-x", "-1_0", "-1,5"),
    *(
        "\tx",
        "\rx",
        "\nx",
        " =1",
        "\u00a0=1",
        "\u3000@a",
        "\ufeff=1",
        "\u200b=1",
        "\x00=1",
        " \t=1",
    ),
    *(
        "\uff1d1+1",
        "\uff0b1",
        "\uff0d1",
        "\uff20a",
        "\ufe621",
        "\ufe631",
        " \uff1d1",
        '=HYPERLINK("x")',
    ),
]
HARMLESS = [
    *("", "ham", "a=1", "1-2", "0", "-1", "+1", "-0.5", "+1e5", "-1.5E-3", " spam", "'=1", "a\tb"),
    *("é", "你好", "#1", "(1)", '"=1"', "5@", "*"),
]


@pytest.mark.parametrize("label", FORMULAS)
def test_no_label_is_a_formula(label: str) -> None:
    assert disarm(label) == "'" + label
    line = format_prediction(0, Prediction("", label, 0.5), "csv")
    (cells,) = csv.reader(io.StringIO(line, newline=""))
    assert cells == ["0", "'" + label, "0.5"]
    assert json.loads(format_prediction(0, Prediction("", label, 0.5), "jsonl"))["label"] == label


@pytest.mark.parametrize("label", HARMLESS)
def test_other_labels_stay(label: str) -> None:
    line = format_prediction(0, Prediction("", label, 0.5), "csv")
    (cells,) = csv.reader(io.StringIO(line, newline=""))
    assert cells == ["0", label, "0.5"]


def test_csv_is_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", "backslashreplace"))
    use_utf8()
    write(format_prediction(0, Prediction("", "é€", 0.5), "csv"))
    assert raw.getvalue() == '0,"é€",0.5\n'.encode()


def test_the_help_says_so(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        predict.build_parser().parse_args(["--help"])
    assert "formula has an apostrophe before it" in " ".join(capsys.readouterr().out.split())


# ---------------------------------------------------------------- at a terminal


@pytest.mark.slow
def test_a_line_that_is_typed_is_answered_at_once(tmp_path: Path) -> None:
    output = OutputOptions(tmp_path, save_model=True)
    run_experiment(config_from_flags(["--demo", "--max_steps", "1"]), output=output)
    keyboard, stdin = pty.openpty()
    with subprocess.Popen(
        [sys.executable, predict.__file__, tmp_path],
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
        env=environment_without_network(tmp_path, OMP_NUM_THREADS="1"),
    ) as process:
        for text in ("one", "two"):
            os.write(keyboard, f"{text}\n".encode())
            assert process.stdout.readline().endswith(f"  {text}\n")
        os.write(keyboard, b"\x04")  # the end, as Ctrl-D types it
        assert process.wait(30) == 0


def test_long_work_says_how_many_texts_are_classified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "experiments")
    output = OutputOptions(tmp_path, save_model=True)
    run_experiment(config_from_flags(["--demo", "--max_steps", "1"]), output=output)
    caplog.clear()
    monkeypatch.setattr("ablation.system.progress.LINE_SECONDS", 0.0)
    monkeypatch.setattr(
        "ablation.finetuning.classify.batch_by_length", lambda lengths, *_: [[0], [1]]
    )
    classifier = load_classifier(tmp_path, {})
    texts = ["a", "b", "a", "a"]
    assert len(list(classify_texts(classifier, byte_encoding(), texts))) == 4
    said = [f"classified: {n} texts, 0 s" for n in (3, 4)]
    assert caplog.messages == said, "equal texts count, although they are classified once"
