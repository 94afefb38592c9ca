"""Files of the Hugging Face hub that are on this machine."""

from collections.abc import Iterator
from pathlib import Path


def hub_files(repository: str, revision: str, name: str, folder: Path | None) -> Iterator[Path]:
    """Where a file is, unchecked: in a folder of your own, and in the hub's cache.

    Raises:
        OSError: it cannot be looked for.
    """
    if folder and (folder / name).exists():
        yield folder / name
    import huggingface_hub  # takes a while, and few runs need it

    # What was downloaded before repositories had owners is the same file.
    for known_as in (repository, repository.split("/")[1]):
        found = huggingface_hub.try_to_load_from_cache(known_as, name, revision=revision)
        if isinstance(found, str):
            yield Path(found)
