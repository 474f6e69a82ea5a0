"""What becomes of the keys of a quantization_config: read, of no account, or told; none is dropped without a word."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_FEW, _MOST = 8, 120

# How the codes were found, which kernel ran them, what made the file: no weight depends on it. GPTQ and AWQ share most
# of their tools (GPTQModel 5, AutoGPTQ, AutoAWQ, AutoRound, optimum; transformers 5.23's GPTQConfig and AwqConfig).
MADE_BY = frozenset(
    """
    meta quantizer model_name_or_path model_file_base_name model_seqlen tokenizer dataset batch_size pad_token_id
    max_input_length cache_block_outputs block_name_to_quantize module_name_preceding_first_block
    modules_in_block_to_quantize modules_to_not_convert damp_percent damp_auto_increment static_groups true_sequential
    mse act_group_aware hyb_act gptaq v2 v2_alpha v2_memory_device hessian fallback failsafe mock_quantization
    parallel_packing offload_to_disk offload_to_disk_path device pack_impl compute_device_filter vram_strategy gc_mode
    auto_forward_data_parallel wait_for_submodule_finalizers
    use_cuda_fp16 use_exllama disable_exllama exllama_config backend do_fuse fuse_max_seq_len modules_to_fuse
    desc_act lm_head autoround_version packing_format iters lr minmax_lr nsamples seqlen low_gpu_mem_usage amp
    enable_quanted_input enable_minmax_tuning scale_dtype to_quant_block_names
    """.split()
)


def left_out(settings: Mapping[str, Any], known: Collection[str], where: str = "") -> list[str]:
    """Return a note for each key that says something and is not known.

    Args:
        settings: A JSON object of a quantization_config.
        known: Keys that are read, checked, or of no account.
        where: What stands before the key, for instance "weights.".
    """
    return [
        f"{where}{key} {_shown(value)} is not carried"
        for key, value in settings.items()
        if key not in known and says_something(value)
    ]


def says_something(value: Any) -> bool:
    """Whether a setting is set: neither null, false, nor empty."""
    return value is not None and value is not False and value not in ("", [], {})


def _shown(value: Any) -> str:
    """Return a value as it is read, a long one by its length."""
    said = f"of {len(value)} entries" if isinstance(value, list | dict) and len(value) > _FEW else repr(value)
    return said if len(said) <= _MOST else f"{said[:_MOST]} …"
