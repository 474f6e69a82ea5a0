"""What the settings on the command line ask for: a recipe, a calibration text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ConfigError

if TYPE_CHECKING:
    from workbench.calibration import Calibration
    from workbench.coverage.coverage import Coverage
    from workbench.recipe.recipe import Recipe

DEFAULT_GROUP_SIZE = 64
SETTINGS = (
    *("group_size", "hqq", "domain", "solver", "preserve_zero", "inner_k_tiles"),
    *("include", "exclude", "output_head"),
)


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Make a recipe of a file, a preset, or the settings on the command line."""
    from workbench.config import Int4WeightOnlyConfig, TensorCoreTiledLayout
    from workbench.recipe.recipe import as_recipe

    if arguments.recipe is not None:
        if named := _given(arguments, SETTINGS):
            raise ConfigError(f"--recipe was given together with {named}.", mend="put them into a recipe file")
        return _named_recipe(arguments.recipe)
    config = Int4WeightOnlyConfig(
        group_size=group_size_of(arguments),
        layout=TensorCoreTiledLayout(8 if arguments.inner_k_tiles is None else arguments.inner_k_tiles),
        use_hqq=arguments.hqq,
        preserve_zero={None: None, "yes": True, "no": False}[arguments.preserve_zero],
    )
    return as_recipe(
        config,
        include=arguments.include,
        exclude=arguments.exclude,
        output_head=arguments.output_head,
        domain=arguments.domain,
        solver=arguments.solver,
    )


def asked(arguments: argparse.Namespace) -> bool:
    """Say whether any setting or recipe was asked for."""
    return bool(_given(arguments, ("recipe", *SETTINGS)))


def refuse_settings(arguments: argparse.Namespace) -> None:
    """Refuse settings for what is int4 already.

    Raises:
        ConfigError: naming them.
    """
    if named := _given(arguments, ("recipe", *SETTINGS)):
        raise ConfigError(
            f"{named} with what is int4 already.", mend="leave the settings away, or name the original model"
        )


def _given(arguments: argparse.Namespace, names: tuple[str, ...]) -> str:
    """Name the settings that were given, as one types them."""
    given = [name for name in names if getattr(arguments, name) is not None and getattr(arguments, name) is not False]
    return ", ".join("--" + name.replace("_", "-") for name in given)


def _named_recipe(name: str) -> Recipe:
    """Return the preset of that name, else read the file: a file called like a preset is ./NAME."""
    from workbench.recipe.recipe import Recipe

    if name not in Recipe.presets() and (Path(name).exists() or Path(name).suffix or Path(name).name != name):
        return Recipe.load(name)
    try:
        return Recipe.preset(name)
    except ConfigError as error:
        said = f"--recipe {name!r} is neither a file nor a preset."
        raise ConfigError(said, allowed=f"a file, or {error.allowed}", mend=error.mend) from None


def group_size_of(arguments: argparse.Namespace) -> int:
    """Return the group size that was asked for, or the default."""
    return DEFAULT_GROUP_SIZE if arguments.group_size is None else int(arguments.group_size)


def calibration_of(arguments: argparse.Namespace, coverage: Coverage) -> tuple[Calibration | None, Any]:
    """Return the calibration and the model to run it through, where a layer is to be calibrated."""
    from workbench.calibration import Calibration
    from workbench.calibration_text import read_text
    from workbench.coverage.coverage import needs_calibration
    from workbench.demo import demo_calibration_text
    from workbench.forward import max_positions
    from workbench.hf.folders import DEMO
    from workbench.hf.loading import load_model
    from workbench.hf.quiet import quiet

    if not needs_calibration(coverage):
        if arguments.calibration is not None:
            raise ConfigError("--calibration, and no layer is to be calibrated.", mend="add --solver calibrated")
        return None, None
    if arguments.calibration is not None:
        text = read_text(arguments.calibration)
    elif arguments.model == DEMO:
        text = demo_calibration_text()
        print("note: calibrated with the text that comes with the demo model")
    else:
        raise ConfigError(
            f"{needs_calibration(coverage)[0]} is to be calibrated, and there is no calibration text.",
            mend="name a UTF-8 text file with --calibration FILE, or use --solver refined",
        )
    print("note: the whole model is loaded, to run the calibration text through it", flush=True)
    with quiet():
        model, tokenizer = load_model(arguments.model)
    calibration = Calibration.from_text(text, tokenizer, positions=max_positions(model.config))
    for note in calibration.notes:
        print(f"note: {note}", flush=True)
    return calibration, model
