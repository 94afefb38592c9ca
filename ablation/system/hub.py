"""Files of the Hugging Face hub that are on this machine."""

from pathlib import Path


def locate_hub_file(repository: str, revision: str, name: str, folder: Path | None) -> Path | None:
    """Where a file is, unchecked: in a folder of your own, else in the hub's cache.

    Raises:
        OSError: it cannot be looked for.
    """
    if folder and (folder / name).exists():
        return folder / name
    import huggingface_hub  # takes a while, and few runs need it

    # What was downloaded before repositories had owners is the same file.
    for known_as in (repository, repository.split("/")[1]):
        found = huggingface_hub.try_to_load_from_cache(known_as, name, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None
