"""The list of rows for people, with what each costs here: read with json only, so at once."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from ablation.config.options import OPTIONS, without
from ablation.config.rows import ROWS, Row
from ablation.config.runs import RESULT_NAME
from ablation.system.errors import shorten
from ablation.system.output import printable
from ablation.system.version import PROJECT

RESULTS = PROJECT / "results"
COSTING = [name for name in without("circumstance", "seed") if name != "weights"]


def list_rows(output_dir: Path) -> str:
    """The rows: number, question, published figures, minutes here, and command of each."""
    here, measured = _read_minutes(output_dir), _read_minutes(RESULTS)
    lines = [
        "Published: accuracies in %, and minutes on one A100. Here: minutes of the runs",
        f"in {shorten(printable(str(output_dir)), 35)}; in brackets, of those in results/.",
        "",
        f"row  {'question':<31} train    val   test  minutes  here",
    ]
    processors = set()
    for number, row in ROWS.items():
        cost = ""
        if minutes := here.get(number):
            cost = f"{median(m for m, _ in minutes):.1f}"
        elif minutes := measured.get(number):
            cost = f"({median(m for m, _ in minutes):.1f})"
            processors |= {processor for _, processor in minutes}
        figures = f"{row.train:6.2f} {row.validation:6.2f} {row.test:6.2f}  {row.minutes:7.2f}"
        lines += [f"{number:>3}  {row.question:<31} {figures}  {cost}".rstrip()]
        lines += [f"     {row.command}"]
    if processors:
        lines += ["", "In brackets, measured on:", *(f"  {name}" for name in sorted(processors))]
    return "\n".join(lines)


def _read_minutes(folder: Path) -> dict[int, list[tuple[float, str]]]:
    """Minutes and processor of the complete runs of each row, weights and seed aside."""
    found: dict[int, list[tuple[float, str]]] = {}
    for path in sorted(folder.glob(f"*/{RESULT_NAME}")):
        try:
            result = json.loads(path.read_bytes())
            if result["status"] != "complete":
                continue
            seconds, device = result["seconds"], result["device"]
            stored = seconds.get("stored", 0)
            minutes = (seconds["features"] + stored + seconds["training"]) / 60
            processor = f"{device['name']} ({device['threads']} threads)"
            rows = [number for number, row in ROWS.items() if _is_run_of(row, result["flags"])]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # what is wrong with a record, a report says
        for number in rows:
            found.setdefault(number, []).append((minutes, printable(processor)))
    return found


def _is_run_of(row: Row, flags: Mapping[str, Any]) -> bool:
    return all(flags.get(n, OPTIONS[n].default) == getattr(row.config, n) for n in COSTING)
