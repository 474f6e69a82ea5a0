"""The README's table: the share of the bytes in linear-like weights that becomes int4, for each architecture.

    python -m scripts.architecture_table --write

Linear-like is what a forward multiplies as a matrix, watched on a tiny model: linear layers, experts, routers. The
output head and the embeddings are counted apart. The bytes are those of the public shape, built without memory.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from dataclasses import dataclass

from torch import nn

import workbench as wb
from tests.more_architectures import ALL
from tests.multiplied import multiplied
from tests.readme_table import print_or_write
from workbench.coverage.coverage import Coverage
from workbench.coverage.preflight import preflight_source
from workbench.recipe.recipe import as_recipe
from workbench.sources import ModelSource

START, END = "<!-- architectures -->\n", "<!-- /architectures -->\n"
COLUMNS = 4


class ShapeSource(ModelSource):
    """A model without memory, whose coverage is that of the same model with its weights."""

    def missing(self, name: str) -> str:
        """Nothing is missing: only the shapes count."""
        return ""


@dataclass(frozen=True)
class Share:
    """What becomes int4 of the linear-like weights of a public shape.

    Attributes:
        linear_bytes: Bytes of the linear-like weights, without output head and embeddings.
        int4_bytes: Those that become int4.
        left: Name with "#" for each number → (bytes, reason) of what stays.
        coverage: The coverage of the whole model.
    """

    linear_bytes: int
    int4_bytes: int
    left: dict[str, tuple[int, str]]
    coverage: Coverage

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.int4_bytes / self.linear_bytes


@functools.cache
def share(name: str) -> Share:
    """Measure the share of an architecture."""
    linear_like, model = {numberless(parameter) for parameter in watched(name)}, ALL[name].skeleton()
    coverage = preflight_source(ShapeSource(model), as_recipe(wb.Int4WeightOnlyConfig(group_size=64)))
    rows, apart = {row.name: row for row in coverage.rows}, heads_and_embeddings(model)
    left_bytes: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    linear_bytes = 0
    for name, parameter in model.named_parameters():
        if numberless(name) not in linear_like or name in apart:
            continue
        linear_bytes += parameter.nbytes
        row = rows.get(name) or rows[name.removesuffix(".weight")]
        if row.decision != "int4":
            left_bytes[numberless(name)] += parameter.nbytes
            reasons[numberless(name)] = row.reason
    left = {name: (count, reasons[name]) for name, count in left_bytes.items()}
    return Share(linear_bytes, linear_bytes - left_bytes.total(), left, coverage)


@functools.cache
def watched(name: str) -> frozenset[str]:
    """Names of what the tiny model of an architecture multiplies as matrices."""
    return frozenset(multiplied(ALL[name].build(), ALL[name].inputs()))


def numberless(name: str) -> str:
    """Write "#" for the numbers in a name, which are layers and experts."""
    return re.sub(r"\d+", "#", name)


def heads_and_embeddings(model: nn.Module) -> set[str]:
    """Names of the parameters of the output head and of the embeddings, tied ones under each of their names."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    modules = [module for module in model.modules() if isinstance(module, nn.Embedding) or module is head]
    owned = {id(parameter) for module in modules for parameter in module.parameters()}
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in owned}


def percent(value: float) -> str:
    """Write a share so that only the whole is written as 100 %."""
    return "100 %" if value == 1 else f"{math.floor(1000 * value) / 10} %"


def table() -> str:
    """Return the table as Markdown."""
    cells = [f"{name} | {percent(share(name).value)}" for name in ALL]
    cells += [" | "] * (-len(cells) % COLUMNS)
    height = len(cells) // COLUMNS
    lines = ["| architecture | int4 " * COLUMNS + "|", "|---|---" * COLUMNS + "|"]
    lines += ["| " + " | ".join(cells[row::height]) + " |" for row in range(height)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, or write it into the README."""
    print_or_write(table, START, END, __doc__ or "")


if __name__ == "__main__":
    main()
