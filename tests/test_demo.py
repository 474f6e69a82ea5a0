"""The embedded demo model: its size, its shape, its tokenizer, and that it was really trained."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import workbench.demo
from workbench.demo import demo_calibration_text, demo_eval_text, demo_path, notebooks_path
from workbench.errors import EnvironmentProblem
from workbench.measure.quality import measure_quality, text_ids

ROOT = Path(__file__).parents[1]

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(demo_path()).eval()


def test_weights_are_bf16_and_at_most_12_mb():
    weights = demo_path() / "model.safetensors"
    assert weights.stat().st_size <= 12_000_000
    assert sum(file.stat().st_size for file in demo_path().iterdir()) <= 12_000_000
    with safe_open(weights, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}
        assert "lm_head.weight" not in file.keys()


def test_shape_has_k_of_256_and_768_and_grouped_query_attention(model):
    config = json.loads((demo_path() / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    linears = {name: module for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {module.in_features for module in linears.values()} == {256, 768}
    assert 5_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 6_000_000
    assert model.dtype == torch.bfloat16


def test_generation_settings_are_greedy_and_end(model):
    settings = json.loads((demo_path() / "generation_config.json").read_text(encoding="utf-8"))
    assert settings["do_sample"] is False
    assert settings["eos_token_id"] == 0


def test_tokenizer_is_qwen2s_pre_tokenizer_over_bytes(tokenizer):
    parts = json.loads((demo_path() / "tokenizer.json").read_text(encoding="utf-8"))
    assert parts["normalizer"] == {"type": "NFC"}
    split, byte_level = parts["pre_tokenizer"]["pretokenizers"]
    assert split == {
        "type": "Split",
        "pattern": {"Regex": QWEN2_SPLIT},
        "behavior": "Isolated",
        "invert": False,
    }
    assert byte_level["type"] == "ByteLevel"
    assert byte_level["add_prefix_space"] is False
    assert byte_level["use_regex"] is False
    assert parts["model"]["type"] == "BPE"
    assert len(tokenizer) == 4096
    assert tokenizer.eos_token_id == 0


@pytest.mark.parametrize(
    "text",
    [
        "import torch\n\n\ndef f(x):\n\treturn x ** 2  # it's 1234\r\n",
        " two  spaces   three\n \n",
        "Grüße, 你好, 🙂 and a zero width\u200bspace",
        "",
    ],
)
def test_tokenizer_gives_back_any_text(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tokenizer_gives_back_the_held_out_text(tokenizer):
    text = demo_eval_text()
    assert 150_000 <= len(text.encode()) <= 250_000
    ids = tokenizer(text[:50_000])["input_ids"]
    assert tokenizer.decode(ids) == text[:50_000]
    assert len(ids) < 50_000 / 2.5


def test_calibration_and_held_out_text_share_no_paragraph():
    parts = [
        {" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)}
        for text in (demo_calibration_text(), demo_eval_text())
    ]
    assert [paragraph for paragraph in parts[0] & parts[1] if len(paragraph) >= 60] == []


def test_the_calibration_text_is_long_enough_to_use(tokenizer):
    assert len(text_ids(demo_calibration_text(), tokenizer)) > 50 * 512


def test_model_was_trained(model, tokenizer):
    """An untrained model of this vocabulary has a perplexity of about 4096."""
    ids = text_ids(demo_eval_text()[:40_000], tokenizer)
    assert 1 < measure_quality(model, ids).perplexity < 40


def test_the_script_prints_what_the_notice_says():
    script = ROOT / "scripts" / "evaluate_demo_model.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    assert (facts["tokens"], facts["window"]) == (56191, 512)
    assert facts["perplexity"] == pytest.approx(26.783, abs=0.01)
    assert facts["bits_per_byte"] == pytest.approx(1.3493, abs=0.001)


def test_model_generates_text(model, tokenizer):
    prompt = tokenizer("The following function returns", return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=12)
    assert output.shape[1] > prompt["input_ids"].shape[1]
    assert tokenizer.decode(output[0], skip_special_tokens=True).startswith("The following function returns")


def test_missing_files_are_named_with_the_mend(monkeypatch, tmp_path):
    monkeypatch.setattr(workbench.demo, "files", lambda package: tmp_path)
    with pytest.raises(EnvironmentProblem, match=r"lacks config\.json .*pip install"):
        demo_path()
    with pytest.raises(EnvironmentProblem, match=r"lacks eval\.txt"):
        demo_eval_text()


def test_notebooks_come_from_the_clone_or_from_the_package(monkeypatch, tmp_path):
    package = tmp_path / "workbench"
    (package / "notebooks").mkdir(parents=True)
    monkeypatch.setattr(workbench.demo, "files", lambda name: package)
    monkeypatch.setattr(workbench.demo, "__file__", str(package / "demo.py"))
    with pytest.raises(EnvironmentProblem, match=r"lacks \*\.ipynb"):
        notebooks_path()
    (package / "notebooks" / "01.ipynb").write_text("{}")
    assert notebooks_path() == package / "notebooks"
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01.ipynb").write_text("{}")
    assert notebooks_path() == package / "notebooks"
    (tmp_path / "pyproject.toml").write_text("")
    assert notebooks_path() == tmp_path / "notebooks"
