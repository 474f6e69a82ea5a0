"""The recipe as a cell of Python that does the same without the app."""

from __future__ import annotations

import json
from pathlib import Path

from workbench.demo import demo_path
from workbench.recipe import Recipe
from workbench.sources import ModelSource, Source

DEFAULT_DIRECTORY = "exports/int4"


def python_of(source: Source, recipe: Recipe, directory: Path | str = DEFAULT_DIRECTORY) -> str:
    """Return Python that quantizes the model of `source` under `recipe` and saves it in `directory`."""
    lines = [
        "import json",
        "",
        "import workbench as wb",
        "",
        _model_line(source),
        f"recipe = wb.Recipe.from_json(json.loads({json.dumps(recipe.to_json())!r}))",
        "print(wb.quantize_(model, recipe))",
        f"wb.save_checkpoint(model, {str(directory)!r}, tokenizer=tokenizer)",
    ]
    return "\n".join(lines) + "\n"


def _model_line(source: Source) -> str:
    name = source.name
    if name == "demo" or (Path(name).is_dir() and Path(name).resolve() == demo_path().resolve()):
        return "model, tokenizer = wb.demo_model()"
    if isinstance(source, ModelSource) and not Path(name).is_dir():
        return "# model and tokenizer are the ones that you gave to wb.Workbench"
    return f"model, tokenizer = wb.load_model({name!r})"
