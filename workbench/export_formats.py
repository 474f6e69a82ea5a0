"""The formats that a model is exported in, by name: light, so that help needs nothing else."""

from __future__ import annotations

# Name, as `wb.export(format=…)` takes it → what loads it; in the order in which they are offered.
EXPORT_FORMATS = {
    "native": "transformers with workbench",
    "compressed-tensors": "vLLM, transformers",
    "gguf": "llama.cpp, Ollama, LM Studio, transformers",
    "mlx": "mlx-lm",
    "torchao": "transformers and torchao on CUDA",
    "gptq": "GPTQModel, vLLM, SGLang",
    "awq": "vLLM, SGLang, GPTQModel",
}
