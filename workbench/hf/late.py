"""Act on a library when somebody imports it, without importing it ourselves: it is optional, and slow to import."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def after_import(module: str, action: Callable[[], None]) -> None:
    """Call `action` once `module` is imported: now when it is already, else right after its code has run.

    Args:
        module: Full name, for instance "peft.tuners.lora.model". It may not be installed at all.
        action: Called once, in the thread that imports.
    """
    if getattr(sys.modules.get(module), "__spec__", None) is not None:
        action()
    else:
        sys.meta_path.insert(0, _Watcher(module, action))


class _Watcher:
    """Finds a module where the others find it, and adds the action to its loading."""

    def __init__(self, module: str, action: Callable[[], None]) -> None:
        self._module, self._action = module, action

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec that the other finders have; None for every other module."""
        if name != self._module:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            run = loader.exec_module

            def exec_module(loaded: Any) -> None:
                run(loaded)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                self._action()

            loader.exec_module = exec_module
        return spec
