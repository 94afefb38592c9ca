"""How far work has come, off a terminal and on one."""

import io
import logging
from collections.abc import Iterator

import pytest
from fault_server import FaultServer, send

from ablation.system import progress
from ablation.system.downloads import fetch
from ablation.system.progress import Progress, follow
from additional_experiments import main


@pytest.fixture(autouse=True)
def all_messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "experiments")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_short_work_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    assert list(follow("abc", "letters", "letters", 3)) == ["a", "b", "c"]
    assert caplog.messages == []


def test_long_work_has_a_line_now_and_then_and_at_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("hidden states", "texts", 2000) as work:
        for _ in range(19):
            now += 7
            work.update(100)
        now += 1
        work.update(100)
    assert caplog.messages == [
        "hidden states: 500 of 2,000 texts, 35 s",
        "hidden states: 1,000 of 2,000 texts, 70 s",
        "hidden states: 1,500 of 2,000 texts, 105 s",
        "hidden states: 2,000 of 2,000 texts, 134 s",
    ]


def test_work_that_fails_has_no_last_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)

    def fail() -> Iterator[str]:
        yield "a"
        monkeypatch.setattr(progress, "LINE_SECONDS", 30.0)
        yield "b"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(follow(fail(), "letters", "letters"))
    assert caplog.messages == ["letters: 1 letters, 0 s"]


def test_a_terminal_has_a_bar_and_no_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    assert list(follow("abc", "letters", "signs", 3)) == ["a", "b", "c"]
    assert "letters: 100%" in terminal.getvalue()
    assert caplog.messages == []


def test_what_takes_long_in_a_run_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, few_demo_messages: None
) -> None:
    flags = ["--demo", "--trainable_layers", "last_layer", "--max_steps", "2"]
    assert main(flags) == 0
    out, err = capsys.readouterr()
    assert " s\n" not in err, "a short run has no lines of how far it is"
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert main(flags) == 0
    slow_out, err = capsys.readouterr()
    assert [line for line in slow_out.splitlines() if "minutes" not in line] == [
        line for line in out.splitlines() if "minutes" not in line
    ], "results are the same"
    assert "hidden states: 40 of 40 texts, 0 s" in err.splitlines()
    assert "training: 1 of 2 steps, 0 s\ntraining: 2 of 2 steps, 0 s" in err
    assert err.count("evaluation: 1 of 1 batches, 0 s") == 2, "of validation and test"
    assert "evaluation: 3 of 3 batches, 0 s" in err


def test_a_download_says_how_far_it_is(
    fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    fetch(fault_server.address(send(bytes(256))), max_bytes=10_000)
    assert caplog.messages[-1] == "download: 256 of 256 bytes, 0 s"
