"""The calibration text of a session: what it is, what is used of it, and the inputs that it gives the layers."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.calibration import Calibration
from workbench.calibration_text import CalibrationState, check_text, no_text, read_text, text_as_python, text_file
from workbench.checkpoint.contents import has_tokenizer
from workbench.demo import demo_calibration_text
from workbench.errors import Cancelled, ConfigError, ModelError
from workbench.forward import max_positions
from workbench.jobs import Job, Lane
from workbench.records.progress import Progress
from workbench.session.layer_inputs import HELD_BYTES, LayerInputs
from workbench.session.script import is_demo
from workbench.sources import FolderSource, ModelSource, Source
from workbench.views.cache import STOPPED, WAITING, Inputs
from workbench.views.views import LayerView

DEMO_ORIGIN = "the demo model's own text"
TYPED_ORIGIN = "text given here"
JOB_LABEL = "Inputs of the layers"
_POLL_S = 0.05
_DENSE = "inputs of the dense model; an export takes those of the model as it is quantized so far"

InTurn = Callable[[Iterator[Any], threading.Event], Iterator[Any]]


class SessionCalibration:
    """A text and what becomes of it; a person's changes return at once, the work runs on a lane of its own.

    Args:
        source: Where the weights come from.
        tokenizer: Of a live model; a folder brings its own.
        in_turn: Takes each step of work while nothing is timed.
        on_state: Called after each change of `state`, on any thread.
        on_job: Called after each change of the lane's job, on its thread.
        again: Asks anew for the view that the inputs were collected for, after a cancel; None for no such way.
        max_bytes: Most bytes of moments that are held.

    Attributes:
        text: The whole text.
        state: What a view shows of it.
        lane: Where the text is tokenized and run through the dense model.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Any,
        *,
        in_turn: InTurn,
        on_state: Callable[[CalibrationState], None],
        on_job: Callable[[Job], None],
        again: Callable[[], Job | None] | None = None,
        max_bytes: int = HELD_BYTES,
    ) -> None:
        self.source, self.tokenizer = source, tokenizer
        self._in_turn, self._on_state, self._on_job, self._again = in_turn, on_state, on_job, again
        self.lane = Lane("calibration", latest_wins=True)
        self._tokenizing = threading.Lock()
        self._changing = threading.Lock()  # held while text and state change together
        self._inputs = LayerInputs(source, max_bytes)
        self._covers: frozenset[str] = frozenset()  # layers that the running job collects for
        self._put(*((demo_calibration_text(), DEMO_ORIGIN) if self.has_demo_text else ("", "")))

    @property
    def has_demo_text(self) -> bool:
        """Whether the model is the demo model, which comes with a text."""
        return is_demo(self.source)

    def set_text(self, text: str, origin: str = TYPED_ORIGIN, path: Path | None = None) -> None:
        """Take another text, and look at it on the lane; an empty one is none.

        Raises:
            ConfigError: when a character of it is half a surrogate pair, which no file can hold.
        """
        check_text(text)
        if (running := self.lane.current) is not None:
            running.again = None  # what it goes on with is of the text before
        self.lane.cancel()
        self._put(text, origin if text else "", path)
        self._on_state(self.state)
        self.look()

    def load_file(self, path: Path | str) -> None:
        """Take the text of a file.

        Raises:
            ConfigError: when there is no such file, it is too large, or it is not in UTF-8.
        """
        self.set_text(read_text(path), str(path), Path(path))

    def use_demo_text(self) -> None:
        """Go back to the text that comes with the demo model.

        Raises:
            ConfigError: for any other model.
        """
        if not self.has_demo_text:
            raise ConfigError(f"{self.source.name!r} comes with no text.", mend="paste a text, or name a file")
        self.set_text(demo_calibration_text(), DEMO_ORIGIN)

    def look_once(self) -> None:
        """Find out what is used of the text, unless that is known or being found out."""
        if self.state.sequences is None and self.state.problem is None and not self.lane.busy:
            self.look()

    def look(self) -> Job:
        """Find out, on the lane, what is used of the text."""

        def tokens(cancel: threading.Event) -> Iterator[Progress]:
            self._try_prepare()
            return iter(())

        return self._submit(tokens, ())

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

    def inputs(self, name: str) -> Inputs | None:
        """Return what is held of a layer's inputs, or None when they have to be collected first."""
        held = self._inputs.get(name, self.stamp)
        if held is not None:
            return Inputs(held[0], _DENSE, "inputs of the dense model", f"{self.stamp}/{held[1]}")
        if self._failure is not None:
            return Inputs(None, str(self._failure), "no inputs", self.stamp)
        return None

    def views(
        self, name: str, wanted: Sequence[str], found: Callable[[Inputs], Iterator[LayerView]], cancel: threading.Event
    ) -> Iterator[LayerView]:
        """Yield the views that `found` makes of a layer's inputs; while they are being collected, those without.

        Raises:
            Cancelled: when `cancel` was set; collecting goes on, for the next view may want the same.
        """
        inputs = self.inputs(name)
        if inputs is None:
            job = self.request(name, wanted, self._again)
            yield from found(WAITING)
            while not job.wait(_POLL_S):
                if cancel.is_set():
                    raise Cancelled(f"The view of {name} was superseded.")
            inputs = self.inputs(name) or STOPPED
        yield from found(inputs)

    def load(self, cancel: threading.Event | None = None) -> Iterator[Progress]:
        """Load the model that the text is run through, where it is not in memory; says so, with its size.

        Args:
            cancel: Set it to stop before the next tensor is read.

        Raises:
            Cancelled: when `cancel` was set.
            ModelError: when there is no model that can run it.
        """
        return self._inputs.load(cancel)

    @property
    def model(self) -> Any:
        """The dense model; `load` comes first."""
        return self._inputs.model

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

    def request(self, name: str, wanted: Sequence[str], again: Callable[[], Any] | None = None) -> Job:
        """Collect the inputs of a layer on the lane, with those of as many of `wanted` as fit; or join what runs.

        Args:
            name: Module path.
            wanted: Layers whose inputs will be asked for too.
            again: Begins anew what they are for, after a cancel; None where who asks has a Resume of its own.
        """
        running = self.lane.current
        if running is not None and name in self._covers and running.state != "cancelling":
            running.again = running.again and again
            return running
        names = self._inputs.together(name, wanted)

        def collect(cancel: threading.Event) -> Iterator[Progress]:
            calibration = self._try_prepare()
            return (
                iter(()) if calibration is None else self._in_turn(self._collected(names, calibration, cancel), cancel)
            )

        return self._submit(collect, names, again)

    def _collected(self, names: Sequence[str], calibration: Calibration, cancel: threading.Event) -> Iterator[Progress]:
        stamp = self.stamp
        try:
            yield from self._inputs.collect(names, calibration, stamp, cancel)
        except Cancelled:
            raise
        except Exception as error:
            self._tell(stamp, None, error)
            raise

    def _try_prepare(self) -> Calibration | None:
        """Return the tokens, or None when there is a problem with the text, which the state then tells."""
        stamp = self.stamp
        try:
            return self.prepared()
        except (ConfigError, ModelError) as error:
            self._tell(stamp, None, error, problem=error)
            return None

    def _submit(
        self,
        work: Callable[[threading.Event], Iterator[Progress]],
        names: Sequence[str],
        again: Callable[[], Any] | None = None,
    ) -> Job:
        job = Job(JOB_LABEL, work, self._on_progress, self._on_job, quiet=not names, again=again)
        self._covers = frozenset(names)
        return self.lane.submit(job)

    def _on_progress(self, job: Job, progress: Progress) -> None:
        job.progress = progress
        self._on_job(job)

    def _put(self, text: str, origin: str, path: Path | None = None) -> None:
        with self._changing:
            self.text = text
            self.stamp = hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
            self._calibration: Calibration | None = None
            self._failure: Exception | None = None
            self.state = CalibrationState(origin, len(text), path, loads_bytes=self._inputs.loads_bytes)

    def _tell(self, stamp: str, made: Calibration | None, failure: Exception | None = None, **changes: Any) -> None:
        """Note what became of the text that `stamp` stands for, unless it was replaced meanwhile."""
        with self._changing:
            if stamp != self.stamp:
                return
            self._calibration, self._failure = made or self._calibration, failure
            self.state = replace(self.state, **changes)
        self._on_state(self.state)
