"""What the package brings along: the embedded demo model, its held-out text, and the notebooks."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from workbench.errors import EnvironmentProblem

_REINSTALL = "install the package again: pip install --force-reinstall --no-deps int4-workbench"


def demo_path() -> Path:
    """The folder of the embedded demo model, which transformers loads without a network.

    Raises:
        EnvironmentProblem: The installation lacks the folder, or was left inside a zip file.
    """
    return _shipped("demo_model", "config.json")


def demo_eval_text() -> str:
    """The held-out text of the demo model: whole documentation pages that were not in its training text.

    Raises:
        EnvironmentProblem: The installation lacks the text.
    """
    return _shipped("demo_model", "eval.txt").joinpath("eval.txt").read_text(encoding="utf-8")


def demo_calibration_text() -> str:
    """The text to calibrate the demo model with: excerpts of many pages that it was trained on.

    Measure on `demo_eval_text`, which shares no paragraph with it.

    Raises:
        EnvironmentProblem: The installation lacks the text.
    """
    return _shipped("demo_model", "calibration.txt").joinpath("calibration.txt").read_text(encoding="utf-8")


def notebooks_path() -> Path:
    """The folder of the shipped notebooks: inside an installed package, or at the top of a clone.

    Read-only for users: `workbench lab` works on copies.

    Raises:
        EnvironmentProblem: Neither place has a notebook.
    """
    clone = Path(__file__).parents[1] / "notebooks"
    if (clone.parent / "pyproject.toml").is_file() and any(clone.glob("*.ipynb")):
        return clone
    return _shipped("notebooks", "*.ipynb")


def _shipped(folder: str, expected: str) -> Path:
    resource = files("workbench") / folder
    if not isinstance(resource, Path):
        raise EnvironmentProblem(f"{folder} lies in an archive: {resource}", mend=f"unpack it or {_REINSTALL}")
    if not any(resource.glob(expected)):
        raise EnvironmentProblem(f"the installed package lacks {expected} in {resource}", mend=_REINSTALL)
    return resource
