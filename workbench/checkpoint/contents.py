"""What a checkpoint is written from: a quantized model, a source that is solved on the way, or a checkpoint on disk.

All three give the same parts in the same way, so that the native format and every export target have one writer each.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from workbench.affine import QuantizedWeight
from workbench.calibration import Calibration
from workbench.checkpoint.integrity import check_before_load, read_json, read_quantization, torch_dtype
from workbench.checkpoint.native import ModuleFormat, describe_model, int4_layers, parse
from workbench.coverage import Coverage
from workbench.errors import Cancelled, CheckpointError
from workbench.experts import Int4Experts
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.layers import refuse_adapters, unties_head
from workbench.linear import Int4Linear
from workbench.offload import execution_device, offloaded_values
from workbench.portable import quantized_from_portable
from workbench.quantize import RECIPE_ATTRIBUTE, SolvedBefore, SolvedLayer, iter_quantize
from workbench.recipe import Recipe
from workbench.safetensors_folder import DTYPES, SafetensorsFolder
from workbench.sources import FolderSource, ModelSource, Source

CONFIG_FILE = "config.json"
# Files that make a model folder whole besides config and weights; code and pickles are never copied.
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)
Header = tuple[torch.dtype, tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """Tensors that belong together: those of one module, or some dense ones.

    Attributes:
        name: Module path, without ".weight".
        tensors: Full name → dense tensor; beside an int4 weight its bias.
        weight: The int4 weight [N, K], or [E * N, K] of a stack of E experts; None for a dense part.
        solved: How it was solved, where that was done on the way.
    """

    name: str
    tensors: dict[str, Tensor]
    weight: QuantizedWeight | None = None
    solved: SolvedLayer | None = None


@dataclass(frozen=True)
class Piece:
    """Some rows of a tensor, under the name that folders on the hub give them.

    Attributes:
        name: Full name.
        rows: Which rows; of a stack [E, N, K], rows of [E * N, K]. None for the tensor as it is.
    """

    name: str
    rows: slice | None = None


@dataclass(frozen=True)
class Outline:
    """What will be written, known before a value is read or solved.

    Attributes:
        model: What the model is called.
        config: The model's config.json, without quantization_config.
        int4: Module path → form of each int4 weight.
        kinds: Module path → kind of weight ("linear", "conv1d", "output_head", "experts", …) of each int4 weight.
        dense_layers: Paths of linear layers that stay dense.
        dense: Full name → (dtype, shape) of every other tensor.
        recipe: What the person asked for, or None.
        notes: What a person must know about what is read: what was dequantized, or is left out.
        stored_names: Full name in the model → its pieces in folders on the hub; what is not named here is called alike.
    """

    model: str
    config: Mapping[str, Any]
    int4: Mapping[str, ModuleFormat]
    kinds: Mapping[str, str]
    dense_layers: tuple[str, ...]
    dense: Mapping[str, Header]
    recipe: Recipe | None = None
    notes: tuple[str, ...] = ()
    stored_names: Mapping[str, tuple[Piece, ...]] = field(default_factory=dict)

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors that stay dense."""
        return sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in self.dense.values())

    @property
    def native_bytes(self) -> int:
        """Bytes of all tensors in the native format."""
        return self.dense_bytes + sum(form.size_bytes for form in self.int4.values())


class Contents(Protocol):
    """Something that a checkpoint is written from."""

    def outline(self) -> Outline:
        """Say what will be written; no value is read."""
        ...

    def parts(self, cancel: threading.Event | None = None) -> Iterator[Part]:
        """Yield everything once, in any order; one layer at a time is in memory.

        Raises:
            Cancelled: when `cancel` was set.
        """
        ...

    def write_files(self, folder: Path) -> None:
        """Write config.json (without quantization_config), generation configuration and tokenizer."""
        ...


class ModelContents:
    """A quantized model in memory.

    Args:
        model: A transformers model with int4 layers.
        tokenizer: Written beside it when given.

    Raises:
        CheckpointError: when the model has no int4 layer, or weights without values.
        ModelError: when the model has adapters of PEFT.
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None) -> None:
        self.model, self._tokenizer, self._int4 = model, tokenizer, int4_layers(model)
        if not self._int4:
            raise CheckpointError("The model has no int4 layer.", mend="quantize it first: wb.quantize_(model, cfg)")
        refuse_adapters(model, "save the adapters with model.save_pretrained, then take them off: model.unload()")
        _refuse_empty(model)

    def outline(self) -> Outline:
        """Say what will be written; no value is read."""
        dense: dict[str, Header] = {}
        for _, tensors in model_tensors(self.model, read=False):
            dense |= {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        recipe = getattr(self.model, RECIPE_ATTRIBUTE, None)
        settings = describe_model(self.model, recipe)
        kinds = {name: "experts" if isinstance(layer, Int4Experts) else "linear" for name, layer in self._int4.items()}
        for name in _heads(self.model) & set(kinds):
            kinds[name] = "output_head"
        return Outline(
            ModelSource(self.model).name,
            _config_of(self.model, tied=_is_tied(self.model)),
            {name: ModuleFormat.of(layer) for name, layer in self._int4.items()},
            kinds,
            tuple(settings["modules_to_not_convert"]),
            dense,
            recipe,
        )

    def parts(self, cancel: threading.Event | None = None) -> Iterator[Part]:
        """Yield everything once, module by module."""
        for name, tensors in model_tensors(self.model):
            stop_when(cancel)
            yield Part(name, tensors, self._int4[name].quantized_weight() if name in self._int4 else None)

    def write_files(self, folder: Path) -> None:
        """Write config.json (without quantization_config), generation configuration and tokenizer."""
        _write_model_files(self.model, self._tokenizer, folder)
        write_config(folder, self.outline().config)


class SolvedContents:
    """A source under a recipe, solved layer by layer while it is written.

    Args:
        source: A live model or a model folder.
        coverage: What becomes int4, and how.
        recipe: What the person asked for.
        tokenizer: Written beside it when given; a folder brings its own.
        calibration: The text, when a layer is to be calibrated.
        model: The model to run it through; a live source brings its own.

    Attributes:
        coverage: What becomes int4, and how.
        solved: What was solved before, which is not solved again; None for nothing.

    Raises:
        CheckpointError: when weights of the model are missing, or the source cannot be written.
    """

    def __init__(
        self,
        source: Source,
        coverage: Coverage,
        recipe: Recipe,
        *,
        tokenizer: Any = None,
        calibration: Calibration | None = None,
        model: nn.Module | None = None,
    ) -> None:
        if not isinstance(source, FolderSource | ModelSource):
            raise CheckpointError(f"{type(source).__name__} cannot be written.", allowed="a live model or a folder")
        _refuse_lost(source)
        self.coverage = coverage
        self.solved: SolvedBefore | None = None
        self._source, self._recipe, self._tokenizer = source, recipe, tokenizer
        self._calibration, self._model = calibration, model
        self._int4 = set(coverage.configs)

    def calibrate(self, calibration: Calibration | None, model: nn.Module | None) -> None:
        """Give the text and the model later, once the coverage has shown that they are needed."""
        self._calibration, self._model = calibration, model

    def outline(self) -> Outline:
        """Say what will be written; no value is read."""
        forms = {}
        for row in self.coverage.int4_rows:
            config = self.coverage.configs[row.name]
            *experts, n, k = row.shape
            dtype = str(config.scale_dtype).removeprefix("torch.")
            forms[row.name] = ModuleFormat(n, k, config.group_size, config.domain, dtype, config.form, *experts)
        kinds = {row.name: row.kind for row in self.coverage.int4_rows}
        rows = self.coverage.rows
        dense = tuple(row.name for row in rows if row.kind in QUANTIZABLE_KINDS and row.decision == "dense")
        headers = dict(self._headers())
        return Outline(self._source.name, self._config(), forms, kinds, dense, headers, self._recipe)

    def parts(self, cancel: threading.Event | None = None) -> Iterator[Part]:
        """Yield everything once, the dense parts first; the layers are solved as they come."""
        rest: dict[str, dict[str, Tensor]] = {}
        for name, tensors in self._dense_tensors():
            stop_when(cancel)
            if name in self._int4:
                rest.setdefault(name, {}).update(tensors)  # a bias, which goes beside its codes
            else:
                yield Part(name, tensors)
        given = {"calibration": self._calibration, "model": self._model, "solved": self.solved}
        for step in iter_quantize(self._source, self.coverage, cancel=cancel, **given):  # type: ignore[arg-type]
            yield Part(step.result.name, rest.pop(step.result.name, {}), step.weight, step)

    def write_files(self, folder: Path) -> None:
        """Write config.json (without quantization_config), generation configuration and tokenizer."""
        if isinstance(self._source, FolderSource):
            copy_companions(self._source.path, folder)
            if self._tokenizer is not None:
                self._tokenizer.save_pretrained(folder)
        elif isinstance(self._source, ModelSource):
            _write_model_files(self._source.model, self._tokenizer, folder)
        write_config(folder, self._config())

    def _config(self) -> dict[str, Any]:
        unties = unties_head(self._source.records(), self._int4)
        if isinstance(self._source, ModelSource):
            return _config_of(self._source.model, tied=False if unties else None)
        assert isinstance(self._source, FolderSource)
        data = read_json(self._source.path / CONFIG_FILE)
        data.pop("quantization_config", None)
        if data.get("dtype") is None and data.get("torch_dtype") is None:  # else guessed from a tensor, a scale perhaps
            data["dtype"] = self._source.usual_dtype()
        return {**data, "tie_word_embeddings": False} if unties else data

    def _headers(self) -> Iterator[tuple[str, Header]]:
        if isinstance(self._source, ModelSource):
            for _, tensors in self._live_tensors(read=False):
                yield from ((name, (tensor.dtype, tuple(tensor.shape))) for name, tensor in tensors.items())
            return
        assert isinstance(self._source, FolderSource)
        folder = self._source.folder
        for name, stored in self._folder_names():
            yield name, (DTYPES[folder.dtype(stored)], folder.shape(stored))

    def _dense_tensors(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield everything of a source but the weights that become int4, grouped by module where it is one of those."""
        if isinstance(self._source, ModelSource):
            yield from self._live_tensors()
            return
        assert isinstance(self._source, FolderSource)
        for name, stored in self._folder_names():
            module = name.rpartition(".")[0]
            own = name == f"{module}.weight" and name not in self._source.folder
            yield module, {name: self._source.weight(module) if own else self._source.folder.read(stored)}

    def _live_tensors(self, *, read: bool = True) -> Iterator[tuple[str, dict[str, Tensor]]]:
        assert isinstance(self._source, ModelSource)
        for module, tensors in model_tensors(self._source.model, read=read):
            weight = {f"{module}.weight"} if module in self._int4 else self._int4  # its own, or stacks of experts
            kept = {name: tensor for name, tensor in tensors.items() if name not in weight}
            if kept:
                yield module, kept

    def _folder_names(self) -> Iterator[tuple[str, str]]:
        """Yield (name in the model, name of the tensor that holds it) of all that stays dense."""
        assert isinstance(self._source, FolderSource)
        for name in self._source.folder.names():
            module, _, parameter = name.rpartition(".")
            if name not in self._int4 and not (module in self._int4 and parameter == "weight"):
                yield name, name
        for record in self._source.records():
            stored = self._source.tensor(record.name)
            if stored.removesuffix(".weight") in self._int4 and record.name not in self._int4:  # shares its values
                yield f"{record.name}.weight", stored


@dataclass
class CheckpointContents:
    """A native checkpoint on disk.

    Attributes:
        directory: The folder.

    Raises:
        CheckpointError: when it is damaged or no native checkpoint.
    """

    directory: Path
    _forms: dict[str, ModuleFormat] = field(init=False)
    _folder: SafetensorsFolder = field(init=False)

    def __post_init__(self) -> None:
        """Read configuration and headers."""
        self.directory = Path(self.directory)
        self._forms = parse(read_quantization(self.directory))
        self._folder = check_before_load(self.directory)

    def outline(self) -> Outline:
        """Say what will be written; no value is read."""
        config = read_json(self.directory / CONFIG_FILE)
        settings = config.pop("quantization_config")
        kinds = {name: "experts" if form.experts else "linear" for name, form in self._forms.items()}
        kinds |= {name: "output_head" for name in kinds if name.rpartition(".")[2] == "lm_head"}
        names = [name for name in self._folder.names() if name not in self._own()]
        dense = {name: (torch_dtype(self._folder, name), self._folder.shape(name)) for name in names}
        recipe = settings.get("recipe")
        return Outline(
            str(config.get("_name_or_path") or self.directory.name),
            config,
            self._forms,
            kinds,
            tuple(settings.get("modules_to_not_convert") or ()),
            dense,
            None if recipe is None else Recipe.from_json(recipe),
        )

    def parts(self, cancel: threading.Event | None = None) -> Iterator[Part]:
        """Yield everything once, the dense parts first."""
        own = self._own()
        beside: dict[str, dict[str, Tensor]] = {}
        for name in self._folder.names():
            stop_when(cancel)
            module = name.rpartition(".")[0]
            if name in own:
                continue
            if module in self._forms:
                beside.setdefault(module, {})[name] = self._folder.read(name)
            else:
                yield Part(module, {name: self._folder.read(name)})
        for name, form in self._forms.items():
            stop_when(cancel)
            tensors = {suffix: self._folder.read(f"{name}.{suffix}") for suffix in form.tensors()}
            weight = quantized_from_portable(
                tensors,
                in_features=form.in_features,
                group_size=form.group_size,
                domain=form.domain,
                solved_by=form.solved_by,
            )
            yield Part(name, beside.pop(name, {}), weight)

    def write_files(self, folder: Path) -> None:
        """Write config.json (without quantization_config), generation configuration and tokenizer."""
        copy_companions(self.directory, folder)
        write_config(folder, self.outline().config)

    def _own(self) -> set[str]:
        return {f"{name}.{suffix}" for name, form in self._forms.items() for suffix in form.tensors()}


def stop_when(cancel: threading.Event | None) -> None:
    """End writing when the person cancelled.

    Raises:
        Cancelled: when `cancel` is set.
    """
    if cancel is not None and cancel.is_set():
        raise Cancelled("Writing the checkpoint was cancelled.", mend="start it again; nothing was changed")


def write_config(folder: Path, data: Mapping[str, Any]) -> None:
    """Write config.json."""
    (folder / CONFIG_FILE).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def copy_companions(origin: Path, folder: Path) -> None:
    """Copy generation configuration and tokenizer of a model folder."""
    for name in COMPANIONS:
        if (origin / name).is_file():
            (folder / name).write_bytes((origin / name).read_bytes())


def model_tensors(model: nn.Module, *, read: bool = True) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield (module path, its own parameters and persistent buffers), declared ties once.

    Offloaded ones are read from where accelerate keeps them; without `read` they stay on the meta device.
    """
    declared = _declared_ties(model)
    for path, module in model.named_modules(remove_duplicate=False):
        own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        transient = module._non_persistent_buffers_set
        own |= {name: buffer for name, buffer in module.named_buffers(recurse=False) if name not in transient}
        prefix = f"{path}." if path else ""
        own = {name: tensor for name, tensor in own.items() if prefix + name not in declared}
        if read:
            own |= {name: found for name in own if (found := offloaded_values(module, name)) is not None}
        tensors = {prefix + name: tensor.detach() for name, tensor in own.items()}
        if tensors or isinstance(module, Int4Linear | Int4Experts):
            yield path, tensors


def _declared_ties(model: nn.Module) -> set[str]:
    """Names that transformers ties again after loading, where they share storage now."""
    ties: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {name for name, other in ties.items() if parameters.get(name) is parameters.get(other, object())}


def _is_tied(model: nn.Module) -> bool | None:
    """What config.json must say of tied embeddings: False where quantizing ended the tie, None for nothing new."""
    return False if getattr(getattr(model, "config", None), "tie_word_embeddings", None) is False else None


def _heads(model: nn.Module) -> set[str]:
    found = getattr(model, "get_output_embeddings", lambda: None)()
    return {name for name, module in model.named_modules() if module is found} if found is not None else set()


def _config_of(model: nn.Module, *, tied: bool | None) -> dict[str, Any]:
    """Return the config.json of a transformers model as it is now."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_json_string"):
        raise CheckpointError(
            f"{type(model).__name__} has no transformers configuration.",
            mend="save a transformers model, or keep model.state_dict() yourself",
        )
    data: dict[str, Any] = json.loads(config.to_json_string())
    data.pop("quantization_config", None)
    data["architectures"] = [type(model).__name__]
    dtype = getattr(model, "dtype", None)
    if dtype is not None:
        data["dtype"] = str(dtype).removeprefix("torch.")
    if tied is not None:
        data["tie_word_embeddings"] = tied
    return data


def _write_model_files(model: nn.Module, tokenizer: Any, folder: Path) -> None:
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        generation.to_json_file(folder / "generation_config.json")  # save_pretrained refuses some that models come with
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _refuse_empty(model: nn.Module) -> None:
    empty = [
        f"{path}.{name}"
        for path, module in model.named_modules()
        if execution_device(module) is None  # else accelerate has the values
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.is_meta
    ]
    if empty:
        raise CheckpointError(
            f"{len(empty)} weights are on the meta device and have no values, first {empty[0]!r}.",
            mend="load the model with its weights",
        )


def _refuse_lost(source: Source) -> None:
    lost = [record.name for record in source.records() if source.missing(record.tied_to or record.name)]
    if isinstance(source, FolderSource) and lost:
        raise CheckpointError(
            f"{str(source.path)!r} lacks {len(lost)} weights of the model, first {lost[0]!r}.",
            mend="download or copy the folder again, or name the folder of the whole model",
        )
