"""The formats that other engines load: one file each, behind one table of names."""

from __future__ import annotations

from workbench.errors import ConfigError
from workbench.targets.awq import Awq
from workbench.targets.compressed_tensors import CompressedTensors
from workbench.targets.gguf import Gguf
from workbench.targets.gptq import Gptq
from workbench.targets.mlx import Mlx
from workbench.targets.target import Target
from workbench.targets.torchao import Torchao

NATIVE = "native"
# In the order in which they are offered.
_ALL: tuple[Target, ...] = (CompressedTensors(), Gguf(), Mlx(), Torchao(), Gptq(), Awq())
TARGETS: dict[str, Target] = {target.name: target for target in _ALL}


def get_target(name: str) -> Target:
    """Return the export target of that name.

    Raises:
        ConfigError: when there is none.
    """
    if name not in TARGETS:
        raise ConfigError(f"format={name!r} is no export target.", allowed=", ".join([NATIVE, *TARGETS]))
    return TARGETS[name]
