"""The SMS Spam Collection: downloaded, checked, read, and split as published.

Source: T. Almeida, J. Gómez Hidalgo, "SMS Spam Collection" v.1, UCI Machine Learning Repository,
2011, https://doi.org/10.24432/C5CC84 (CC BY 4.0).
"""

import io
import zipfile
from pathlib import Path

import pandas as pd

from ablation.system import downloads
from ablation.system.errors import DataError, DownloadError
from ablation.system.files import checksum_file, write_atomically
from data_utils import SPLIT_SEED, Splits

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
    Raises ``DataError`` if the file there has the wrong checksum; or it is not there, and this is
    offline, no address gave it, or the folder cannot be written."""
    path = data_dir / DATASET_NAME
    try:
        if not path.exists():
            if downloads.is_offline(offline):
                raise DataError(
                    "The SMS Spam Collection is missing, and nothing is downloaded: "
                    f"{downloads.OFFLINE}. Put the file {DATASET_NAME} at {path} (it is in the zip "
                    f"at {' and at '.join(DATASET_URLS)}), or name its folder with --data_dir."
                )
            data_dir.mkdir(parents=True, exist_ok=True)
            content = downloads.fetch_first(DATASET_URLS, _read_member, max_bytes=MAX_ZIP_BYTES)
            write_atomically(path, content)
        checksum = checksum_file(path)
    except DownloadError as error:
        raise DataError(
            f"The SMS Spam Collection could not be downloaded: {error}. "
            f"Without a network, put the file {DATASET_NAME} from that zip at {path}."
        ) from error
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


def _read_member(zipped: bytes) -> bytes:
    """The verified messages in a zip, found by their exact name; nothing is unpacked to a path."""
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
        wrong = downloads.describe_wrong(zipped)
        reason = downloads.first_line(error)
        raise DownloadError(f"{wrong}, not a readable zip: {reason}") from error
    if len(content) > DATASET_BYTES:
        raise DownloadError(f"the {DATASET_NAME} in the zip is larger than {DATASET_BYTES:,} bytes")
    # The member's checksum is what counts: mirrors pack the same file into different zips.
    return downloads.require_sha256(content, DATASET_SHA256)


def read_messages(path: Path) -> pd.DataFrame:
    """Read the verified file: columns ``Label`` ("ham" or "spam"), ``Text`` and ``Line``.

    With pandas' default quoting an unbalanced quote merges three ham messages into one, so
    that 5,574 lines give 5,572 rows. The published split was made that way, so it stays.
    """
    names = ["Label", "Text"]
    messages = pd.read_csv(path, sep="\t", header=None, names=names, dtype=str, na_filter=False)
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
