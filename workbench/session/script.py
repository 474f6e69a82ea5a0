"""The recipe as a cell of Python, or as a command line, that does the same without the app."""

from __future__ import annotations

import dataclasses
import pprint
from pathlib import Path

from workbench.config import Int4WeightOnlyConfig
from workbench.demo import demo_path
from workbench.errors import ConfigError
from workbench.recipe.recipe import Recipe
from workbench.recipe.text import recipe_text
from workbench.shell import joined, with_document
from workbench.sources import ModelSource, Source
from workbench.targets import NATIVE

DEFAULT_DIRECTORY = "exports/int4"
RECIPE_FILE = "recipe.json"


def python_of(
    source: Source,
    recipe: Recipe,
    directory: Path | str = DEFAULT_DIRECTORY,
    calibration: str | None = None,
    format: str = NATIVE,
) -> str:
    """Return Python that quantizes the model of `source` under `recipe` and saves it in `directory`.

    Args:
        source: Where the weights come from.
        recipe: How they are quantized.
        directory: Where the checkpoint goes.
        calibration: A Python expression for the calibration text, where a layer is to be calibrated.
        format: The format of the checkpoint.
    """
    place = repr(str(directory))
    made, arguments = _recipe_lines(recipe)
    imports = ["from pathlib import Path", ""] if calibration is not None and "Path(" in calibration else []
    if calibration is not None:
        made = [f"text = {calibration}", *made]
        arguments += ", calibration=text, tokenizer=tokenizer"
    lines = [
        *imports,
        "import workbench as wb",
        "",
        _model_line(source),
        *made,
        f"print(wb.quantize_(model, {arguments}))",
        f"wb.save_checkpoint(model, {place}, tokenizer=tokenizer)"
        if format == NATIVE
        else f"print(wb.export(model, {place}, {format!r}, tokenizer=tokenizer))",
    ]
    return "\n".join(lines) + "\n"


def command_of(
    source: Source,
    recipe: Recipe,
    directory: Path | str = DEFAULT_DIRECTORY,
    calibration: Path | None = None,
    recipe_file: Path | None = None,
    format: str = NATIVE,
) -> str:
    """Return a command line that quantizes the model of `source` under `recipe` and saves it in `directory`.

    A recipe that is in no file, is no preset and is more than the command's options can say is given to it as its
    input; on Windows, PowerShell writes it into a file first.

    Args:
        source: Where the weights come from.
        recipe: How they are quantized.
        directory: Where the checkpoint goes.
        calibration: A file with the calibration text, or None.
        recipe_file: A file that holds the recipe, or None.
        format: The format of the checkpoint.

    Raises:
        ConfigError: for a model that is in memory only.
    """
    model = "demo" if is_demo(source) else source.name
    if isinstance(source, ModelSource) and model != "demo" and not Path(model).is_dir():
        raise ConfigError(
            f"{model!r} is a model in memory, which a command line cannot name.",
            mend="save it with save_pretrained and open that folder, or copy the recipe as Python",
        )
    preset = next((name for name in Recipe.presets() if Recipe.preset(name) == recipe), None)
    held = preset or (None if recipe_file is None else str(recipe_file))
    options = None if held else _options_of(recipe)
    verb = ["quantize", model] if format == NATIVE else ["export", model, "--format", format]
    words = ["workbench", *verb, *(options or ["--recipe", held or RECIPE_FILE]), "--out", str(directory)]
    words += [] if calibration is None else ["--calibration", str(calibration)]
    if held or options:
        return f"{joined(words)}\n"
    return with_document(words, recipe_text(recipe.to_json()), RECIPE_FILE)


def _options_of(recipe: Recipe) -> list[str] | None:
    """Return the options of the command that make a recipe, or None where there are none for it."""
    choice = recipe.default
    if choice is None or recipe.rules or choice.options is not None:
        return None
    config, plain = choice.config, Int4WeightOnlyConfig()
    if (config.zero_point_domain, config.set_inductor_config) != (plain.zero_point_domain, plain.set_inductor_config):
        return None
    words = ["--group-size", str(config.group_size)]
    words += ["--hqq"] if config.use_hqq else []
    words += ["--domain", choice.domain] if choice.domain else []
    words += ["--solver", choice.solver] if choice.solver else []
    words += [] if config.preserve_zero is None else ["--preserve-zero", "yes" if config.preserve_zero else "no"]
    words += [] if config.layout == plain.layout else ["--inner-k-tiles", str(config.layout.inner_k_tiles)]
    return [*words, *(["--output-head"] if recipe.output_head else [])]


def convert_python(source: Source, directory: Path | str = DEFAULT_DIRECTORY, format: str = NATIVE) -> str:
    """Return Python that writes an int4 model in another format; its codes stay as they are."""
    what, given = repr(source.name), ""
    about = []
    if isinstance(source, ModelSource):
        what, given = "model", ", tokenizer=tokenizer"
        about = ["# model and tokenizer are the ones that you gave to wb.Workbench"]
    lines = ["import workbench as wb", "", *about, f"print(wb.export({what}, {str(directory)!r}, {format!r}{given}))"]
    return "\n".join(lines) + "\n"


def convert_command(source: Source, directory: Path | str = DEFAULT_DIRECTORY, format: str = NATIVE) -> str:
    """Return a command line that writes an int4 checkpoint in another format; its codes stay as they are.

    Raises:
        ConfigError: for a model that is in memory only.
    """
    if isinstance(source, ModelSource):
        raise ConfigError(
            f"{source.name!r} is an int4 model in memory, which a command line cannot name.",
            mend="export it as native and open that folder, or copy as Python",
        )
    words = ["workbench", "export", source.name, "--format", format, "--out", str(directory)]
    return f"{joined(words)}\n"


def _recipe_lines(recipe: Recipe) -> tuple[list[str], str]:
    """Return the lines that make a recipe and what quantize_ is given: a configuration alone where that says it all."""
    choice = recipe.default
    if choice is None or recipe.rules or recipe.output_head:
        body = pprint.pformat(recipe.to_json(), width=96, sort_dicts=False).splitlines()
        return ["recipe = wb.Recipe.from_json(", *(f"    {line}" for line in body), ")"], "recipe"
    beside = [f"{name}={value!r}" for name in ("solver", "domain") if (value := getattr(choice, name)) is not None]
    if choice.options is not None:
        given = ", ".join(f"{key}={value!r}" for key, value in vars(choice.options).items())
        beside.append(f"options=wb.{type(choice.options).__name__}({given})")
    return [f"cfg = {_config_call(choice.config)}"], ", ".join(["cfg", *beside])


def _config_call(config: Int4WeightOnlyConfig) -> str:
    """Return the call that makes a configuration, with what differs from its defaults; always the group size."""
    usual = Int4WeightOnlyConfig()
    spelled = {
        "layout": f"wb.TensorCoreTiledLayout(inner_k_tiles={config.layout.inner_k_tiles})",
        "zero_point_domain": f"wb.ZeroPointDomain.{config.zero_point_domain.name}",
    }
    names = [field.name for field in dataclasses.fields(config)]
    changed = [name for name in names if name == "group_size" or getattr(config, name) != getattr(usual, name)]
    arguments = ", ".join(f"{name}={spelled.get(name, repr(getattr(config, name)))}" for name in changed)
    return f"wb.Int4WeightOnlyConfig({arguments})"


def is_demo(source: Source) -> bool:
    """Say whether a source is the demo model, by name or by folder."""
    return source.name == "demo" or (
        Path(source.name).is_dir() and Path(source.name).resolve() == demo_path().resolve()
    )


def _model_line(source: Source) -> str:
    name = source.name
    if is_demo(source):
        return "model, tokenizer = wb.demo_model()"
    if isinstance(source, ModelSource) and not Path(name).is_dir():
        return "# model and tokenizer are the ones that you gave to wb.Workbench"
    return f"model, tokenizer = wb.load_model({name!r})"
