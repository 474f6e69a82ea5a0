"""Int4 checkpoints of other libraries, read as they stand: codes kept bit for bit where the format is exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from workbench.checkpoint.contents import CheckpointContents, Contents
from workbench.checkpoint.integrity import read_json
from workbench.checkpoint.native import QUANT_METHOD
from workbench.errors import CheckpointError

# quant_method of a config.json → what opens the folder.
READERS: dict[str, Callable[[Path], Contents]] = {}


def open_int4(directory: Path | str) -> Contents:
    """Open an int4 checkpoint, native or of another library, by configuration and headers; no value is read.

    Args:
        directory: A folder with config.json and safetensors, or one that holds a .gguf file, or such a file.

    Raises:
        CheckpointError: when it is no int4 checkpoint of a known format, or is damaged.
    """
    path = Path(directory).expanduser()
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{str(path)!r} has no config.json.", allowed="a checkpoint folder", mend="check the path"
        )
    found = read_json(path / "config.json").get("quantization_config")
    method = found.get("quant_method") if isinstance(found, dict) else None
    if method == QUANT_METHOD:
        return CheckpointContents(path)
    if method not in READERS:
        raise CheckpointError(
            f"{str(path)!r} has the quant_method {method!r}.",
            allowed=", ".join([QUANT_METHOD, *READERS]),
            mend="name a folder with int4 weights; dense ones are quantized, not imported",
        )
    return READERS[str(method)](path)
