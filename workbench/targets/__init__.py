"""The formats that other engines load: one file each, behind one table of names."""

from __future__ import annotations

import importlib

from workbench.errors import ConfigError
from workbench.targets.target import Target

# Name → module of this package, in the order in which they are offered; each module has one `TARGET`.
MODULES: dict[str, str] = {}


def target_names() -> list[str]:
    """Names of all export targets."""
    return list(MODULES)


def get_target(name: str) -> Target:
    """Return the export target of that name.

    Raises:
        ConfigError: when there is none.
    """
    if name not in MODULES:
        raise ConfigError(f"format={name!r} is no export target.", allowed=", ".join(["native", *MODULES]))
    target: Target = importlib.import_module(f"workbench.targets.{MODULES[name]}").TARGET
    return target
