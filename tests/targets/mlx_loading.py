"""Load exports with mlx-lm on the CPU, in a process of its own: mlx_lm changes the limit of open files on import.

    python mlx_loading.py FOLDER …

Beside each folder stands then FOLDER.npz: "logits" of the tokens 2 to 13, and each int4 weight as mlx dequantizes it
in float32, by its name in mlx.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model


def weights(model):
    """Return module path → weight of each quantized layer, stacks of experts included."""
    found = {}
    for path, module in model.named_modules():
        if "scales" in module:
            parts = (module.scales.astype(mx.float32), module.biases.astype(mx.float32))
            found[path] = np.array(mx.dequantize(module.weight, *parts, module.group_size, module.bits))
    return found


def main(folders):
    mx.set_default_device(mx.cpu)
    for folder in folders:
        model, _ = load_model(Path(folder))
        logits = np.array(model(mx.array([list(range(2, 14))])).astype(mx.float32))
        np.savez(f"{folder}.npz", logits=logits, **weights(model))


if __name__ == "__main__":
    main(sys.argv[1:])
