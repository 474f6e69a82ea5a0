"""Which folder a model's name stands for, and what its config.json says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.checkpoint.integrity import read_json
from workbench.checkpoint.native import QUANT_METHOD
from workbench.demo import demo_path
from workbench.errors import CheckpointError, ModelError
from workbench.foreign import how_to_import, other_library, quantized_by
from workbench.hf.dequantized import stored_format
from workbench.hf.hub import snapshot

DEMO = "demo"


def local_folder(path_or_name: str | Path) -> Path:
    """Return the folder of a model: a path as it is, "demo", or a hub name's snapshot (downloaded when needed).

    Raises:
        ModelError: when there is no such model.
    """
    if str(path_or_name) == DEMO:
        return demo_path()
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(
            f"{str(path)!r} is a file.",
            allowed="a folder with config.json and safetensors",
            mend=f"name its folder, {str(path.parent)!r}",
        )
    name = str(path_or_name)
    drive = ":" in name  # of Windows: a hub name has none
    if isinstance(path_or_name, Path) or name.count("/") != 1 or drive or name.startswith((".", "/", "~")):
        raise ModelError(
            f"The model {name!r} does not exist.",
            allowed="a model folder, a hub name such as 'org/name', or 'demo'",
            mend="check the path",
        )
    return snapshot(name)


def dense_folder(path_or_name: str | Path) -> Path:
    """Return the folder of a model that is not quantized yet, or is stored in a format that is dequantized on the way.

    Raises:
        ModelError: when there is no such model, or it is quantized otherwise.
    """
    path = Path(path_or_name).expanduser()
    folder = path if other_library(path) else local_folder(path_or_name)
    method = other_library(folder)
    config = {} if method else read_config(folder)
    if method or (quantized_by(config) and stored_format(config) is None):
        native, own = is_native(config), "open the model that it was made from"
        runs = how_to_import(folder) if method else "wb.load_checkpoint runs it, wb.export converts it"
        more = f" (workbench inspect shows what this one holds); {runs}" if method or native else ""
        library = "" if native else f", by {method or quantized_by(config)}"
        raise ModelError(
            f"The model {str(path_or_name)!r} is quantized already{library}.",
            allowed="dense weights, or weights stored in FP8 (by blocks) or MXFP4",
            mend=f"{own}{more}",
        )
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model's config.json.

    Raises:
        ModelError: when there is none, or it is damaged.
    """
    if not (folder / "config.json").exists():
        raise ModelError(
            f"The folder {str(folder)!r} has no config.json.",
            allowed="a folder as save_pretrained writes it",
            mend="name the folder that holds config.json",
        )
    try:
        config = read_json(folder / "config.json")
    except CheckpointError as error:
        raise ModelError(error.what, mend=error.mend) from None
    names = config.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ModelError(f"architectures is {names!r} in {str(folder / 'config.json')!r}.", allowed="a list of names")
    return config


def is_native(config: Mapping[str, Any]) -> bool:
    """Say whether a config.json is of a checkpoint of the workbench."""
    settings = config.get("quantization_config")
    return isinstance(settings, dict) and settings.get("quant_method") == QUANT_METHOD
