"""A run at work on a terminal: what a person sees, drawn by a terminal of our own."""

import fcntl
import logging
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyte
import pytest
from helpers import SCRIPT

from ablation.finetuning import training
from ablation.sweeps import panel
from ablation.sweeps.curves import draw_curves
from ablation.system import live
from ablation.system.errors import logger
from ablation.system.progress import Progress, shown_by
from additional_experiments import main

FLAGS = ["--demo", "--max_steps", "6", "--eval_freq", "1", "--rows", "16"]
ACTS_ON_CURSOR = b"\x1b[?25l"


class Terminal:
    """A pseudo-terminal, and what it shows."""

    def __init__(self, columns: int, rows: int) -> None:
        self._master, self.slave = pty.openpty()
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self._stream, self.raw = pyte.ByteStream(self.screen), b""
        self._set_size(columns, rows)
        self._lock, self._hangs_up = threading.Lock(), False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def resize(self, columns: int, rows: int) -> None:
        self.settle()
        self._set_size(columns, rows)
        self.screen.resize(rows, columns)

    def settle(self) -> None:
        """Wait until all that was written is on the screen."""
        while True:
            with self._lock:
                if not self._has_more(0):
                    return
            time.sleep(0.005)

    def _has_more(self, seconds: float) -> bool:
        return bool(select.select([self._master], [], [], seconds)[0])

    def close(self) -> None:
        if not self._hangs_up:
            self.settle()
        os.close(self.slave)
        self._thread.join()
        if not self._hangs_up:
            os.close(self._master)

    def hang_up(self) -> None:
        """Go away, as that of a lost connection."""
        self._hangs_up = True
        os.write(self.slave, b"\n")  # wakes who reads
        self._thread.join()
        os.close(self._master)

    @property
    def lines(self) -> list[str]:
        """The screen."""
        self.settle()
        return [line.rstrip() for line in self.screen.display]

    @property
    def all_lines(self) -> list[str]:
        """The same below what has left it."""
        self.settle()
        gone = ["".join(row[i].data for i in sorted(row)) for row in self.screen.history.top]
        return [line.rstrip() for line in gone] + self.lines

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self) -> None:
        while True:
            self._has_more(10)
            with self._lock:
                if self._hangs_up:
                    return
                try:
                    read = os.read(self._master, 65536) if self._has_more(0) else b""
                except OSError:  # it was closed
                    return
                self._stream.feed(read)
                self.raw += read


@pytest.fixture
def open_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Iterator[Callable[..., Terminal]]:
    """Puts a terminal in place of standard error, and of standard output unless told otherwise."""
    opened = []
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(live, "REDRAW_SECONDS", 0.0)

    def open_it(columns: int, rows: int, encoding: str = "utf-8", stdout: bool = True) -> Terminal:
        opened.append(terminal := Terminal(columns, rows))
        for name in ("stderr", "stdout")[: 1 + stdout]:
            file = open(os.dup(terminal.slave), "w", encoding=encoding, buffering=1)  # noqa: SIM115
            opened.append(file)
            monkeypatch.setattr(sys, name, file)
        return terminal

    yield open_it
    monkeypatch.undo()
    for one in reversed(opened):
        with suppress(OSError):  # the terminal has hung up
            one.close()


@contextmanager
def looking(monkeypatch: pytest.MonkeyPatch, look: Callable[[int], None]) -> Iterator[None]:
    """Inside, ``look`` is called before each step, with its number."""
    true, number = training._backward, iter(range(10**6))

    def backward(*arguments: object) -> None:
        look(next(number))
        true(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(training, "_backward", backward)
        yield


def protocol_lines(text: str) -> list[str]:
    starts = ("Ep ", "Training accuracy", "Validation accuracy", "Test accuracy")
    return [line for line in text.splitlines() if line.startswith(starts)]


@pytest.fixture
def plain_lines(few_demo_messages: None, capsys: pytest.CaptureFixture) -> list[str]:
    """What the run prints where there is no terminal."""
    assert main([*FLAGS, "--output_dir", "plain"]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    return protocol_lines(out)


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (200, 50)])
def test_a_run_on_a_terminal(
    size: tuple[int, int],
    open_terminal: Callable[..., Terminal],
    plain_lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal, screens = open_terminal(*size), []
    with looking(monkeypatch, lambda step: screens.append(terminal.lines)):
        assert main(FLAGS) == 0
    first = next(i for i, line in enumerate(screens[-1]) if line.startswith("Row 16: the last"))
    assert "training " in screens[-1][first + min(13, 2 * size[1] // 3) - 1]
    assert " of 6 steps, " in "".join(screens[-1])
    assert "epoch 1" in "".join(screens[-1])
    assert "train 0." in "".join(screens[-1])
    text = "\n".join(terminal.all_lines)
    if size[0] >= 60:  # else they are wrapped
        assert protocol_lines(text) == plain_lines, "above the panel, each of them, once"
    assert text.count("Row 16: the last token") == 1, "of the panel, the last remains"
    assert "here " in text or "\ntest " in text
    assert " steps" not in text
    assert ACTS_ON_CURSOR not in terminal.raw


def test_what_is_piped_is_untouched(
    open_terminal: Callable[..., Terminal], plain_lines: list[str], capsys: pytest.CaptureFixture
) -> None:
    terminal = open_terminal(80, 24, stdout=False)
    assert main(FLAGS) == 0
    out = capsys.readouterr().out
    assert protocol_lines(out) == plain_lines
    assert "\x1b" not in out
    assert not protocol_lines("\n".join(terminal.all_lines))


@pytest.mark.parametrize("case", ["dumb", "no_watch"])
def test_where_it_is_not_wanted(
    case: str,
    open_terminal: Callable[..., Terminal],
    few_demo_messages: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = open_terminal(80, 24)
    if case == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    assert main([*FLAGS, *["--no_watch"] * (case == "no_watch")]) == 0
    text = "\n".join(terminal.all_lines)
    assert "the last token" not in text
    assert "training: 100%" in text, "a bar instead"


def test_without_utf_8_and_colours(
    open_terminal: Callable[..., Terminal],
    few_demo_messages: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal, screens = open_terminal(80, 24, encoding="ascii"), []
    with looking(monkeypatch, lambda step: screens.append(terminal.lines)):
        assert main(FLAGS) == 0
    assert terminal.raw.isascii()
    assert "\\u" not in terminal.raw.decode()
    assert not any(f"\x1b[{n}".encode() in terminal.raw for n in ("3", "1;3", "9"))
    assert any(" |" in line and "t" in line and "train" not in line for line in screens[-1])


def test_a_terminal_of_another_size(
    open_terminal: Callable[..., Terminal],
    few_demo_messages: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = open_terminal(100, 30)
    sizes, screens = {2: (30, 8), 3: (12, 3), 4: (1, 1), 5: (90, 40)}, []

    def look(step: int) -> None:
        screens.append(terminal.lines)
        if step in sizes:
            terminal.resize(*sizes[step])

    with looking(monkeypatch, look):
        assert main(FLAGS) == 0
    narrow, tiny = screens[3], screens[4]
    assert sum(line.startswith("Row 16") for line in narrow) == 1
    assert not any(line.startswith("accuracy") for line in narrow), "nothing of what was wide"
    assert [line[:8] for line in tiny if line] == ["Row 16: ", "4 of 6 s"]
    assert sum(line.startswith("Row 16: ") for line in terminal.lines) == 1
    assert "Test accuracy: " in "".join(terminal.lines)


def test_an_error_leaves_the_terminal_as_it_was(
    open_terminal: Callable[..., Terminal], few_demo_messages: None
) -> None:
    terminal = open_terminal(80, 24)
    streams = sys.stdout, sys.stderr
    assert main(["--demo", "--learning_rate", "1e9", "--max_steps", "3", "--eval_freq", "1"]) == 1
    assert (sys.stdout, sys.stderr) == streams
    lines = [line for line in terminal.all_lines if line]
    assert "not finite, so the run stops" in " ".join(lines[-3:]), "below the panel"
    assert any(line.startswith("training ") for line in lines)


def test_a_panel_never_costs_a_run(
    open_terminal: Callable[..., Terminal],
    few_demo_messages: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(panel, "draw_curves", fail)
    terminal = open_terminal(80, 24)
    assert main(FLAGS) == 0
    text = "\n".join(terminal.all_lines)
    assert text.count("The panel cannot be drawn: ZeroDivisionError: no") == 1
    assert "Test accuracy: " in text


@pytest.mark.parametrize("case", ["hung up", "closed", "two terminals"])
def test_a_terminal_that_goes_away_never_costs_a_run(
    case: str,
    open_terminal: Callable[..., Terminal],
    plain_lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    other = open_terminal(80, 24) if case == "two terminals" else None
    terminal = open_terminal(80, 24, stdout=False)
    streams = sys.stdout, sys.stderr

    def look(step: int) -> None:
        if step == 2 and case == "closed":
            with open(os.devnull) as nothing:  # that cannot be written to
                os.dup2(nothing.fileno(), streams[1].fileno())
        elif step == 2:
            terminal.hang_up()
        logger.info("what is said to nobody")

    with looking(monkeypatch, look):
        assert main(FLAGS) == 0
    assert (sys.stdout, sys.stderr) == streams
    text = "\n".join(other.all_lines) if other else capsys.readouterr().out
    assert protocol_lines(text) == plain_lines
    assert "\x1b" not in text


def test_standard_output_that_goes_away_is_an_error(
    open_terminal: Callable[..., Terminal],
    few_demo_messages: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    gone = open_terminal(80, 24)
    terminal = open_terminal(80, 24, stdout=False)
    with looking(monkeypatch, lambda step: gone.hang_up() if step == 2 else None):
        assert main(FLAGS) == 1
    text = "\n".join(terminal.all_lines)
    assert "Error: [Errno 5] Input/output error." in text
    assert "Test accuracy" not in text


def test_an_area_that_cannot_begin_leaves_the_streams(
    open_terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_terminal(80, 24)
    streams = sys.stdout, sys.stderr

    def stop(handler: logging.StreamHandler, stream: object) -> None:
        handler.stream = stream
        if stream is not streams[1]:
            raise KeyboardInterrupt

    handler = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logging.StreamHandler, "setStream", stop)
    with pytest.raises(KeyboardInterrupt), live.LiveArea(live.find_terminal(), lambda *_: []):
        pass
    assert (sys.stdout, sys.stderr, handler.stream) == (*streams, streams[1])


def test_a_sweep_and_a_resumed_run(
    open_terminal: Callable[..., Terminal],
    few_demo_messages: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    flags = [*FLAGS, "--seeds", "123", "7", "--keep_best"]

    def stop(step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with looking(monkeypatch, stop):
        assert main(flags) == 130
    terminal, screens = open_terminal(90, 40), []
    with looking(monkeypatch, lambda step: screens.append(terminal.lines)):
        assert main(flags) == 0
    assert any(line.startswith("Row 16, seed 7") and "run 1 of 2" in line for line in screens[0])
    first = "\n".join(screens[0])
    assert "epoch 1 " in first, "what was found before it was stopped"
    assert "epoch 2 " not in first
    assert "training" in first, "and no bar of an evaluation in between stays"
    text = "\n".join(terminal.all_lines)
    assert "Row 16: the last token" in text
    assert text.count("run 2 of 2") == 1


@pytest.mark.slow
def test_ctrl_c_on_a_terminal(tmp_path: Path) -> None:
    terminal = Terminal(80, 24)
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--demo", "--rows", "5", "--num_epochs", "500"],
        cwd=tmp_path,
        stdout=terminal.slave,
        stderr=terminal.slave,
        env={**os.environ, "TERM": "xterm"},
    )
    deadline = time.monotonic() + 60
    while " of 26,000 steps, " not in "".join(terminal.lines) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    lines = [line for line in terminal.lines if line]
    assert lines[-2].startswith("Interrupted. With --resume a run goes on from here")
    assert sum(" of 26,000 steps" in line for line in lines) == 1
    assert sum(line.startswith("Stopping after this step") for line in lines) == 1
    assert ACTS_ON_CURSOR not in terminal.raw
    terminal.close()


# ---------------------------------------------------------------- its parts


def test_curves_are_where_their_values_are() -> None:
    rows = draw_curves([[(0, 2.0), (4, 0.0)], [(0, 0.0), (4, 1.0)]], 4, 5, 3, braille=False)
    drawn = ["".join(character for character, _ in row) for row in rows]
    assert drawn == ["tt   ", "  tvv", "vvvtt"]
    for braille in (True, False):
        ((one,),) = draw_curves([[(0, 1.0)], [(0, 1.0)]], 1, 1, 1, braille)
        assert one[0] in ("b", "\u2840"), "one point, and no scale"


def test_work_is_shown_instead_of_a_bar_but_for_downloads(capfd: pytest.CaptureFixture) -> None:
    seen = []
    with shown_by(lambda work: seen.append((work.what, work.done))):
        with Progress("reading", "texts", 4) as work:
            work.skip(1)
            work.update(1)
            assert 0 <= work.seconds_left < 60
        with Progress("download", "bytes", 4) as work:
            work.update(4)
            assert work.seconds_left == 0
    assert seen == [("reading", 1), ("reading", 2)]
    with Progress("reading", "texts", 4) as work:
        work.update(1)
    assert len(seen) == 2


def test_the_time_left_is_that_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("ablation.system.progress.time.monotonic", lambda: now)
    with Progress("training", "steps", 100) as work:
        assert work.seconds_left is None
        work.skip(40)
        assert work.seconds_left is None
        now += 30
        work.update(20)
        assert work.seconds_left == pytest.approx(60), "40 steps at 1.5 seconds"
