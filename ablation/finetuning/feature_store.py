"""Hidden states on disk, so that no command computes what another has computed.

A store is a folder with a folder for each way of making states: by weights, blocks, precision and
so on. In it are pieces: safetensors files with the states of some texts and a checksum, each
complete before it has its name. Whatever is wrong with a store or a piece, a run goes on: it says
so, and computes the states.
"""

import contextlib
import os
import shutil
import time
import uuid
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ablation.classifier.build import GPTClassifier
from ablation.classifier.tensor_files import read_tensors, write_tensors
from ablation.config.identity import checksum_json, identify_states
from ablation.config.options import ExperimentConfig
from ablation.finetuning.text_states import TOKEN, TextStates, pad_rows
from ablation.system.errors import TensorFileError, logger
from ablation.system.files import LEFT_OVER_SECONDS
from ablation.system.parallel import place, size, where_same

# Of computing, for one piece. What takes less is not stored, and a run that is killed loses less.
PIECE_SECONDS = 5.0
# States that come faster are not stored: writing them would take more than a fiftieth of the time.
BYTES_PER_SECOND = 10e6
FREE_BYTES = 1e9  # that stay free on the disk, for records
HEADER_BYTES = 20_000  # of a piece, at most
PATIENCE = 600.0  # seconds to wait for a process that computes the same, but stores nothing
SUFFIX = ".states"


def store_folder(config: ExperimentConfig) -> Path | None:
    """Where an experiment's hidden states are stored; none if they are not."""
    if config.feature_store == "off":
        return None
    return Path(config.feature_store or Path(config.data_dir, "features"))


class FeatureStore:
    """The states that one model makes, as one run finds and adds them.

    Args:
        folder: of the store.
        max_bytes: that it may take; beyond them, the least recently used pieces are deleted.
        made_by: what states follow from besides the texts, by the number of blocks they passed,
            as :func:`identify_states` has it.
        causal: whether the states of a text begin with those of its beginning.
    """

    def __init__(
        self, folder: Path, max_bytes: float, made_by: Sequence[Mapping[str, Any]], causal: bool
    ) -> None:
        self.folder, self._max_bytes, self._causal = folder, max_bytes, causal
        self._made_by = made_by
        self._folders = [folder / checksum_json(maker)[:16] for maker in made_by]
        self._pending: list[Tensor] = []  # numbers of texts, batch by batch
        self._pending_seconds = 0.0
        self._used: set[Path] = set()  # pieces that this run has read or written
        self._damaged: set[Path] = set()  # pieces, which may not let themselves be deleted
        self._lock: filelock.BaseFileLock | None = None  # none until it is asked for
        self.n_found = 0  # states that were there, after all blocks
        self.found_seconds = 0.0  # that these, and those after fewer, had taken
        self.waited_seconds = 0.0  # for another process
        self._n_texts = torch.zeros(2, dtype=torch.long)  # the same in texts, and after fewer
        self._n_computed = 0  # texts
        self._is_open = place().local_rank == 0  # to what is new

    @classmethod
    def of(
        cls, config: ExperimentConfig, base: Mapping[str, Any], classifier: GPTClassifier
    ) -> "FeatureStore | None":
        """The store of an experiment; none with ``--feature_store off``.

        Args:
            base: what it starts from, as :func:`identify_weights` has it.
        """
        folder, gpt = store_folder(config), classifier.gpt
        if not folder:
            return None
        embeddings = torch.nn.ModuleList([gpt.token_embedding, gpt.position_embedding])
        bits = [
            [torch.hash_tensor(parameter).item() for parameter in module.parameters()]
            for module in (embeddings, *gpt.blocks)
        ]
        made_by = [
            identify_states(config, base, bits[: n_blocks + 1], classifier.device.type)
            for n_blocks in range(len(bits))
        ]
        return cls(folder, config.feature_store_gb * 1e9, made_by, classifier.reading.causal)

    def fill(self, states: TextStates, stop: int) -> None:
        """Put in what is stored of states that have not passed ``stop`` blocks, after as many
        blocks as it has passed. What is damaged is deleted, and said to be."""
        earlier, earlier_seconds = states.n_blocks.clone(), states.seconds.clone()
        for n_blocks in range(stop, 0, -1):
            numbers = (states.n_blocks < n_blocks).nonzero()[:, 0].tolist()
            while numbers:  # until no piece turns out to be damaged
                lost = []
                for path, places in self._find(states.texts, numbers, n_blocks).items():
                    texts, starts = map(torch.tensor, zip(*places, strict=True))
                    if piece := self._read_piece(path, n_blocks):
                        rows, is_own = pad_rows(starts, states.lengths[texts])
                        found = [piece[name][rows[is_own]] for name in ("states", "seconds")]
                        states.put(texts, found[0], n_blocks, found[1])
                    else:
                        lost += texts.tolist()
                numbers = lost
        states.forget(~where_same(states.n_blocks))  # not all machines may have stored the same
        is_new = states.n_blocks > earlier
        is_whole = is_new & (states.n_blocks == stop)
        self.n_found += int(states.lengths[is_whole].sum())
        self.found_seconds += float((states.seconds - earlier_seconds).clamp(min=0).sum())
        self._n_texts += torch.tensor([is_whole.sum(), (is_new & ~is_whole).sum()])

    def collect(self, states: TextStates, batch: Tensor, n_blocks: int, seconds: float) -> None:
        """Take in the states of some texts (B,), which were computed in so many seconds, and write
        them with others once that took long enough to be worth it.

        Before the first are written, this process waits for another that is computing with the same
        model, and puts in what that one stores.
        """
        self._n_computed += len(batch)
        if not self._is_open:
            return
        self._pending.append(batch)
        self._pending_seconds += seconds
        rows = states.rows(torch.cat(self._pending))
        seconds = max(PIECE_SECONDS, float(states.seconds[rows].sum()))  # in all blocks
        if len(rows) * _count_bytes(states.values[:1]) > BYTES_PER_SECOND * seconds:
            self._close()
        elif self._pending_seconds >= PIECE_SECONDS:
            if not self._lock:
                self._claim(states, n_blocks)
            self._write(states, n_blocks)

    def flush(self, states: TextStates, n_blocks: int) -> None:
        """Write what is left to write, if other states are there; else it is too little."""
        if self._used and self._pending:
            self._write(states, n_blocks)
        self._pending, self._pending_seconds = [], 0.0

    def finish(self) -> None:
        """Say what was found and computed, and let other processes compute."""
        n_whole, n_begun = self._n_texts.tolist()
        if n_whole or n_begun:
            begun = f", and of {n_begun:,} after fewer blocks" if n_begun else ""
            logger.info(
                "Hidden states of %s texts were in %s%s, and had taken %.0f s; %s texts computed",
                *(f"{n_whole:,}", self.folder, begun, self.found_seconds, f"{self._n_computed:,}"),
            )
        self._close()

    def _pieces(self, n_blocks: int) -> set[Path]:
        """The pieces there are; none where the folder cannot be read, which is said."""
        folder = self._folders[n_blocks]
        try:
            return {folder / name for name in os.listdir(folder) if name.endswith(SUFFIX)}
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except (OSError, ValueError) as error:
            logger.warning("Stored hidden states cannot be read (%s): computing them", error)
            return set()

    def _find(
        self, texts: Sequence[bytes], numbers: Sequence[int], n_blocks: int
    ) -> dict[Path, list[tuple[int, int]]]:
        """The pieces that have some of the texts: their numbers, and their first rows there."""
        paths = self._pieces(n_blocks) - self._damaged
        stored = sorted(text for path in paths for text in self._read_texts(path))
        places: dict[Path, list[tuple[int, int]]] = {}
        for number in numbers:
            at = bisect_left(stored, (texts[number],))
            found, path, start = stored[at] if at < len(stored) else (b"", Path(), 0)
            if found == texts[number] or (self._causal and found.startswith(texts[number])):
                places.setdefault(path, []).append((number, start))
        return places

    def _read_texts(self, path: Path) -> Iterator[tuple[bytes, Path, int]]:
        """The texts of a piece, each with the piece and its first row there."""
        try:
            with safe_open(path, framework="pt") as file:
                tokens = file.get_tensor("tokens").numpy().tobytes()
                lengths = file.get_tensor("lengths")
                if lengths.dtype != torch.int64 or TOKEN.itemsize * lengths.sum() != len(tokens):
                    raise ValueError("it does not hold texts")
        except (OSError, SafetensorError, TypeError, ValueError) as error:
            self._discard(path, error)
            return
        ends = lengths.cumsum(0)
        for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True):
            yield tokens[start * TOKEN.itemsize : end * TOKEN.itemsize], path, start

    def _read_piece(self, path: Path, n_blocks: int) -> dict[str, Tensor] | None:
        """The tensors of a piece; none if they are not what they should be."""
        try:
            header, tensors = read_tensors(path)
        except TensorFileError as error:
            self._discard(path, error.__cause__ or error)
            return None
        if header.get("made_by") != self._made_by[n_blocks]:
            self._discard(path, "it belongs to another model")
            return None
        self._used.add(path)
        with contextlib.suppress(OSError):  # where nothing can be written, nothing is deleted
            os.utime(path)
        return tensors

    def _write(self, states: TextStates, n_blocks: int) -> None:
        """Write what is pending as one piece. If that fails, nothing more is stored."""
        numbers = torch.cat(self._pending)
        texts, rows = [states.texts[number] for number in numbers], states.rows(numbers)
        tensors = {
            "tokens": torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8),
            "lengths": states.lengths[numbers],
            "states": states.values[rows.to(states.values.device)],
            "seconds": states.seconds[rows],
        }
        self._pending, self._pending_seconds = [], 0.0
        path = self._folders[n_blocks] / f"{uuid.uuid4().hex}{SUFFIX}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(HEADER_BYTES + sum(map(_count_bytes, tensors.values())))
            write_tensors(path, tensors, {"made_by": self._made_by[n_blocks]})
        except (OSError, ValueError, TensorFileError) as error:
            reason = error.__cause__ or error
            if isinstance(reason, FileExistsError | NotADirectoryError):
                reason = "it is no folder; delete it, or name another --feature_store"
            logger.warning("Hidden states are not stored in %s: %s", self.folder, reason)
            self._close()
            return
        if not self._used:
            logger.info("Storing hidden states in %s (--feature_store)", self.folder)
        self._used.add(path)

    def _make_room(self, n_bytes: int) -> None:
        """Delete what was not used for longest until a piece fits. Raises ``OSError`` if all that
        is left is this run's, or the disk is full."""
        free = shutil.disk_usage(self.folder).free
        if free - n_bytes < FREE_BYTES:
            raise OSError(f"the disk has only {free / 1e9:.1f} GB left")
        pieces = []
        for path in self.folder.glob(f"{'[0-9a-f]' * 16}/*{SUFFIX}*"):
            with contextlib.suppress(FileNotFoundError):  # another run deleted it
                status = path.stat()
                pieces.append((status.st_mtime, status.st_size, path))
        own = sum(n for _, n, path in pieces if path in self._used)
        if own + n_bytes > self._max_bytes:
            limit = f"{self._max_bytes / 1e9:g} GB of --feature_store_gb"
            raise OSError(f"this run's states need more than the {limit}")
        total = n_bytes + sum(n for _, n, _ in pieces)
        for changed, n, path in sorted(pieces):
            is_being_written = path.name[0] == "." and time.time() - changed < LEFT_OVER_SECONDS
            if total > self._max_bytes and path not in self._used and not is_being_written:
                path.unlink(missing_ok=True)
                total -= n

    def _claim(self, states: TextStates, n_blocks: int) -> None:
        """Let no other process compute the same meanwhile. While one does, take what it stores."""
        folder, started = self._folders[n_blocks], time.monotonic()
        self._lock = filelock.FileLock(folder.with_suffix(".lock"))
        if size() > 1:  # the others would wait for this one
            return
        since, known, has_waited = started, self._pieces(n_blocks), False
        while time.monotonic() - since < PATIENCE:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock.acquire(timeout=int(has_waited))
                break
            except filelock.Timeout:
                if not has_waited:
                    logger.info("Waiting for another process that is computing hidden states")
                has_waited = True
                if (pieces := self._pieces(n_blocks)) != known:
                    known, n_missing = pieces, int((states.n_blocks < n_blocks).sum())
                    self.fill(states, n_blocks)
                    if (states.n_blocks < n_blocks).sum() < n_missing:
                        since = time.monotonic()
            except (OSError, ValueError, NotImplementedError):  # no locks here: then both compute
                break
        else:
            logger.warning("It stored nothing of use for %.0f s; computing them here", PATIENCE)
        if has_waited:
            self.fill(states, n_blocks)
            self.waited_seconds += time.monotonic() - started

    def _discard(self, path: Path, reason: object) -> None:
        """Say that a piece is of no use, and delete it if it is damaged; another run may have."""
        self._damaged.add(path)
        if isinstance(reason, FileNotFoundError):
            return
        done = ""
        if not isinstance(reason, OSError):
            with contextlib.suppress(OSError):
                path.unlink()
                done = "deleted, and "
        logger.warning("%s cannot be used (%s): %scomputed anew", path, reason, done)

    def _close(self) -> None:
        """Store nothing more, and let other processes compute."""
        self._is_open, self._pending = False, []
        if self._lock:
            self._lock.release()


def _count_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
