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


def write_record(folder: Path, target: str, outline: Outline, errors: dict[str, float]) -> None:
    """Write the record of all files that are in a folder."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": file_sha256(path), "size_bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    record = {
        "format_version": RECORD_VERSION,
        "target": target,
        "model": short_name(outline.model),
        "producer": PRODUCER,
        "recipe": None if outline.recipe is None else outline.recipe.to_json(),
        "max_error": errors,
        "files": files,
    }
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


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
    bad = [f"{name}: {problem}" for name, facts in files.items() if (problem := _file_problem(folder, name, facts))]
    known = {*files, RECORD_FILE}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in known:
            bad.append(f"{path.relative_to(folder).as_posix()}: not in the record")
    if bad:
        more = f"; and {len(bad) - 5} more." if len(bad) > 5 else "."
        raise CheckpointError(
            f"The export {str(folder)!r} is damaged: {'; '.join(bad[:5])}{more}", mend="fetch it or export it again"
        )
    return len(files)


def _file_problem(folder: Path, name: str, facts: Any) -> str:
    if not isinstance(facts, dict) or not inside(name):
        return "named outside the folder"
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return "missing"
    if path.stat().st_size != facts.get("size_bytes"):
        return f"has {path.stat().st_size} bytes, saved with {facts.get('size_bytes')}"
    return "" if file_sha256(path) == facts.get("sha256") else "its bytes are not those that were saved"
