"""The record of an export: what it was made from, how exact it is, and a hash of each file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workbench.checkpoint.card import short_name
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.integrity import inside, read_json
from workbench.checkpoint.native import PRODUCER
from workbench.checkpoint.writer import file_sha256
from workbench.errors import CheckpointError

RECORD_FILE = "int4_export.json"
RECORD_VERSION = "1.0"
_WEIGHTS = (".safetensors", ".gguf")
_NAMED = 5


def write_record(folder: Path, target: str, outline: Outline, errors: dict[str, float]) -> None:
    """Write the record of all files that are in a folder."""
    record = {
        "format_version": RECORD_VERSION,
        "target": target,
        "model": short_name(outline.model),
        "producer": PRODUCER,
        "recipe": None if outline.recipe is None else outline.recipe.to_json(),
        "max_error": errors,
        "files": {name: _facts(folder / name) for name in _files(folder)},
    }
    _write(folder, record)


def read_record(folder: Path) -> dict[str, Any]:
    """Read the record of an export, of which "files" and "max_error" are dictionaries.

    Raises:
        CheckpointError: when it is missing, damaged, or of another version.
    """
    record = read_json(folder / RECORD_FILE)
    version, files, errors = (record.get(key) for key in ("format_version", "files", "max_error"))
    if not isinstance(version, str) or version.split(".")[0] != RECORD_VERSION.split(".")[0]:
        raise CheckpointError(
            f"{RECORD_FILE} has format_version {version!r}.", allowed="1.x", mend="update the package"
        )
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{RECORD_FILE} lists no files.", mend="it is damaged: export again")
    if not isinstance(errors, dict) or not all(type(one) in (int, float) for one in errors.values()):
        raise CheckpointError(f"{RECORD_FILE} has no errors of the layers.", mend="it is damaged: export again")
    return record


def verify_export(directory: Path | str) -> int:
    """Check every file of an export against its record and return how many were checked.

    Raises:
        CheckpointError: naming each file that is damaged, missing or not in the record.
    """
    folder = Path(directory)
    files = read_record(folder)["files"]
    problems = _problems(folder, files)
    if problems:
        mend = "fetch it or export it again"
        if not any(_holds_weights(name) for name in problems):
            mend += ", or accept what you changed yourself: workbench verify DIR --accept"
        raise CheckpointError(f"The export {str(folder)!r} is damaged: {_said(problems)}", mend=mend)
    return len(files)


def accept_export_changes(directory: Path | str) -> list[str]:
    """Take files that a person changed into the record, when every file of weights is still what was saved.

    Returns:
        The names of the files that were changed, added or removed.

    Raises:
        CheckpointError: naming each damaged file of weights; the record then stays as it is.
    """
    folder = Path(directory)
    record = read_record(folder)
    problems = _problems(folder, record["files"])
    lost = {name: problem for name, problem in problems.items() if _holds_weights(name)}
    if lost:
        raise CheckpointError(f"Weights of {str(folder)!r} are damaged: {_said(lost)}", mend="fetch it or export again")
    links = [name for name in _files(folder) if (folder / name).is_symlink()]
    if links:
        raise CheckpointError(f"{links[0]!r} in {str(folder)!r} is a link.", mend="put the file itself there")
    _write(folder, record | {"files": {name: _facts(folder / name) for name in _files(folder)}})
    return sorted(problems)


def _problems(folder: Path, files: dict[str, Any]) -> dict[str, str]:
    """Return file → what is wrong with it, of those that are not as the record says."""
    found = {name: problem for name, facts in files.items() if (problem := _file_problem(folder, name, facts))}
    return found | {name: "not in the record" for name in _files(folder) if name not in files}


def _said(problems: dict[str, str]) -> str:
    said = [f"{name}: {problem}" for name, problem in problems.items()]
    return "; ".join(said[:_NAMED]) + (f"; and {len(said) - _NAMED} more." if len(said) > _NAMED else ".")


def _holds_weights(name: str) -> bool:
    return Path(name).suffix.lower() in _WEIGHTS


def _files(folder: Path) -> list[str]:
    """Names of all files of an export but the record."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [name for name in names if name != RECORD_FILE]


def _facts(path: Path) -> dict[str, Any]:
    return {"sha256": file_sha256(path), "size_bytes": path.stat().st_size}


def _write(folder: Path, record: dict[str, Any]) -> None:
    """Write the record, whole or not at all."""
    fresh = folder / f".{RECORD_FILE}.new"
    fresh.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    fresh.replace(folder / RECORD_FILE)


def _file_problem(folder: Path, name: str, facts: Any) -> str:
    if not isinstance(facts, dict) or not inside(name):
        return "named outside the folder"
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return "missing"
    if path.stat().st_size != facts.get("size_bytes"):
        return f"has {path.stat().st_size} bytes, saved with {facts.get('size_bytes')}"
    return "" if file_sha256(path) == facts.get("sha256") else "its bytes are not those that were saved"
