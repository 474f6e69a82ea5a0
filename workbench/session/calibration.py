"""Calibration in a session: a text is taken, looked at, and run through the dense model, on a lane of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from workbench.calibration import Calibration
from workbench.calibration_text import CalibrationState, check_text, read_text
from workbench.demo import demo_calibration_text
from workbench.errors import Cancelled, ConfigError, ModelError
from workbench.jobs import Job, Lane
from workbench.records.progress import Progress
from workbench.session.layer_inputs import HELD_BYTES, LayerInputs
from workbench.session.tokenized_text import DEMO_ORIGIN, TYPED_ORIGIN, TokenizedText
from workbench.sources import Source
from workbench.stopped_run import StoppedRun
from workbench.views.cache import STOPPED, WAITING, Inputs
from workbench.views.views import LayerView

JOB_LABEL = "Inputs of the layers"
_POLL_S = 0.05
_DENSE = "inputs of the dense model; an export takes those of the model as it is quantized so far"

InTurn = Callable[[Iterator[Any], threading.Event], Iterator[Any]]


class SessionCalibration(TokenizedText):
    """A text and what becomes of it; a person's changes return at once, the work runs on a lane of its own.

    Args:
        source: Where the weights come from.
        tokenizer: Of a live model; a folder brings its own.
        in_turn: Takes each step of work while nothing is timed.
        on_state: Called after each change of `state`, on any thread.
        on_job: Called after each change of the lane's job, on its thread.
        again: Asks anew for the view that the inputs were collected for, after a cancel; None for no such way.
        on_text: Called after another text was taken: what was solved with the one before is stale.
        max_bytes: Most bytes of moments that are held.

    Attributes:
        lane: Where the text is tokenized and run through the dense model.
        stopped: What a run of the text through calibrated layers held when it was stopped, within a bound.
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
        on_text: Callable[[], None] = lambda: None,
        max_bytes: int = HELD_BYTES,
    ) -> None:
        self._inputs, self.stopped = LayerInputs(source, max_bytes), StoppedRun()
        super().__init__(source, tokenizer, on_state=on_state, loads_bytes=self._inputs.loads_bytes)
        self._in_turn, self._on_job, self._again, self._on_text = in_turn, on_job, again, on_text
        self.lane = Lane("calibration", latest_wins=True)
        self._newest: tuple[Job | None, frozenset[str]] = None, frozenset()  # a job, and the layers it collects for

    def set_text(self, text: str, origin: str = TYPED_ORIGIN, path: Path | None = None) -> None:
        """Take another text, and look at it on the lane; an empty one is none.

        Raises:
            ConfigError: when a character of it is half a surrogate pair, which no file can hold.
        """
        check_text(text)
        if (running := self.lane.current) is not None:
            running.again = None  # what it goes on with is of the text before
        self.lane.cancel()
        self.put(text, origin if text.strip() else "", path)
        self.stopped.drop()
        self._on_state(self.state)
        self.look()
        self._on_text()

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
        self.check_demo()
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

        Args:
            name: Module path.
            wanted: Layers whose inputs will be asked for too.
            found: Makes the views of a layer's inputs.
            cancel: Set it to stop waiting.

        Raises:
            Cancelled: when `cancel` was set; collecting goes on, for the next view may want the same.
        """
        inputs = self.inputs(name)
        if inputs is None:
            job: Job | None = self.request(name, wanted, self._again)
            yield from found(WAITING)
            while job is not None:
                while not job.wait(_POLL_S):
                    if cancel.is_set():
                        raise Cancelled(f"The view of {name} was superseded.")
                job = self._collecting(name)  # what was asked for by others may have taken its place
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

    def request(self, name: str, wanted: Sequence[str], again: Callable[[], Any] | None = None) -> Job:
        """Collect the inputs of a layer on the lane, with those of as many of `wanted` as fit; or join what runs.

        Args:
            name: Module path.
            wanted: Layers whose inputs will be asked for too.
            again: Begins anew what they are for, after a cancel; None where who asks has a Resume of its own.
        """
        running = self._collecting(name)
        if running is not None:
            running.again = running.again and again
            return running
        names = self._inputs.together(name, wanted)

        def collect(cancel: threading.Event) -> Iterator[Progress]:
            calibration = self._try_prepare()
            return (
                iter(()) if calibration is None else self._in_turn(self._collected(names, calibration, cancel), cancel)
            )

        return self._submit(collect, names, again)

    def _collecting(self, name: str) -> Job | None:
        """Return the job that collects the inputs of a layer, or will, or None."""
        job, names = self._newest
        return job if job is not None and name in names and not (job.finished or job.state == "cancelling") else None

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
        self._newest = job, frozenset(names)
        return self.lane.submit(job)

    def _on_progress(self, job: Job, progress: Progress) -> None:
        job.progress = progress
        self._on_job(job)
