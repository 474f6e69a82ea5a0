"""Small models whose folders do not read as they lie: other names, other orientations, FP8 and MXFP4."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests import tiny_models

_SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT = {**_SIZES, "vocab_size": 97, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1}
_MOE = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}


def qwen3_moe() -> nn.Module:
    """Experts stored one by one, under the names of today."""
    config = transformers.Qwen3MoeConfig(**_TEXT, **_MOE, num_key_value_heads=2, num_experts=4, head_dim=16)
    return transformers.Qwen3MoeForCausalLM(config)


def deepseek_v3() -> nn.Module:
    """As above, beside a router with a buffer; 40 rows that blocks of 16 do not divide."""
    experts = {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
    ranks = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}
    config = transformers.DeepseekV3Config(**_TEXT, **_MOE, **experts, **ranks, num_key_value_heads=4)
    return transformers.DeepseekV3ForCausalLM(config)


def gpt_oss() -> nn.Module:
    """Experts stored fused, [E, K, N]."""
    sizes = {**_TEXT, "intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 16}
    return transformers.GptOssForCausalLM(
        transformers.GptOssConfig(**sizes, num_local_experts=4, num_experts_per_tok=2)
    )


def llava() -> nn.Module:
    """Two models in one, stored under other prefixes."""
    vision = {**_SIZES, "image_size": 32, "patch_size": 16, "model_type": "clip_vision_model"}
    text = {**_TEXT, "num_key_value_heads": 2, "model_type": "llama"}
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=90, image_seq_length=4)
    return transformers.LlavaForConditionalGeneration(config)


OTHERWISE: dict[str, Callable[[], Any]] = {
    "mixtral": tiny_models.mixtral,
    "qwen3_moe": qwen3_moe,
    "deepseek_v3": deepseek_v3,
    "gpt_oss": gpt_oss,
    "llava": llava,
    "gpt2": tiny_models.gpt2,
}


def built(name: str, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Return one of `OTHERWISE` with random weights from a fixed seed."""
    torch.manual_seed(7)
    model: nn.Module = OTHERWISE[name]()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.to(dtype).eval()


E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
FP8_MAX = 448.0


def to_fp8(weight: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return float8 values [N, K] and a float32 scale for each block, the last ones smaller."""
    n, k = weight.shape
    scales = torch.empty(-(-n // block[0]), -(-k // block[1]))
    values = torch.empty(n, k, dtype=torch.float8_e4m3fn)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            place = slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1])
            scales[i, j] = weight[place].float().abs().max() / FP8_MAX
            values[place] = (weight[place].float() / scales[i, j]).to(torch.float8_e4m3fn)
    return values, scales


def to_mxfp4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return blocks uint8 [..., N, K/32, 16] and scales uint8 [..., N, K/32] of a weight [..., N, K]."""
    groups = weight.float().unflatten(-1, (-1, 32))
    exponents = (groups.abs().amax(-1) / 6).log2().ceil().clamp(-127, 127)
    scaled = groups / torch.exp2(exponents)[..., None]
    codes = (scaled.abs()[..., None] - torch.tensor(E2M1)).abs().argmin(-1) + 8 * (scaled < 0)
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
    return blocks, (exponents + 127).to(torch.uint8)


def saved_fp8(model: nn.Module, folder: Path, block: tuple[int, int] = (16, 32), **settings: object) -> Path:
    """Save a model with its layers' linear weights in FP8, as DeepSeek-V3 is stored."""

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("proj.weight") or "_proj_with_mqa" in name]:
            tensors[name], tensors[f"{name}_scale_inv"] = to_fp8(tensors[name], block)

    config = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": list(block)}
    return _saved(model, folder, change, {**config, **settings})


def saved_mxfp4(model: nn.Module, folder: Path) -> Path:
    """Save a model with its experts in MXFP4, as gpt_oss is stored."""

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
            blocks, scales = to_mxfp4(tensors.pop(name).transpose(1, 2))
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales

    return _saved(model, folder, change, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})


def _saved(
    model: nn.Module, folder: Path, change: Callable[[dict[str, Tensor]], None], quantization: dict[str, object]
) -> Path:
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    return folder
