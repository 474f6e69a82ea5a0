"""Architectures that nobody looked at while the kinds of weight were written: they must do as well, or say why not."""

from __future__ import annotations

from tests.architectures import (
    ENCODER,
    ENCODES,
    HEADED,
    IMAGE_TEXT,
    MASKED,
    MATRIX,
    MOE,
    SEQ2SEQ,
    T5,
    TEXT,
    VISION,
    size,
)
from tests.matrix import IMAGE_TOKEN, VOCAB, Architecture, image, image_and_text, patches, sound

_LLAMA4 = {
    **{**HEADED, "num_local_experts": 4, "intermediate_size_mlp": 96, "interleave_moe_layer_step": 1},
    "attention_chunk_size": 32,
}
_JAMBA = {**TEXT, "num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1}
_QWEN3_NEXT = {
    **{**HEADED, **MOE, "full_attention_interval": 2, "shared_expert_intermediate_size": 32},
    **{"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
}
_QWEN3_VL = {
    "text_config": {**HEADED, "rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2]}},
    "vision_config": {
        **{"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": 64},
        **{"patch_size": 4, "deepstack_visual_indexes": [0]},
    },
    "image_token_id": IMAGE_TOKEN,
}
_GLM4 = {
    **{**HEADED, **MOE, "n_routed_experts": 8, "n_shared_experts": 1, "n_group": 2, "topk_group": 1},
    "first_k_dense_replace": 1,
}
_SWITCH = {
    **{**T5, "num_decoder_layers": 2, "num_experts": 4},
    **{"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
}
_WAV2VEC2 = {
    **{**ENCODER, "conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3]},
    "num_feat_extract_layers": 2,
}
_SWIN = {
    **{"image_size": 32, "patch_size": 4, "embed_dim": 32, "depths": [1, 1], "num_heads": [2, 2]},
    "window_size": 4,
}
_DISTILBERT = {"vocab_size": VOCAB, "dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4}
_DEBERTA = {**ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
_QWEN3_VL_8B = {
    "text_config": size(4096, 12288, 36, 32, num_key_value_heads=8),
    "vision_config": {"out_hidden_size": 4096},
}
_GRANITE_3B = size(1536, 512, 32, 24, num_key_value_heads=8, num_local_experts=40, num_experts_per_tok=8)

MORE = (
    Architecture("Llama 4", "Llama4ForCausalLM", _LLAMA4, "Llama 4 Scout"),
    Architecture("Jamba", "JambaForCausalLM", _JAMBA, "Jamba"),
    Architecture("Qwen3-Next", "Qwen3NextForCausalLM", _QWEN3_NEXT, "Qwen3-Next 80B-A3B"),
    Architecture(
        *("Granite-MoE", "GraniteMoeForCausalLM", {**TEXT, "num_local_experts": 4}),
        *("Granite 3.1 3B-A800M", {**_GRANITE_3B, "vocab_size": 49155}),
    ),
    Architecture("OLMoE", "OlmoeForCausalLM", {**TEXT, **MOE}, "OLMoE 7B-A1B", {"intermediate_size": 1024}),
    Architecture("Phi-MoE", "PhimoeForCausalLM", {**TEXT, "num_local_experts": 4}, "Phi-3.5-MoE"),
    Architecture("GLM-4-MoE", "Glm4MoeForCausalLM", _GLM4, "GLM-4.5 Air"),
    Architecture(
        *("JetMoe", "JetMoeForCausalLM", {**TEXT, **MOE, "num_local_experts": 4, "kv_channels": 16}),
        *("JetMoe 8B", {"num_hidden_layers": 24}),
    ),
    Architecture("ModernBERT", "ModernBertForMaskedLM", {**ENCODER, "cls_token_id": 2}, "ModernBERT base", **MASKED),
    Architecture("DistilBERT", "DistilBertForMaskedLM", _DISTILBERT, "DistilBERT base", **MASKED),
    Architecture("DeBERTa-v2", "DebertaV2ForMaskedLM", _DEBERTA, "DeBERTa-v2 xlarge", **MASKED),
    Architecture(
        *("Switch", "SwitchTransformersForConditionalGeneration", _SWITCH),
        *("Switch base 8", {"num_sparse_encoder_layers": 6, "num_sparse_decoder_layers": 6}),
        **SEQ2SEQ,
    ),
    Architecture(
        *("SigLIP", "SiglipModel", {"text_config": ENCODER, "vision_config": VISION}, "SigLIP base"),
        inputs=image_and_text,
        **ENCODES,
    ),
    Architecture("DINOv2", "Dinov2Model", {**VISION, "mlp_ratio": 2}, "DINOv2 base", inputs=image, **ENCODES),
    Architecture("Swin", "SwinModel", _SWIN, "Swin tiny", inputs=image, **ENCODES),
    Architecture("wav2vec 2", "Wav2Vec2ForCTC", _WAV2VEC2, "wav2vec 2 base", {}, "AutoModelForCTC", sound, False),
    Architecture(
        *("Qwen3-VL", "Qwen3VLForConditionalGeneration", _QWEN3_VL, "Qwen3-VL 8B", _QWEN3_VL_8B),
        *(IMAGE_TEXT, patches),
    ),
)
ALL = {architecture.name: architecture for architecture in (*MATRIX, *MORE)}
