"""The only room that imports transformers: load models, read their skeletons, and load int4 checkpoints.

Importing it registers the quantizer, so that `AutoModelForCausalLM.from_pretrained` loads a native checkpoint.
"""

from __future__ import annotations

from workbench.hf import quantizer as quantizer  # which registers it
from workbench.hf.late import after_import


def _teach_peft() -> None:
    from workbench.hf.lora import register

    register()


after_import("peft.tuners.lora.model", _teach_peft)
