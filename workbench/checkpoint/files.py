"""The files of a checkpoint folder, looked at before anything reads them: plain ones, and all within the folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.errors import CheckpointError
from workbench.safetensors_folder import INDEX_FILE, SINGLE_FILE
from workbench.strict_json import read_object, require_plain_file

# Greatest number that a key of config.json may give: what it counts is built one by one. Those of the first kind may be
# as many as there are tensors, too.
_COUNTS = re.compile(r"(layer|block|expert|head|depth|stage|label)s?$")
_MOST_COUNTED = 4096
_POSITIONS = re.compile(r"position")
_MOST_POSITIONS = 2**24
_FETCHES_CODE = re.compile(r"(attn|experts)_implementation$|^kernel_config$")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of a checkpoint.

    Raises:
        CheckpointError: when it is missing, no plain file, too large, not JSON, not an object, or a key stands twice.
    """
    try:
        return read_object(path)
    except FileNotFoundError:
        raise CheckpointError(f"{str(path)!r} does not exist.", mend="name a checkpoint folder") from None
    except NotADirectoryError:
        allowed = "a checkpoint folder, or a GGUF file that ends in .gguf"
        raise CheckpointError(f"{str(path.parent)!r} is a file.", allowed=allowed) from None
    except PermissionError:
        raise CheckpointError(f"{str(path)!r} may not be read.", mend="ask for the right to read it") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}.", mend="the file is damaged") from None


def check_files(directory: Path) -> None:
    """Refuse a folder with files that are none: pipes, devices, and links that lead out of it.

    Raises:
        CheckpointError: naming the first such file, or when it is no folder with a model, or cannot be listed.
    """
    _check_place(directory)
    try:
        root = directory.resolve(strict=True)
        for path in _entries(root):
            _check_file(path, root)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise CheckpointError(f"{str(directory)!r} cannot be read: {error}.", mend="check the path") from None
    if (root / INDEX_FILE).exists() and (root / SINGLE_FILE).exists():
        raise CheckpointError(
            f"{str(directory)!r} holds both {SINGLE_FILE} and {INDEX_FILE}: programs differ in which one they read.",
            mend="remove the one that does not belong there",
        )


def _check_place(directory: Path) -> None:
    """Refuse a path that cannot be a checkpoint before all in it is looked through: it may be a person's home."""
    if directory.is_file():
        raise CheckpointError(
            f"{str(directory)!r} is a file.", allowed="a folder", mend="name the folder that holds it"
        )
    marks = [directory / "config.json", *directory.glob("*.gguf")]
    if not any(mark.exists() or mark.is_symlink() for mark in marks):
        what = directory / "config.json" if directory.is_dir() else directory
        raise CheckpointError(f"{str(what)!r} does not exist.", mend="name a checkpoint folder")


def check_config(config: dict[str, Any], tensors: int) -> None:
    """Refuse a config.json that has more built than its tensors warrant, or that has other files or code fetched.

    Args:
        config: What stands in config.json.
        tensors: How many tensors the shards hold.

    Raises:
        CheckpointError: naming the key.
    """
    most = max(_MOST_COUNTED, tensors)
    for key, value in _values(config):
        limit = most if _COUNTS.search(key) else _MOST_POSITIONS if _POSITIONS.search(key) else None
        if limit is not None and isinstance(value, int | float) and value > limit:
            raise CheckpointError(
                f"config.json says {key}: {value!r}, the shards hold {tensors} tensors.",
                allowed=f"up to {limit}",
                mend="the file is damaged",
            )
        if key == "transformers_weights":
            raise CheckpointError(f"config.json has weights read from {value!r}.", mend="remove transformers_weights")
        if _FETCHES_CODE.search(key) and isinstance(value, str) and "/" in value:
            raise CheckpointError(
                f"config.json says {key}: {value!r}, which would fetch code and run it.", mend=f"remove {key}"
            )


def _entries(root: Path) -> Iterator[Path]:
    """Yield what programs look at: the files of the folder, and those of folders in it that are not hidden."""
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.is_symlink():
            if not path.name.startswith("."):
                yield from _entries(path)
        else:
            yield path


def _check_file(path: Path, root: Path) -> None:
    if path.is_symlink():
        target = path.resolve(strict=True)
        stores = [root] if root.parent.name != "snapshots" else [root, root.parent.parent / "blobs"]  # the hub's cache
        if not any(target.is_relative_to(store) for store in stores):
            raise CheckpointError(
                f"{str(path)!r} is a link to {str(target)!r}, outside its folder.",
                mend="put the file itself into the folder",
            )
    try:
        require_plain_file(path)
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}.", mend="remove it") from None


def _values(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of everything in nested JSON; what stands in a list has the list's key."""
    waiting: list[tuple[str, Any]] = [("", data)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += ((key, item) for item in value)
        if key:
            yield key, value
