"""The SMS Spam Collection: downloaded, checked, read, and split as published.

Source: T. Almeida, J. Gómez Hidalgo, "SMS Spam Collection" v.1, UCI Machine Learning Repository,
2011, https://doi.org/10.24432/C5CC84 (CC BY 4.0).
"""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path

import pandas as pd

from ablation.system.downloads import (
    OFFLINE,
    describe_wrong,
    fetch_first,
    first_line,
    is_offline,
    require_sha256,
)
from ablation.system.errors import DataError, DownloadError
from ablation.system.files import checksum_file, write_atomically
from data_utils import SPLIT_SEED, Splits

logger = logging.getLogger("experiments")

DATASET_URLS = (
    "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip",
    "https://f001.backblazeb2.com/file/LLMs-from-scratch/sms%2Bspam%2Bcollection.zip",
)
DATASET_NAME = "SMSSpamCollection"
DATASET_BYTES = 477_907
DATASET_SHA256 = "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"
MAX_ZIP_BYTES = 2_000_000  # the published zip has about 0.2 MB
LABELS = {"ham": 0, "spam": 1}


def find_dataset(data_dir: Path, offline: bool = False) -> Path:
    """Return the verified file of messages in ``data_dir``, downloading it if it is not there.

    Raises:
        DataError: the file there has the wrong checksum; or it is not there, and this is
            offline, no address gave it, or the folder cannot be written.
    """
    path = data_dir / DATASET_NAME
    try:
        if not path.exists():
            if is_offline(offline):
                raise DataError(
                    f"The SMS Spam Collection is missing, and nothing is downloaded: {OFFLINE}. "
                    f"Put the file {DATASET_NAME} at {path} (it is in the zip at "
                    f"{' and at '.join(DATASET_URLS)}), or name its folder with --data_dir."
                )
            data_dir.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _download_dataset(path))
        checksum = checksum_file(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read or written ({error}). Choose another folder with --data_dir."
        ) from error
    if checksum != DATASET_SHA256:
        raise DataError(
            f"{path} is not the SMS Spam Collection: its SHA-256 is {checksum}, expected "
            f"{DATASET_SHA256}. Move it away to have it downloaded, or name another --data_dir."
        )
    return path


def _download_dataset(path: Path) -> bytes:
    """Return the verified contents of the member from the first address that has it."""
    try:
        return fetch_first(DATASET_URLS, _read_member, max_bytes=MAX_ZIP_BYTES)
    except DownloadError as error:
        raise DataError(
            f"The SMS Spam Collection could not be downloaded: {error}. "
            f"Without a network, put the file {DATASET_NAME} from that zip at {path}."
        ) from error


def _read_member(zipped: bytes) -> bytes:
    """The messages in a zip, found by their exact name; nothing is unpacked to a path."""
    try:
        with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
            entry = archive.getinfo(DATASET_NAME)
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # Of other kinds, zipfile expands more than it is asked for.
                raise zipfile.BadZipFile(f"compression of kind {entry.compress_type}")
            with archive.open(entry) as member:
                content = member.read(DATASET_BYTES + 1)
    except KeyError as error:
        raise DownloadError(f"the zip holds no {DATASET_NAME}") from error
    except Exception as error:  # a damaged zip raises whatever its reader trips over
        raise DownloadError(
            f"{describe_wrong(zipped)}, no zip that can be read: {first_line(error)}"
        ) from error
    if len(content) > DATASET_BYTES:
        raise DownloadError(f"the {DATASET_NAME} in the zip is larger than {DATASET_BYTES:,} bytes")
    # The member's checksum is what counts: mirrors pack the same file into different zips.
    return require_sha256(content, DATASET_SHA256)


def read_messages(path: Path) -> pd.DataFrame:
    """Read the verified file: columns ``Label`` ("ham" or "spam"), ``Text`` and ``Line``.

    With pandas' default quoting an unbalanced quote merges three ham messages into one, so
    that 5,574 lines give 5,572 rows. The published split was made that way, so it stays.
    """
    messages = pd.read_csv(
        path, sep="\t", header=None, names=["Label", "Text"], dtype=str, na_filter=False
    )
    # The merged messages are the only ones that hold line breaks.
    lines = messages["Text"].str.count("\n") + 1
    return messages.assign(Line=lines.cumsum() - lines + 1)


def split_messages(messages: pd.DataFrame) -> Splits[pd.DataFrame]:
    """Balance the classes, shuffle, and split 70 / 10 / 20; labels become 0 (ham), 1 (spam)."""
    spam = messages[messages["Label"] == "spam"]
    ham = messages[messages["Label"] == "ham"].sample(len(spam), random_state=SPLIT_SEED)
    balanced = pd.concat([ham, spam])
    balanced["Label"] = balanced["Label"].map(LABELS)
    for _ in range(2):  # the published split shuffles when balancing and again when splitting
        balanced = balanced.sample(frac=1, random_state=SPLIT_SEED).reset_index(drop=True)
    train_end = int(0.7 * len(balanced))
    validation_end = train_end + int(0.1 * len(balanced))
    return Splits(
        balanced[:train_end], balanced[train_end:validation_end], balanced[validation_end:]
    )


def write_csv_files(splits: Splits[pd.DataFrame], data_dir: Path) -> None:
    """Write ``train.csv``, ``validation.csv`` and ``test.csv`` for people to read.

    Nothing reads them back, so a folder that cannot be written only gets a notice.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        for name, messages in vars(splits).items():
            content = messages[["Label", "Text"]].to_csv(index=False, lineterminator="\n")
            write_atomically(data_dir / f"{name}.csv", content.encode())
    except OSError as error:
        logger.warning("The split was not written to %s as CSV files: %s", data_dir, error)
