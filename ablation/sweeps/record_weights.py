"""Whether the weights that records name are still the same, and are the same among them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ablation.classifier.weight_files import find_weights
from ablation.config.identity import identify_weights
from ablation.system.errors import RecordError

if TYPE_CHECKING:
    from ablation.sweeps.records import Record

logger = logging.getLogger("experiments")


def is_outdated(record: Record) -> bool:
    """Whether ``--weights PATH`` is by now another file than the one that a run started from.

    Early records do not say which that was, so that a file newer than the record counts as
    another. A file that is not here, but on the nodes of a cluster, may still be the same.

    Raises:
        DataError: the file cannot be read, or is no GPT-2.
    """
    weights = record.config.weights
    if weights in ("pretrained", "random") or not os.path.exists(weights):
        return False
    if record.weights_sha256:
        return record.weights_sha256 != identify_weights(record.config, find_weights)["file_sha256"]
    return find_weights(record.config).stat().st_mtime > record.made


def require_one_base(records: Sequence[Record]) -> None:
    """Raise ``RecordError`` if records say the same of their weights, and mean different files."""
    first: dict[str, Record] = {}
    for record in records:
        weights, checksum = record.config.weights, record.weights_sha256
        other = first.setdefault(weights, record) if checksum else record
        if other.weights_sha256 != checksum:
            raise RecordError(
                f"{other.folder} and {record.folder} both started from --weights {weights}, but "
                f"not from the same file: SHA-256 {other.weights_sha256} and {checksum}. So they "
                "do not belong together. Run again the one whose file is gone, or give each file "
                "a name of its own, and its runs another --output_dir."
            )
    for record in records:
        if not record.weights_sha256 and record.config.weights in first:
            logger.warning(
                "%s does not say which file --weights %s was: maybe not that of %s",
                *(record.folder, record.config.weights, first[record.config.weights].folder),
            )
