"""The list of rows for people, with what each costs here: read with json only, so at once."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from ablation.config.options import OPTIONS, without
from ablation.config.runs import RESULT_NAME
from ablation.config.tables import Name, Row, Table
from ablation.system.errors import shorten
from ablation.system.output import printable
from ablation.system.version import PROJECT

RESULTS = PROJECT / "results"
COSTING = [name for name in without("circumstance", "repeat") if name != "weights"]


def list_rows(table: Table, output_dir: Path) -> str:
    """The rows: name, question, published figures, minutes here, and command of each."""
    here, measured = _read_minutes(table, output_dir), _read_minutes(table, RESULTS)
    width = max(3, *(len(str(name)) for name in table.rows))
    lines = [
        "Published: accuracies in %, minutes on its machine. Here: minutes of the runs",
        f"in {shorten(printable(str(output_dir)), 35)}; in brackets, of those in results/.",
        "",
        f"{'row':<{width}}  {'question':<31} train    val   test  minutes  here",
    ]
    processors = set()
    for name, row in table.rows.items():
        cost = ""
        if minutes := here.get(name):
            cost = f"{median(m for m, _ in minutes):.1f}"
        elif minutes := measured.get(name):
            cost = f"({median(m for m, _ in minutes):.1f})"
            processors |= {processor for _, processor in minutes}
        figures = " ".join(
            f"{value:{w}.2f}" if value is not None else " " * w
            for value, w in zip(asdict(row.published).values(), (6, 6, 6, 8), strict=True)
        )
        question = printable(row.question)
        lines += [f"{name:>{width}}  {question:<31} {figures}  {cost}".rstrip()]
        lines += [f"{'':{width}}  {row.command}"]
    if processors:
        lines += ["", "In brackets, measured on:", *(f"  {name}" for name in sorted(processors))]
    return "\n".join(lines)


def _read_minutes(table: Table, folder: Path) -> dict[Name, list[tuple[float, str]]]:
    """Minutes and processor of the complete runs of each row, weights and seed aside."""
    found: dict[Name, list[tuple[float, str]]] = {}
    for path in sorted(folder.glob(f"*/{RESULT_NAME}")):
        try:
            result = json.loads(path.read_bytes())
            if result["status"] != "complete":
                continue
            seconds, device = result["seconds"], result["device"]
            stored = seconds.get("stored", 0)
            minutes = (seconds["features"] + stored + seconds["training"]) / 60
            processor = f"{device['name']} ({device['threads']} threads)"
            rows = [name for name, row in table.rows.items() if _is_run_of(row, result["flags"])]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # what is wrong with a record, a report says
        for name in rows:
            found.setdefault(name, []).append((minutes, printable(processor)))
    return found


def _is_run_of(row: Row, flags: Mapping[str, Any]) -> bool:
    return all(flags.get(n, OPTIONS[n].default) == getattr(row.config, n) for n in COSTING)
