"""The layers of a model folder as transformers built its model before, so that opening it again needs no transformers.

transformers takes longer to import than everything else of a first view together. What it says of a folder is kept in
the user's cache (for the demo model: shipped) under a key of all that it depends on: config.json, the headers, the
version of transformers, and our own code that lists layers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from workbench.demo import demo_path
from workbench.errors import ModelError, WorkbenchError
from workbench.records.layers import LayerRecord
from workbench.safetensors_folder import SafetensorsFolder
from workbench.sources import FolderSource, ListedLayers
from workbench.user_cache import cache_folder

DEMO_LAYERS = "layers.json"
_FORMAT = 1
_CODE = ("kinds.py", "layers.py", "sources.py", "hf/skeleton.py", "hf/stored_names.py")


def open_known(path_or_name: str | Path) -> FolderSource | None:
    """Open a model folder by headers alone; None where only transformers can say what its layers are.

    What is wrong with a folder is left to be said by who asks transformers then.

    Args:
        path_or_name: A model folder, or "demo"; of another name nothing is known here.
    """
    folder = demo_path() if str(path_or_name) == "demo" else Path(path_or_name).expanduser()
    try:
        tensors = SafetensorsFolder(folder)
        listed = _read(folder / DEMO_LAYERS, layers_key(tensors)) if folder == demo_path() else None
        listed = listed or _read(_place(tensors), _full_key(tensors))
        return None if listed is None else FolderSource(tensors, listed, name=str(path_or_name))
    except (ModelError, OSError):
        return None


def remember_layers(tensors: SafetensorsFolder, listed: ListedLayers) -> None:
    """Keep the layers of a folder whose tensors have the names that the model gives them; best effort."""
    with contextlib.suppress(OSError):
        place = _place(tensors)
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_name(f"{uuid.uuid4().hex}.tmp")  # others may read or write the same
        draft.write_text(layers_text(listed, _full_key(tensors)), encoding="utf-8")
        draft.replace(place)


def layers_text(listed: ListedLayers, key: str) -> str:
    """Return layers as JSON, one a line."""
    rows = ",\n".join(json.dumps([*_row(record)]) for record in listed.records)
    head = json.dumps({"key": key, "transposed": sorted(listed.transposed)})[:-1]
    return f'{head}, "records": [\n{rows}\n]}}\n'


def layers_key(tensors: SafetensorsFolder) -> str:
    """Return what stands for a folder's config.json and headers.

    Raises:
        OSError: when there is no config.json.
    """
    headers = [[name, tensors.shape(name), tensors.dtype(name)] for name in sorted(tensors.names())]
    config = (tensors.path / "config.json").read_bytes()
    return hashlib.sha256(json.dumps([_FORMAT, headers]).encode() + config).hexdigest()


def _full_key(tensors: SafetensorsFolder) -> str:
    return hashlib.sha256(f"{layers_key(tensors)} {_makers()}".encode()).hexdigest()


def _place(tensors: SafetensorsFolder) -> Path:
    return cache_folder() / "layers" / f"{_full_key(tensors)}.json"


@functools.cache
def _makers() -> str:
    """Stand for the code that lists layers: transformers' and ours."""
    try:
        library = version("transformers")
    except PackageNotFoundError:
        library = ""
    ours = hashlib.sha256(b"".join((Path(__file__).parent / name).read_bytes() for name in _CODE))
    return f"{library} {ours.hexdigest()}"


def _row(record: LayerRecord) -> tuple[Any, ...]:
    return record.name, record.kind, record.shape, record.dtype, record.size_bytes, record.tied_to


def _read(path: Path, key: str) -> ListedLayers | None:
    """Read what `layers_text` gave; None for a file that is missing, damaged, or of something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["key"] != key:
            return None
        return ListedLayers(tuple(map(_record, data["records"])), frozenset(map(str, data["transposed"])))
    except (OSError, ValueError, TypeError, KeyError, RecursionError, WorkbenchError):
        return None


def _record(row: Any) -> LayerRecord:
    name, kind, shape, dtype, size_bytes, tied_to = row
    texts = (name, kind, dtype, *([] if tied_to is None else [tied_to]))
    numbers = (size_bytes, *shape)
    if not all(type(one) is str for one in texts) or not all(type(one) is int and one >= 0 for one in numbers):
        raise ValueError(f"no record: {row!r}")
    return LayerRecord(name, kind, tuple(shape), dtype, size_bytes, tied_to)
