"""The measured table of paths, kept in the user's cache: a file for each kind of device, read for this machine only."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.paths import PathTable
from workbench.records.record import write_json
from workbench.user_cache import cache_folder


def table_file(device_type: str) -> Path:
    """Return the file where the measured table of a kind of device is kept, in the user's cache."""
    return cache_folder() / f"paths-{device_type}.json"


def load_table(kind: str, machine: dict[str, str], device_type: str) -> PathTable:
    """Return the measured table of this machine, or the defaults; a file that is not for it is ignored, and said.

    Args:
        kind: Key of `DEFAULTS`.
        machine: What this machine is, as `tune` would record it.
        device_type: "cpu" or "cuda".
    """
    path = table_file(device_type)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return PathTable(kind, machine)
    except (OSError, UnicodeDecodeError) as error:
        return _ignored(kind, machine, f"it cannot be read ({error})")
    try:
        table = PathTable.from_json(json.loads(text), note=f"measured on this machine ({path.name})")
    except (WorkbenchError, ValueError, RecursionError) as error:
        return _ignored(kind, machine, f"it is damaged ({error})")
    differs = [key for key in {**machine, **table.machine} if machine.get(key) != table.machine.get(key)]
    if differs or table.kind != kind:
        said = ", ".join(f"{key} {table.machine.get(key)!r}, here {machine.get(key)!r}" for key in differs)
        return _ignored(kind, machine, f"it was measured for {said or table.kind}")
    return table


def store_table(table: PathTable, device_type: str) -> Path:
    """Write a table to the user's cache, whole or not at all, and return its file."""
    path = table_file(device_type)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_suffix(".part")
    write_json(part, table.to_json())
    part.replace(path)
    return path


def _ignored(kind: str, machine: dict[str, str], why: str) -> PathTable:
    note = f"built-in defaults; the measured table is ignored: {why}; wb.tune() measures again"
    warnings.warn(f"int4 paths: {note}", stacklevel=3)
    return PathTable(kind, machine, note=note)
