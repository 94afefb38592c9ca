"""In place of wandb, trackio or mlflow: writes down how it is called, and fails where it is told.

FAKE_CALLS names the file, and FAKE_FAULT is "WHERE HOW": import, start, log or end; and what.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

WHERE, _, HOW = os.environ.get("FAKE_FAULT", "").partition(" ")
FAULTS = {
    "raise": lambda: 1 / 0,
    "quote": lambda: sys.exit("x" * 300),
    "exit": lambda: sys.exit("I leave"),
    "interrupt": lambda: signal.raise_signal(signal.SIGINT),
    "die": lambda: os._exit(3),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "sleep": lambda: time.sleep(1000),
    "hang": lambda: time.sleep(1000),
}
print("a tracker speaks", flush=True)
os.write(1, b"a tracker speaks\n")
os.write(2, b"a tracker speaks\n")


def note(_where: str, _name: str, **call: object) -> None:
    if _where == WHERE:
        FAULTS[HOW]()
    with Path(os.environ["FAKE_CALLS"]).open("a") as file:
        file.write(json.dumps({"call": _name, **call}) + "\n")


note("import", "import", signals=signal.getsignal(signal.SIGINT) == signal.default_int_handler)


def init(project: str, name: str, config: dict) -> None:
    note("start", "init", project=project, name=name, config=config)


def log(metrics: dict, step: int | None = None) -> None:
    note("log", "log", metrics=metrics, step=step)


def finish(exit_code: int | None = None) -> None:
    note("end", "finish", status=exit_code)


def start_run(run_name: str) -> None:
    note("start", "init", name=run_name)


def log_params(params: dict) -> None:
    note("start", "params", config=params)


def log_metrics(metrics: dict, step: int | None = None) -> None:
    note("log", "log", metrics=metrics, step=step)


def end_run(status: str) -> None:
    note("end", "finish", status=status)
