"""The calibration text of a session and its tokens: what is known of them, what a view shows, what a script reads.

Nothing here has a thread of its own; what is found on any thread is noted for the text that it was found of.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.calibration import Calibration
from workbench.calibration_text import CalibrationState, no_text, text_as_python, text_file
from workbench.checkpoint.contents import has_tokenizer
from workbench.demo import demo_calibration_text
from workbench.errors import ConfigError
from workbench.forward import max_positions
from workbench.session.script import is_demo
from workbench.sources import FolderSource, ModelSource, Source

DEMO_ORIGIN = "the demo model's own text"
TYPED_ORIGIN = "text given here"


class TokenizedText:
    """A text, its tokens once they are made, and what became of it; the demo model begins with its own.

    Args:
        source: Where the weights come from.
        tokenizer: Of a live model; a folder brings its own.
        on_state: Called after each change of `state` that is found out, on any thread.
        loads_bytes: Bytes of the model that is loaded to run the text.

    Attributes:
        text: The whole text.
        stamp: Stands for the text.
        state: What a view shows of it.
    """

    def __init__(
        self, source: Source, tokenizer: Any, *, on_state: Callable[[CalibrationState], None], loads_bytes: int
    ) -> None:
        self.source, self.tokenizer = source, tokenizer
        self._on_state, self._loads_bytes = on_state, loads_bytes
        self._tokenizing = threading.Lock()
        self._changing = threading.Lock()  # held while text and state change together
        self.put(*((demo_calibration_text(), DEMO_ORIGIN) if self.has_demo_text else ("", "")))

    @property
    def has_demo_text(self) -> bool:
        """Whether the model is the demo model, which comes with a text."""
        return is_demo(self.source)

    def check_demo(self) -> None:
        """Refuse to go on for a model that comes with no text.

        Raises:
            ConfigError: with the mend.
        """
        if not self.has_demo_text:
            raise ConfigError(f"{self.source.name!r} comes with no text.", mend="paste a text, or name a file")

    def put(self, text: str, origin: str, path: Path | None = None) -> None:
        """Hold another text, of which nothing is known yet; nobody is told."""
        with self._changing:
            self.text = text
            self.stamp = hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
            self._calibration: Calibration | None = None
            self._failure: Exception | None = None
            self.state = CalibrationState(origin, len(text), path, loads_bytes=self._loads_bytes)

    def prepared(self) -> Calibration:
        """Return the text's tokens, as they are used; the first call on a text takes up to seconds.

        Raises:
            ConfigError: when the text is empty or too short, or a live model came without its tokenizer.
            ModelError: when a folder has no tokenizer, or a damaged one.
        """
        with self._tokenizing:
            with self._changing:
                text, stamp, known = self.text, self.stamp, self._calibration
            if known is not None:
                return known
            if not text.strip():
                raise no_text()
            made = Calibration.from_text(text, self.text_tokenizer(), positions=self._positions())
            count, length = made.ids.shape
            self._tell(stamp, made, sequences=count, sequence_length=length, notes=made.notes)
            return made

    def _positions(self) -> int | None:
        """Return how many tokens the model takes at once; a folder's is not loaded for that."""
        if isinstance(self.source, FolderSource):
            from workbench.hf.skeleton import model_config  # late: it brings transformers

            return max_positions(model_config(self.source.path))
        model = self.source.model if isinstance(self.source, ModelSource) else None
        return max_positions(getattr(model, "config", None))

    def text_tokenizer(self) -> Any:
        """Return what makes a text into tokens; a folder's is read when it is first needed.

        Raises:
            ConfigError: when a model came without its tokenizer.
            ModelError: when a folder's is damaged.
        """
        if self.tokenizer is None and isinstance(self.source, FolderSource):
            from workbench.hf.loading import load_tokenizer  # late: it brings transformers

            self.tokenizer = load_tokenizer(self.source.path)
        if self.tokenizer is None:
            raise self._without_tokenizer()
        return self.tokenizer

    def tokenizer_problem(self) -> ConfigError | None:
        """Return why no text can be made into tokens, known without reading a file; None where a tokenizer is there."""
        there = isinstance(self.source, FolderSource) and has_tokenizer(self.source.path)
        return None if there or self.tokenizer is not None else self._without_tokenizer()

    def _without_tokenizer(self) -> ConfigError:
        model = repr(self.source.name) if isinstance(self.source, FolderSource) else "model"
        return ConfigError(
            f"{self.source.name!r} came without a tokenizer, which makes a text into tokens.",
            mend=f"open it with one: wb.Workbench({model}, tokenizer)",
        )

    def check(self) -> None:
        """Refuse to go on without a text that can be used, as far as that is known.

        Raises:
            ConfigError: with the mend.
        """
        if self.state.problem is not None:
            raise self.state.problem
        if not self.text.strip():
            raise no_text()

    def as_python(self, directory: Path | str) -> str:
        """Return a Python expression for the text; one that is in no file is written beside `directory` first.

        Raises:
            ConfigError: when there is no text, or its file cannot be written.
        """
        path = self.as_file(directory)
        return "wb.demo_calibration_text()" if path is None else text_as_python(path)

    def as_file(self, directory: Path | str) -> Path | None:
        """Return a file that holds the text, or None for the demo model's own; it is written beside `directory`.

        Raises:
            ConfigError: when there is no text, or its file cannot be written.
        """
        self.check()
        if self.state.origin == DEMO_ORIGIN:
            return None
        return text_file(self.text, self.state.path, Path(directory).expanduser().parent, self.stamp)

    def _tell(self, stamp: str, made: Calibration | None, failure: Exception | None = None, **changes: Any) -> None:
        """Note what became of the text that `stamp` stands for, unless it was replaced meanwhile."""
        with self._changing:
            if stamp != self.stamp:
                return
            self._calibration, self._failure = made or self._calibration, failure
            self.state = replace(self.state, **changes)
        self._on_state(self.state)
