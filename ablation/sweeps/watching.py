"""A run at work, on a terminal: a panel with its losses, accuracies, and the time left.

Elsewhere there are plain lines, as :mod:`ablation.system.progress` has them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from ablation.config.runs import Run
from ablation.finetuning.outcomes import ExperimentResult
from ablation.finetuning.training_state import TrainingState
from ablation.sweeps.panel import Panel
from ablation.system.live import LiveArea, find_terminal
from ablation.system.parallel import is_first
from ablation.system.progress import Progress, shown_by


class Watch:
    """One run, on a terminal; a callback of :func:`train`. It is drawn where work goes on.

    Args:
        console: of the terminal; without one, nothing is shown.
        place: of the run in a sweep, in words.
    """

    def __init__(self, console: Console | None, run: Run, place: str) -> None:
        self._is_shown, self._area = False, console and LiveArea(console, self.render)
        self._panel = Panel(run, place, encoding=console.encoding if console else "utf-8")
        self._state: TrainingState | None = None
        self._work: Progress | None = None
        self._result: ExperimentResult | None = None
        self._until_end = ExitStack()

    def restore(self, state: TrainingState) -> None:
        """Note where the run keeps what it finds, also from before it was stopped."""
        self._state = state

    def after_update(self, state: TrainingState, ends_epoch: bool) -> None:
        """Nothing: the panel reads what it shows when it is drawn."""

    def note(self, result: ExperimentResult) -> None:
        """Show the figures of a complete run."""
        self._result = result

    def show(self, work: Progress) -> None:
        """Draw how far work has come, at most every half a second."""
        self._work = work
        if not self._is_shown:
            self._is_shown = True
            self._until_end.enter_context(self._area)
        self._area.refresh()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The run, inside, is on the terminal from its first work on."""
        with self._until_end, shown_by(self.show):
            yield

    def render(self, columns: int, rows: int) -> list[Text]:
        """The panel as it is now, on a terminal of that size."""
        panel = replace(self._panel, work=self._work, result=self._result)
        if state := self._state:
            panel = replace(panel, history=state.history, epoch_ends=state.epoch_ends)
        return panel.lines(columns, rows)


@contextmanager
def watched(run: Run, place: str, wanted: bool) -> Iterator[Watch]:
    """A run, inside, that is shown while it works, if that is ``wanted`` and standard error is a
    terminal."""
    console = find_terminal() if wanted and is_first() else None
    watch = Watch(console, run, place)
    if not console:
        yield watch
        return
    with watch.shown():
        yield watch
