"""What transformers' own reader of GGUF takes for something else is told, and nothing else is."""

from __future__ import annotations

import pytest
import torch
import transformers

import workbench as wb
from tests.targets.exported import stand_for
from tests.targets.gguf_models import make
from tests.tiny_models import hushed
from workbench.checkpoint.model_contents import ModelContents
from workbench.targets import TARGETS
from workbench.targets.gguf_transformers import transformers_note

TARGET = TARGETS["gguf"]
IDS = torch.arange(7, 4000, 251)[None]


@pytest.mark.parametrize("name", ["llama_biases", "llama3_positions", "mixtral", "qwen2", "gemma2"])
def test_a_note_stands_where_the_logits_differ(tmp_path, name):
    model, dense = (make(name, num_hidden_layers=1).to(torch.bfloat16) for _ in range(2))
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=32), solver="rtn", domain="symmetric")
    contents = ModelContents(model, wb.demo_model()[1])
    outline = contents.outline()
    (tmp_path / "file").mkdir()
    list(TARGET.write(contents, outline, tmp_path / "file"))
    (path,) = (tmp_path / "file").iterdir()
    stand_for(dense, model)
    dense.save_pretrained(tmp_path / "dense")
    given = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    with hushed(), torch.inference_mode():
        loaded = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **given)
        twin = type(dense).from_pretrained(tmp_path / "dense", **given)  # whose buffers are those of a loaded model
        same = torch.equal(loaded.eval()(IDS).logits, twin.eval()(IDS).logits)
    assert same == (transformers_note(outline.config) == "")
    assert same or transformers_note(outline.config) in TARGET.fit(outline).notes


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llama"}, ""),
        ({"model_type": "qwen3", "head_dim": 128}, ""),
        ({"model_type": "qwen3", "head_dim": 64}, "head_dim 64"),
        ({"model_type": "qwen3_moe", "moe_intermediate_size": 1536}, "moe_intermediate_size 1536"),
        ({"model_type": "gemma3_text", "query_pre_attn_scalar": 168}, "query_pre_attn_scalar 168"),
        ({"model_type": "qwen2", "rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type 'yarn'"),
        ({"model_type": "llama", "mlp_bias": True}, "mlp_bias True from the file: give it the model's own config="),
        *(({"model_type": one}, "does not know this architecture") for one in ("smollm3", "granite", "olmo2")),
        ({"model_type": "mixtral"}, "leaves its experts out"),
    ],
    ids=str,
)
def test_what_is_said(config, said):
    assert (transformers_note(config) == "") == (said == "") and said in transformers_note(config)
