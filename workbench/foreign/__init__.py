"""Int4 checkpoints of other libraries, read as they stand: codes kept bit for bit where the format is exact."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workbench.checkpoint.contents import Contents
from workbench.checkpoint.files import check_files
from workbench.checkpoint.integrity import read_json
from workbench.checkpoint.native import QUANT_METHOD
from workbench.checkpoint.stored_contents import CheckpointContents
from workbench.errors import CheckpointError
from workbench.foreign.awq import AwqFolder
from workbench.foreign.compressed_tensors import CompressedTensorsFolder
from workbench.foreign.gguf import GgufContents, gguf_path
from workbench.foreign.gptq import GptqFolder
from workbench.shell import quoted

# quant_method of a config.json → what opens the folder.
READERS: dict[str, Callable[[Path], Contents]] = {
    "compressed-tensors": CompressedTensorsFolder,
    "gptq": GptqFolder,
    "awq": AwqFolder,
}


def open_int4(directory: Path | str) -> Contents:
    """Open an int4 checkpoint, native or of another library, by configuration and headers; no value is read.

    Args:
        directory: A folder with config.json and safetensors, or one that holds a .gguf file, or such a file.

    Raises:
        CheckpointError: when it is no int4 checkpoint of a known format, or is damaged.
    """
    path = Path(directory).expanduser()
    if path.is_dir():
        check_files(path)
    if (file := gguf_path(path)) is not None:
        return GgufContents(file)
    method = int4_method(path)
    if method == QUANT_METHOD:
        return CheckpointContents(path)
    if method is None:
        raise _not_read(path, quantized_by(read_json(path / "config.json")))
    return READERS[method](path)


def _not_read(path: Path, library: str) -> CheckpointError:
    allowed = f"int4 weights of the workbench, {', '.join(READERS)} or gguf"
    if library:
        what = f"{str(path)!r} is quantized by {library}, whose format is not read here."
        return CheckpointError(what, allowed=allowed, mend="open the model that it was made from")
    mend = "dense ones are quantized, not imported: workbench quantize MODEL --out DIR"
    return CheckpointError(f"{str(path)!r} holds a dense model.", allowed=allowed, mend=mend)


def quantized_by(config: Mapping[str, Any]) -> str:
    """Return what a config.json says that its weights are quantized by, "" where it says nothing of it."""
    settings = config.get("quantization_config")
    found = settings.get("quant_method") if isinstance(settings, dict) else None
    if isinstance(found, str):
        return found
    if isinstance(config.get("quantization"), dict):  # MLX names no method
        return "mlx"
    return "another library" if settings else ""


def int4_method(folder: Path) -> str | None:
    """Return the quant_method of a folder that `open_int4` opens; None for any other.

    Raises:
        CheckpointError: when its config.json is missing or damaged.
    """
    found = quant_method(folder)
    return found if found == QUANT_METHOD or found in READERS else None


def quant_method(folder: Path) -> str | None:
    """Return the quant_method that a folder's config.json names, or None.

    Raises:
        CheckpointError: when its config.json is missing or damaged.
    """
    settings = read_json(folder / "config.json").get("quantization_config")
    found = settings.get("quant_method") if isinstance(settings, dict) else None
    return found if isinstance(found, str) else None


def other_library(path: Path) -> str:
    """Return the format of an int4 checkpoint of another library that `open_int4` opens, or "" for anything else."""
    with contextlib.suppress(CheckpointError):  # what a folder lacks is said by who opens it
        if gguf_path(path) is not None:
            return "gguf"
        if path.is_dir():
            found = int4_method(path)
            return "" if found in (None, QUANT_METHOD) else str(found)
    return ""


def how_to_import(path: Path) -> str:
    """Say in a line how an int4 checkpoint of another library becomes one of ours."""
    shell = f"workbench import {quoted(str(path))} --out DIR"
    return f"convert it, its codes stay as they are: wb.import_checkpoint({str(path)!r}, out), or {shell}"
