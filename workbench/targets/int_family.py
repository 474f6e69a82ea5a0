"""What compressed-tensors, GPTQ and AWQ have in common: integer zero points, and no group above 128."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.affine import MID_POINT, QuantizedWeight
from workbench.checkpoint.card import loading_class
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.native import ModuleFormat
from workbench.config import Domain
from workbench.errors import CheckpointError
from workbench.kinds import CONV1D, EXPERTS, STACK
from workbench.shell import quoted
from workbench.targets.folder import kinds_of
from workbench.targets.group_sizes import FUSED, GROUP_SIZES
from workbench.targets.int32_codes import IN_ORDER, PER_WORD, unpack_int32
from workbench.targets.stored_names import layer_pieces, piece_form, stored_outline
from workbench.targets.target import LoadLines, Misfit, domain_misfits, misfits_by

_FLOATS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_NATIVE = "use the native format"
_ROWS = 64  # of Marlin's tiles
_COLUMNS = 128


def zero_codes(weight: QuantizedWeight) -> Tensor:
    """Return the code whose value is 0 of each group, uint8 [N, K/g]: 8 for a symmetric weight."""
    return torch.full(weight.scale.shape, MID_POINT, dtype=torch.uint8) if weight.zero is None else weight.zero


def asymmetric(outline: Outline) -> bool:
    """Say whether any layer has zero points of its own."""
    return any(form.domain != "symmetric" for form in outline.int4.values())


def model_dtype(outline: Outline) -> torch.dtype:
    """Return the dtype that the model is loaded in: what its configuration says, else that of most of its tensors."""
    said = outline.config.get("dtype") or outline.config.get("torch_dtype")
    text = outline.config.get("text_config")
    if said is None and isinstance(text, dict):
        said = text.get("dtype") or text.get("torch_dtype")
    if str(said).removeprefix("torch.") in _FLOATS:
        return _FLOATS[str(said).removeprefix("torch.")]
    usual = Counter(dtype for dtype, _ in outline.dense.values() if dtype in _FLOATS.values()).most_common(1)
    return usual[0][0] if usual else torch.bfloat16


def rounded_scales(outline: Outline, dtype: torch.dtype) -> str:
    """Say what is lost when scales are stored in a dtype, "" for nothing."""
    stored = {_FLOATS[form.scale_dtype] for form in outline.int4.values()}
    if dtype == torch.float32 or stored == {dtype}:
        return ""
    if dtype == torch.float16 and stored == {torch.bfloat16}:
        return "scales to float16 (exact from 6.1e-5 to 65504)"
    return f"scales to {str(dtype).removeprefix('torch.')}"


def stored_scale(name: str, weight: QuantizedWeight, form: ModuleFormat) -> Tensor:
    """Return the scales of a weight in the dtype that they are written in.

    Raises:
        CheckpointError: when one is too large for it.
    """
    dtype = _FLOATS[form.scale_dtype]
    scale = weight.scale.to(dtype)
    if not bool(torch.isfinite(scale).all()):
        raise CheckpointError(
            f"{name} has a scale of {float(weight.scale.abs().max()):.3g}.",
            allowed=f"up to {torch.finfo(dtype).max:.5g} in {str(dtype).removeprefix('torch.')}",
            mend="leave this layer dense, or export a model in bfloat16",
        )
    return scale


def has_experts(outline: Outline) -> bool:
    """Say whether a mixture of experts is int4, as a stack or as matrices of their own."""
    return bool({EXPERTS, STACK} & set(outline.kinds.values()))


def family_misfits(outline: Outline, domains: tuple[Domain, ...], expert_domains: tuple[Domain, ...]) -> list[Misfit]:
    """Refuse what none of the family holds: other domains than these (of a mixture of experts: those), and shapes."""
    found = domain_misfits(outline.int4, expert_domains if has_experts(outline) else domains)
    found += misfits_by(
        outline.int4,
        lambda form: form.in_features % GROUP_SIZES[-1] != 0,
        lambda form: f"in_features {form.in_features}",
        allowed="multiples of 32",
        mend="leave these layers dense",
    )
    turned = [name for name, kind in kinds_of(outline).items() if kind == CONV1D]
    if turned:
        found.append(Misfit("Conv1D layers", "linear layers", f"leave them dense, or {_NATIVE}", tuple(turned)))
    stacked = [name for name, form in outline.int4.items() if form.experts and len(layer_pieces(outline, name)) == 1]
    if stacked:
        said = "stacked experts"
        mend = f"leave the experts dense, or {_NATIVE}"
        found.append(Misfit(said, "one matrix for each expert", mend, tuple(stacked)))
    return found


def row_misfits(outline: Outline) -> list[Misfit]:
    """Refuse rows that do not fill words of eight, where a format packs along them."""
    found: dict[int, list[str]] = {}
    for name, form in outline.int4.items():
        heights = {piece_form(form, piece).out_features for _, piece in layer_pieces(outline, name)}
        for rows in heights:
            if rows % PER_WORD:
                found.setdefault(rows, []).append(name)
    mend = "leave these layers dense"
    return [Misfit(f"out_features {rows}", "multiples of 8", mend, tuple(names)) for rows, names in found.items()]


def family_notes(outline: Outline) -> list[str]:
    """Say how a recipe is expressed, and which engines take less than the format."""
    notes = []
    if any(kind == "output_head" for kind in outline.kinds.values()):
        notes.append("the output head is int4: transformers loads it, vLLM does not")
    off = [form for form in outline.int4.values() if form.out_features % _ROWS or form.in_features % _COLUMNS]
    if off:
        notes.append(
            f"{len(off)} layers are not multiples of {_ROWS} x {_COLUMNS}: on CUDA they run outside the Marlin kernel"
        )
    if parted := _parted(outline):
        notes.append(
            f"{len(parted)} sets of layers that vLLM fuses are int4 in part, first {parted[0]}: vLLM does not load "
            "them, transformers does"
        )
    return notes


def _parted(outline: Outline) -> list[str]:
    """Return the first int4 layer of each set, of those that engines fuse, of which others stay dense."""
    stored = stored_outline(outline)
    dense = set(ignored(stored))
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    for name in stored.int4:
        parent, _, own = name.rpartition(".")
        for together in FUSED:
            if own in together and any(f"{parent}.{other}" in dense for other in together):
                found.setdefault((parent, together), name)
    return list(found.values())


def word_weight(
    name: str, tensors: Mapping[str, Tensor], codes: Tensor, order: Sequence[int] = IN_ORDER
) -> QuantizedWeight:
    """Return the weight that loaders of GPTQ and AWQ see.

    Args:
        name: The layer's name.
        tensors: Full name → tensor: `qzeros` int32 [groups, N/8], `scales` float [groups, N].
        codes: uint8 [N, K].
        order: How eight neighbours stand in a word.
    """
    n, k = codes.shape
    scale = tensors[f"{name}.scales"].t().float()
    zero = unpack_int32(tensors[f"{name}.qzeros"], n, order).t().contiguous()
    return QuantizedWeight(codes, scale, zero, k // scale.shape[1], "int")


def words_bytes(form: ModuleFormat) -> int:
    """Bytes of codes and zero points, eight to a word, and float16 scales, of a layer of GPTQ or AWQ."""
    n, k = form.out_features, form.in_features
    return n * k // 2 + k // form.group_size * (n // 2 + 2 * n)


def scale_bytes(form: ModuleFormat) -> int:
    """Bytes of one scale."""
    return _FLOATS[form.scale_dtype].itemsize


def ignored(outline: Outline) -> list[str]:
    """Return the paths of what is not quantized: every matrix that stays dense, and an output head that is tied."""
    found = dict.fromkeys(outline.dense_layers)
    for name, (_, shape) in outline.dense.items():
        module, _, parameter = name.rpartition(".")
        if parameter == "weight" and len(shape) == 2 and module not in outline.int4:
            found[module] = None
    return [*found, *([] if "lm_head" in found or "lm_head" in outline.int4 else ["lm_head"])]


def family_lines(directory: Path, outline: Outline, *, packages: str, extra: str = "", argument: str = "") -> LoadLines:
    """Return the lines that load a folder in transformers, which asks for `packages`, and serve it with vLLM."""
    auto = loading_class(outline.config)
    names = f"{auto}, {extra}" if extra else auto
    head = f"from transformers import {names}  # pip install {packages}"
    model = f"model = {auto}.from_pretrained({str(directory)!r}{argument})"
    return LoadLines(f"{head}\n\n{model}", f"vllm serve {quoted(str(directory))}")


def gptqmodel_lines(directory: Path, outline: Outline) -> LoadLines:
    """Return the lines that load a decoder with GPTQModel, which transformers would ask for too, and serve it."""
    model = f"model = GPTQModel.load({str(directory)!r})"
    head = "from gptqmodel import GPTQModel  # pip install gptqmodel"
    return LoadLines(f"{head}\n\n{model}", family_lines(directory, outline, packages="").shell)


def is_decoder(outline: Outline) -> bool:
    """Say whether a model is a causal language model by its class."""
    return str(next(iter(outline.config.get("architectures") or [""]))).endswith("ForCausalLM")


def settings_of(outline: Outline, settings: dict[str, Any]) -> dict[str, Any]:
    """Return config.json with a quantization_config."""
    return {**outline.config, "quantization_config": settings}
