"""What the package brings along: the embedded demo model, its held-out text, and the notebooks."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from workbench.errors import EnvironmentProblem

_CALIBRATION_SHARE = 0.4
_PAGE_END = "\n\n\n"  # between two pages, and before some sections
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
    """The first two fifths of the held-out text, to calibrate with: the model was trained on neither part.

    It ends where the first page or section after 40 % of the characters ends, in the shipped text after whole pages:
    "c-api" and "howto". Measure on `demo_test_text`, which has none of its pages.

    Raises:
        EnvironmentProblem: The installation lacks the text.
    """
    return _split_eval_text()[0]


def demo_test_text() -> str:
    """The rest of the held-out text, to measure on: neither trained on nor in `demo_calibration_text`.

    In the shipped text these are the pages of "library".

    Raises:
        EnvironmentProblem: The installation lacks the text.
    """
    return _split_eval_text()[1]


def _split_eval_text() -> tuple[str, str]:
    """Cut after the first two blank lines in the last 60 % of the characters; the halves joined are the whole."""
    text = demo_eval_text()
    cut = text.index(_PAGE_END, round(_CALIBRATION_SHARE * len(text))) + len(_PAGE_END)
    return text[:cut], text[cut:]


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
