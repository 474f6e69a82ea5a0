"""Load exports with torchao 0.18 and transformers on the CPU, in a process of its own, beside torchao 0.11.

    python torchao_loading.py FOLDER …

tinygemm's product has no kernel on a CPU: a slow one by formula is registered for this process. Beside each folder
stands then FOLDER.pt: name → what torchao's own reader of safetensors makes of each parameter ("qdata",
"scale_and_zero", "block_size", "shape"), and "logits" of the tokens 2 to 13.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torchao
import transformers
from safetensors import safe_open
from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict
from torchao.prototype.safetensors.safetensors_utils import is_metadata_torchao
from torchao.quantization import Int4TilePackedTo4dTensor


def product(x, qdata, group_size, scale_and_zero):
    """`_weight_int4pack_mm` with inner_k_tiles 8, in float32 and rounded once."""
    n_tiles, k_tiles, lanes, words = qdata.shape
    held = qdata.to(torch.int64) & 0xFFFFFFFF
    n, k = n_tiles * 8, k_tiles * 128
    codes = torch.zeros(n, k)
    for lane in range(lanes):
        for word in range(words):
            for nibble in range(8):
                p, r = divmod(nibble, 4)
                column = 32 * word + 8 * r + 2 * (lane % 4) + p
                codes[lane // 4 :: 8, column::128] = (held[:, :, lane, word] >> 4 * nibble & 15).float()
    scale, zero = scale_and_zero.float().permute(1, 0, 2).repeat_interleave(group_size, 1).unbind(-1)
    return (x.float() @ ((codes - 8) * scale + zero).T).to(x.dtype)


def parameters(folder):
    """Name → parameter, read by torchao's own reader; all metadata of all shards must be torchao's."""
    tensors, metadata = {}, {}
    for shard in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(shard, "pt") as file:
            assert is_metadata_torchao(file.metadata())
            metadata |= file.metadata()
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
    found, left = unflatten_tensor_state_dict(tensors, metadata)
    assert not left
    return found


def main(folders):
    assert torchao.__version__.startswith("0.18")
    library = torch.library.Library("aten", "IMPL")
    library.impl("_weight_int4pack_mm", product, "CPU")
    for folder in folders:
        told = {}
        for name, tensor in parameters(folder).items():
            if isinstance(tensor, Int4TilePackedTo4dTensor):
                told[name] = {key: getattr(tensor, key) for key in ("qdata", "scale_and_zero", "block_size")}
                told[name]["shape"] = list(tensor.shape)
            else:
                told[name] = tensor
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", output_loading_info=True
        )
        assert not report["missing_keys"] and not report["unexpected_keys"]
        packed = {n for n, p in model.named_parameters() if isinstance(p, Int4TilePackedTo4dTensor)}
        assert packed == {name for name, one in told.items() if isinstance(one, dict)}
        with torch.inference_mode():
            told["logits"] = model(input_ids=torch.arange(2, 14)[None]).logits.clone()
        torch.save(told, f"{folder}.pt")


if __name__ == "__main__":
    main(sys.argv[1:])
