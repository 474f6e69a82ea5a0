"""Names of layers as a small language model has them."""

NAMES = [
    "model.embed_tokens",
    *(
        f"model.layers.{i}.{part}"
        for i in range(12)
        for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
    ),
    "lm_head",
]
