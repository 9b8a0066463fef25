"""Where a data set's files come from: a folder that is given, or a download that is checked."""

from __future__ import annotations

from pathlib import Path


def cache_folder(name: str) -> Path:
    """Return the folder in the user's cache that downloads of data set ``name`` go to."""
    import pooch

    return Path(pooch.os_cache("lightning-onecycle")) / name


def missing(folder: Path, names: list[str]) -> list[str]:
    """Return those of ``names`` that are not in ``folder``."""
    return [name for name in names if not (folder / name).exists()]


def check_root(root: Path, names: list[str]) -> None:
    """Raise ``FileNotFoundError`` unless the files are there."""
    if absent := missing(root, names):
        state = f"{', '.join(absent)} not in it" if root.is_dir() else "there is no such folder"
        raise FileNotFoundError(
            f"root must be a folder with {', '.join(names)}, got {str(root)!r} ({state})"
        )


def download(address: str, name: str, known_hash: str, folder: Path) -> None:
    """Download ``address + name`` into ``folder``, unless it is there.

    Args:
        address: The address of the folder, with the last slash.
        name: The file's name.
        known_hash: Its checksum, such as ``"md5:..."``; a file with another one is refused.
        folder: Where to put it.

    Raises:
        ConnectionError: The file cannot be had.
        ValueError: Its checksum is wrong.
    """
    import pooch
    from requests import RequestException

    try:
        pooch.retrieve(address + name, known_hash, fname=name, path=folder, progressbar=True)
    except RequestException as error:
        raise ConnectionError(
            f"cannot download {address + name} ({error}); "
            f"put the file into a folder and give the folder as root"
        ) from error
