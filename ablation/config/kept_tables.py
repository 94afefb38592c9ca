"""Tables as they are written: for people to change, and beside the runs that they were made for."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablation.config.identity import checksum_json, identify_experiment
from ablation.config.rows import SOURCE
from ablation.config.table_files import read_table
from ablation.config.tables import Table
from ablation.system.errors import ConfigError, RecordError, logger
from ablation.system.files import write_atomically

TABLES = "tables"  # the folder of those that were run


def keep_table(table: Table, output_dir: Path) -> None:
    """Write a table where the report on a folder finds it, in place of an earlier version: one of
    the same title and source. Raises ``RecordError`` if it cannot be written."""
    path = kept_path(table, output_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, format_table(table).encode())
    except OSError as error:
        raise RecordError(
            f"The table cannot be kept in {path.parent} ({error.strerror}). Make room, or choose "
            "another --output_dir."
        ) from error


def kept_path(table: Table, output_dir: Path) -> Path:
    """Where a table is kept."""
    words = re.sub(r"[^a-z0-9]+", "-", table.title.casefold()).strip("-")[:40].rstrip("-")
    name = f"{words}_{checksum_json([table.title, table.source])[:10]}.toml"
    return output_dir / TABLES / name


def known_tables(output_dir: Path, asked: Table) -> list[Table]:
    """The source's table, the one that is asked for, and those that were kept in a folder, without
    those that others contain. What is damaged is named and skipped."""
    tables = [SOURCE, asked]
    for path in sorted((output_dir / TABLES).glob("*.toml")):
        try:
            tables.append(read_table(path))
        except ConfigError as error:
            logger.warning("Skipped: %s", error.problems[0].within(str(path)))
    different: dict[frozenset, Table] = {}
    for table in tables:
        different.setdefault(_contents(table), table)
    return [
        table
        for contents, table in different.items()
        if table in (SOURCE, asked)
        or not any(contents < other for other, its in different.items() if its is not SOURCE)
    ]


def _contents(table: Table) -> frozenset[tuple[Any, ...]]:
    """What a table says: its rows and comparisons."""
    rows = (
        (name, row.question, identify_experiment(row.config), row.published)
        for name, row in table.rows.items()
    )
    return frozenset([*rows, *table.comparisons])


def format_table(table: Table) -> str:
    """A table as TOML that :func:`read_table` reads."""
    common = table.common_flags
    heading = {"title": table.title, "source": table.source, "flags": common}
    blocks = [_format_entries(heading)]
    for row in table.rows.values():
        own = {name: value for name, value in row.flags.items() if name not in common}
        published = {n: v for n, v in asdict(row.published).items() if v is not None}
        entry = {"name": row.name, "question": row.question, "flags": own, "published": published}
        blocks.append(f"[[rows]]\n{_format_entries(entry)}")
    for question, rows in table.comparisons:
        entry = {"question": question, "rows": list(rows)}
        blocks.append(f"[[comparisons]]\n{_format_entries(entry)}")
    return "\n\n".join(blocks) + "\n"


def _format_entries(entries: Mapping[str, Any]) -> str:
    """Lines of TOML; what is empty is left out."""
    filled = {name: value for name, value in entries.items() if value not in ("", {})}
    return "\n".join(f"{name} = {_format_value(value)}" for name, value in filled.items())


def _format_value(value: Any) -> str:
    match value:
        case dict():
            return f"{{ {', '.join(f'{k} = {_format_value(v)}' for k, v in value.items())} }}"
        case list() | tuple():
            return f"[{', '.join(map(_format_value, value))}]"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return str(value).lower()
    return repr(value)
