"""The nineteen rows of the source, from ``rows.toml``: the table where no other is named."""

from pathlib import Path

from ablation.config.table_files import read_table

SOURCE = read_table(Path(__file__).with_name("rows.toml"))
ROWS = SOURCE.rows
