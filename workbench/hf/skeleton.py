"""A model's modules and layers without its weights: built on the meta device from its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from torch import nn

from workbench.errors import ModelError, WorkbenchError
from workbench.hf.dequantized import dense_tensors, stored_format
from workbench.hf.folders import dense_folder, read_config
from workbench.hf.meta import collector_paused, no_values
from workbench.hf.stored_names import StoredNames
from workbench.known_layers import remember_layers
from workbench.safetensors_folder import SafetensorsFolder
from workbench.sources import FolderSource, ListedLayers


def open_source(path_or_name: str | Path) -> FolderSource:
    """Open a model folder by configuration and headers; no weight is read.

    Raises:
        ModelError: when the folder is missing, damaged, of an unknown architecture, or holds int4 weights already.
    """
    folder = dense_folder(path_or_name)
    with collector_paused():
        model: Any = skeleton(folder)
        tensors = dense_tensors(folder, stored_format(read_config(folder)), model.config.dtype)
        named, listed = StoredNames(tensors, model), ListedLayers.of(model)
        source = FolderSource(named, listed, name=str(path_or_name))
    if isinstance(tensors, SafetensorsFolder) and named.as_stored:
        remember_layers(tensors, listed)
    return source


def skeleton(folder: Path) -> nn.Module:
    """Build a model on the meta device from its configuration: every module, no memory.

    Raises:
        ModelError: when transformers cannot build it.
    """
    config = model_config(folder)
    model_class = model_class_of(config)
    try:
        with no_values():
            return model_class._from_config(config)  # type: ignore[no-any-return]
    except WorkbenchError:
        raise
    except Exception as error:  # whatever an architecture raises, the person needs the model and the reason
        raise ModelError(
            f"The model {str(folder)!r} cannot be built: {error}.", mend="check its config.json"
        ) from error


def model_config(folder: Path) -> Any:
    """Return the configuration of a model folder, as transformers reads it.

    Raises:
        ModelError: when there is none, it is damaged, or transformers does not know its architecture.
    """
    read_config(folder)
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ModelError(
            f"transformers {transformers.__version__} does not know the model in {str(folder)!r}: {error}",
            allowed="architectures that transformers has itself (code of a checkpoint is never run)",
            mend="update transformers",
        ) from error


def model_class_of(config: Any) -> Any:
    """Return the class of transformers that a configuration names, or else that its type stands for.

    Raises:
        ModelError: when there is none.
    """
    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    for auto in (transformers.AutoModelForCausalLM, transformers.AutoModel):
        if type(config) in auto._model_mapping:
            return auto._model_mapping[type(config)]
    raise ModelError(f"No model class for {config.architectures or type(config).__name__}.", mend="update transformers")
