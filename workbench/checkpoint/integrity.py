"""Check a checkpoint: headers against the configuration, values against their ranges, bytes against the manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.checkpoint.native import ModuleFormat, parse
from workbench.checkpoint.writer import MANIFEST_FILE, MANIFEST_VERSION, file_sha256, tensor_sha256
from workbench.errors import CheckpointError, ModelError
from workbench.safetensors_folder import SafetensorsFolder, unique_keys

_NAMES = {"U8": torch.uint8, "BF16": torch.bfloat16, "F32": torch.float32}
_NEEDED_FILES = {"config.json"}
_MAX_JSON_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Checked:
    """One finding of `iter_verify`.

    Attributes:
        what: What was looked at: a tensor, a file, or "headers".
        problem: What is wrong with it, or "".
    """

    what: str
    problem: str = ""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of a checkpoint.

    Raises:
        CheckpointError: when it is missing, too large, not JSON, or not an object.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{str(path)!r} has {path.stat().st_size} bytes.", allowed=f"up to {_MAX_JSON_BYTES}")
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    except FileNotFoundError:
        raise CheckpointError(f"{str(path)!r} does not exist.", mend="name a checkpoint folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}.", mend="the file is damaged") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{str(path)!r} holds {type(data).__name__}.", allowed="a JSON object")
    return data


def read_quantization(directory: Path | str) -> dict[str, Any]:
    """Return the quantization_config of a checkpoint folder, {} for a model that is not quantized."""
    found = read_json(Path(directory) / "config.json").get("quantization_config", {})
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise CheckpointError("quantization_config is no JSON object.", mend="the file is damaged")
    return found


def check_headers(directory: Path | str, modules: dict[str, ModuleFormat]) -> SafetensorsFolder:
    """Hold the headers of all shards against the configuration; no value is read.

    Raises:
        CheckpointError: naming the first tensor that is missing, or has another shape or dtype.
    """
    try:
        folder = SafetensorsFolder(directory)
    except ModelError as error:
        raise CheckpointError(error.what, allowed=error.allowed, mend=error.mend) from None
    for module, form in modules.items():
        for suffix, (dtype, shape) in form.tensors().items():
            name = f"{module}.{suffix}"
            if name not in folder:
                raise CheckpointError(f"The tensor {name!r} is missing.", mend="the checkpoint is incomplete")
            found = _NAMES.get(folder.dtype(name)), folder.shape(name)
            if found != (dtype, shape):
                raise CheckpointError(
                    f"{name!r} is {folder.dtype(name)} {list(folder.shape(name))}.",
                    allowed=f"{dtype} {list(shape)}",
                    mend="the file is damaged: fetch or save it again",
                )
    return folder


def iter_verify(directory: Path | str) -> Iterator[Checked]:
    """Check everything in a checkpoint: headers, every tensor's bytes and range, every file's hash.

    Raises:
        CheckpointError: when there is no manifest, or the headers already disagree.
    """
    directory = Path(directory)
    modules = parse(read_quantization(directory))
    folder = check_headers(directory, modules)
    yield Checked("headers")
    listed, files = _manifest(directory)
    for name in sorted(set(listed) | set(folder.names())):
        yield Checked(name, _tensor_problem(folder, name, listed, modules))
    for name, facts in sorted(files.items()):
        yield Checked(name, _file_problem(directory, name, facts))
    for name in sorted(_NEEDED_FILES - set(files)):
        yield Checked(name, "not in the manifest")


def verify_checkpoint(directory: Path | str) -> int:
    """Check everything in a checkpoint and return how many things were checked.

    Raises:
        CheckpointError: naming each damaged tensor or file.
    """
    found = list(iter_verify(directory))
    bad = [f"{one.what}: {one.problem}" for one in found if one.problem]
    if bad:
        raise CheckpointError(
            f"The checkpoint {str(directory)!r} is damaged: {'; '.join(bad[:5])}"
            + (f"; and {len(bad) - 5} more." if len(bad) > 5 else "."),
            mend="fetch or save it again",
        )
    return len(found)


def inside(name: str) -> bool:
    """Say whether a relative name stays in its folder on every system; what it links to is not asked."""
    parts = re.split(r"[/\\]", name)
    return bool(name) and ":" not in name and not {"", ".", ".."} & set(parts)


def _manifest(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the manifest's facts about tensors and about files."""
    manifest = read_json(directory / MANIFEST_FILE)
    version = manifest.get("format_version")
    if not isinstance(version, str) or version.split(".")[0] != MANIFEST_VERSION.split(".")[0]:
        raise CheckpointError(
            f"The manifest has format_version {version!r}.",
            allowed=f"{MANIFEST_VERSION.split('.')[0]}.x",
            mend="update int4-workbench",
        )
    tensors, files = manifest.get("tensors"), manifest.get("files")
    if not isinstance(tensors, dict) or not isinstance(files, dict):
        raise CheckpointError("The manifest lists no tensors.", mend="the manifest is damaged")
    return tensors, files


def _tensor_problem(
    folder: SafetensorsFolder, name: str, listed: dict[str, Any], modules: dict[str, ModuleFormat]
) -> str:
    if name not in listed:
        return "not in the manifest"
    if name not in folder:
        return "in the manifest, but in no shard"
    tensor = folder.read(name)
    saved = {
        "sha256": tensor_sha256(tensor.contiguous()),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
    }
    if saved != listed[name]:
        return "its bytes are not those that were saved"
    module, _, suffix = name.rpartition(".")
    if module in modules and suffix == "weight_zp" and int(tensor.max()) > 15:
        return f"holds the zero point {int(tensor.max())}, allowed: 0 to 15"
    if module in modules and suffix in ("weight_scale", "weight_zero") and not bool(torch.isfinite(tensor).all()):
        return "holds NaN or infinity"
    return ""


def _file_problem(directory: Path, name: str, facts: Any) -> str:
    if not isinstance(facts, dict) or not inside(name):
        return "named outside the folder"
    path = directory / name
    if not path.is_file():
        return "missing"
    if path.stat().st_size != facts.get("size_bytes"):
        return f"has {path.stat().st_size} bytes, saved with {facts.get('size_bytes')}"
    return "" if file_sha256(path) == facts.get("sha256") else "its bytes are not those that were saved"
