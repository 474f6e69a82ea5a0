"""The architecture matrix: transformers architectures, each tiny and random, and in the shape of a public model."""

from __future__ import annotations

from typing import Any

from tests.matrix import (
    IMAGE_TOKEN,
    POSITIONS,
    VOCAB,
    Architecture,
    image,
    image_and_text,
    image_in_text,
    speech,
    text_to_text,
)

ENCODER = {
    **{"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": POSITIONS},
    **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
}
TEXT = {**ENCODER, "num_key_value_heads": 2}
HEADED = {**TEXT, "head_dim": 16}
TIED = {**TEXT, "tie_word_embeddings": True}
VISION = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"image_size": 32, "patch_size": 16},
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
T5 = {
    **{"vocab_size": VOCAB, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4},
    **{"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
}
MASKED: dict[str, Any] = {"auto": "AutoModelForMaskedLM", "generates": False}
ENCODES: dict[str, Any] = {"auto": "AutoModel", "generates": False}
SEQ2SEQ: dict[str, Any] = {"auto": "AutoModelForSeq2SeqLM", "inputs": text_to_text}
IMAGE_TEXT = "AutoModelForImageTextToText"

_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS, "vocab_size": VOCAB, "eos_token_id": 1}
_STATES = {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 2}
_BART = {
    **{"vocab_size": VOCAB, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 96},
    **{"decoder_ffn_dim": 96, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "pad_token_id": 0},
    **{"bos_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1},
}
_DEEPSEEK = {
    **{**TEXT, **MOE, "num_key_value_heads": 4, "n_routed_experts": 8, "n_shared_experts": 1, "n_group": 2},
    **{"topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 32, "kv_lora_rank": 32},
    **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16},
}
_GEMMA3 = {"text_config": HEADED, "vision_config": VISION, "mm_tokens_per_image": 4, "image_token_index": IMAGE_TOKEN}
_LLAVA = {
    "text_config": {**TEXT, "model_type": "llama"},
    "vision_config": {**VISION, "model_type": "clip_vision_model"},
    **{"image_token_index": IMAGE_TOKEN, "image_seq_length": 4},
}
_CLIP = {"text_config": ENCODER, "vision_config": VISION, "projection_dim": 64}


def size(hidden: int, inner: int, layers: int, heads: int, **more: int) -> dict[str, int]:
    """Return the sizes of a public model in transformers' words."""
    words = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {**dict(zip(words, (hidden, inner, layers, heads), strict=True)), **more}


_LLAMA_8B = size(4096, 14336, 32, 32, num_key_value_heads=8, vocab_size=128256)
_QWEN2_7B = size(3584, 18944, 28, 28, num_key_value_heads=4, vocab_size=152064)
_QWEN3_8B = size(4096, 12288, 36, 32, num_key_value_heads=8, vocab_size=151936)
_GEMMA3_1B = size(1152, 6912, 26, 4, num_key_value_heads=1)
_GEMMA3_4B = {
    "text_config": size(2560, 10240, 34, 8),
    "vision_config": size(1152, 4304, 27, 16, image_size=896, patch_size=14),
}
_BLOOM_7B = {"hidden_size": 4096, "n_layer": 30, "n_head": 32}
_MAMBA_2_8B = {"hidden_size": 2560, "num_hidden_layers": 64}
_WHISPER_LARGE = {
    **{"d_model": 1280, "encoder_layers": 32, "decoder_layers": 32, "encoder_attention_heads": 20},
    **{"decoder_attention_heads": 20, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120},
    **{"num_mel_bins": 128, "vocab_size": 51866},
}

MATRIX = (
    Architecture("Llama", "LlamaForCausalLM", TEXT, "Llama 3.1 8B", _LLAMA_8B),
    Architecture("Mistral", "MistralForCausalLM", TEXT, "Mistral 7B"),
    Architecture("Qwen2", "Qwen2ForCausalLM", TIED, "Qwen2.5 7B", _QWEN2_7B),
    Architecture("Qwen3", "Qwen3ForCausalLM", {**TIED, **HEADED}, "Qwen3 8B", _QWEN3_8B),
    Architecture("Phi-3", "Phi3ForCausalLM", TEXT, "Phi-3 mini"),
    Architecture("Gemma 3 (text)", "Gemma3ForCausalLM", {**TIED, **HEADED}, "Gemma 3 1B", _GEMMA3_1B),
    Architecture(
        *("Qwen3-MoE", "Qwen3MoeForCausalLM", {**HEADED, **MOE}),
        *("Qwen3 30B-A3B", {"num_hidden_layers": 48, "head_dim": 128}),
    ),
    Architecture("Mixtral", "MixtralForCausalLM", {**TEXT, "num_local_experts": 4}, "Mixtral 8x7B"),
    Architecture(
        *("gpt_oss", "GptOssForCausalLM", {**HEADED, **MOE, "intermediate_size": 32, "num_local_experts": 4}),
        *("gpt-oss-20b", {"num_hidden_layers": 24, "num_local_experts": 32}),
    ),
    Architecture("DeepSeek-V3", "DeepseekV3ForCausalLM", _DEEPSEEK, "DeepSeek-V3"),
    Architecture("GPT-2", "GPT2LMHeadModel", _GPT2, "GPT-2"),
    Architecture("GPT-NeoX", "GPTNeoXForCausalLM", ENCODER, "GPT-NeoX 20B"),
    Architecture("OPT", "OPTForCausalLM", {**ENCODER, "ffn_dim": 96, "word_embed_proj_dim": 32}, "OPT 125M"),
    Architecture("Falcon", "FalconForCausalLM", ENCODER, "Falcon 7B"),
    Architecture("BLOOM", "BloomForCausalLM", {**_STATES, "n_head": 4}, "BLOOM 7B1", _BLOOM_7B),
    Architecture("Mamba", "MambaForCausalLM", _STATES, "Mamba 2.8B", _MAMBA_2_8B),
    Architecture(
        *("Mamba 2", "Mamba2ForCausalLM"),
        {**_STATES, "num_heads": 8, "head_dim": 16, "n_groups": 2, "state_size": 16},
        *("Mamba 2 2.7B", {**_MAMBA_2_8B, "num_heads": 80, "head_dim": 64, "n_groups": 1}),
    ),
    Architecture("T5", "T5ForConditionalGeneration", T5, "T5 small", **SEQ2SEQ),
    Architecture("BART", "BartForConditionalGeneration", _BART, "BART large", **SEQ2SEQ),
    Architecture("BERT", "BertForMaskedLM", ENCODER, "BERT base", **MASKED),
    Architecture("RoBERTa", "RobertaForMaskedLM", ENCODER, "RoBERTa base", {"vocab_size": 50265}, **MASKED),
    Architecture(
        *("ViT", "ViTForImageClassification", VISION, "ViT base", {}),
        *("AutoModelForImageClassification", image, False),
    ),
    Architecture("CLIP", "CLIPModel", _CLIP, "CLIP ViT-B/32", inputs=image_and_text, **ENCODES),
    Architecture(
        *("Whisper", "WhisperForConditionalGeneration"),
        {**_BART, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": POSITIONS},
        *("Whisper large-v3", _WHISPER_LARGE, "AutoModelForSpeechSeq2Seq", speech),
    ),
    Architecture(
        *("Llava", "LlavaForConditionalGeneration", _LLAVA, "Llava 1.5 7B", {}),
        *(IMAGE_TEXT, image_in_text),
    ),
    Architecture(
        *("Gemma 3", "Gemma3ForConditionalGeneration", _GEMMA3, "Gemma 3 4B", _GEMMA3_4B),
        *(IMAGE_TEXT, image_in_text),
    ),
)
