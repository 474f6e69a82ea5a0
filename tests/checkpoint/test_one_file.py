"""One file for every device: each CPU build reads the same codes and writes the same text."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch

import workbench as wb
from workbench.device_layout import required_layout

PROMPT, NEW_TOKENS = "The module provides", 24
LOAD = f"""
import hashlib, json, sys
import torch, transformers
import workbench.hf
from workbench.device_layout import required_layout
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer({PROMPT!r}, return_tensors="pt").input_ids
tokens = model.generate(ids, max_new_tokens={NEW_TOKENS}, do_sample=False)[0].tolist()
layout = model.model.layers[0].mlp.up_proj._layout
codes = hashlib.sha256()
for name, tensor in sorted(model.state_dict().items()):
    if tensor.dtype == torch.uint8:
        codes.update(name.encode() + tensor.contiguous().numpy().tobytes())
print(json.dumps([tokens, codes.hexdigest(), str(required_layout("cpu")), str(layout)]))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder, the tokens that its model writes, and a hash of its codes."""
    folder = tmp_path_factory.mktemp("one") / "file"
    model, tokenizer = wb.demo_model()
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=32))
    wb.save_checkpoint(model, folder, tokenizer=tokenizer)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    tokens = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)[0].tolist()
    codes = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.dtype == torch.uint8:
            codes.update(name.encode() + tensor.contiguous().numpy().tobytes())
    assert len(tokens) == ids.shape[1] + NEW_TOKENS
    return folder, tokens, codes.hexdigest()


def in_new_process(code, folder, **environment):
    command = [sys.executable, "-c", code, str(folder)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_each_cpu_build_has_the_same_codes_and_writes_the_same_text(capability, saved):
    folder, tokens, codes = saved
    done = in_new_process(LOAD, folder, ATEN_CPU_CAPABILITY=capability)
    assert done.returncode == 0, done.stderr
    found, their_codes, needed, layout = json.loads(done.stdout.splitlines()[-1])
    assert found == tokens
    assert their_codes == codes
    assert layout == needed
    best = str(required_layout("cpu"))
    if best in ("cpu/avx512", f"cpu/{capability}"):  # a machine without AVX-512 falls back to what it has
        assert needed == f"cpu/{capability}"
