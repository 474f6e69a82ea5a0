"""Quality in a session: the model under the recipe that holds now beside the original, on a text and on a prompt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from workbench.coverage.coverage import Coverage
from workbench.errors import WorkbenchError
from workbench.jobs import Job, Lane, behind
from workbench.records.progress import Progress
from workbench.session.calibration import InTurn, SessionCalibration
from workbench.session.model_pair import ModelPair
from workbench.session.prompt import SessionPrompt
from workbench.session.quality_plan import Plan, Planner
from workbench.session.quality_prompt import Answers
from workbench.session.quality_run import Failures, iter_measured
from workbench.session.quality_state import Measured, QualityState, Results
from workbench.session.quality_text import DEMO_ORIGIN as DEMO_ORIGIN
from workbench.session.quality_text import WINDOWS, QualityText, windows_of
from workbench.session.tokenized_text import TYPED_ORIGIN
from workbench.views.cache import ViewCache

MEASURE_LABEL = "Quality"
DEFAULT_WINDOWS = 32


class SessionQuality:
    """Measures on lanes of its own, behind the views: a person's changes return at once, and drop what is stale.

    Args:
        calibration: The session's: it has source and tokenizer, and loads a folder's model once for all.
        cache: Layers that were solved to be looked at.
        coverage: Returns what becomes of every weight now.
        in_turn: Takes each step of work while nothing is timed.
        views: The lane that is waited for before each step.
        on_state: Called after each change of `state`, on any thread.
        on_answers: Called after each token of an answer, and with None when the answers are stale; on any thread.
        on_job: Called after each change of a job, on its lane's thread.
        device: Device that will run the layers.
        refused: Why there are no two models to compare, or None.

    Attributes:
        text: The text.
        state: What a view shows.
        lane: Where perplexity and divergence are measured.
        prompt: The newest prompt, and what both models make of it.
    """

    def __init__(
        self,
        calibration: SessionCalibration,
        cache: ViewCache,
        *,
        coverage: Callable[[], Coverage],
        in_turn: InTurn,
        views: Lane,
        on_state: Callable[[QualityState], None],
        on_answers: Callable[[Answers | None], None],
        on_job: Callable[[Job], None],
        device: str = "cpu",
        refused: WorkbenchError | None = None,
    ) -> None:
        self._calibration, self._coverage, self._in_turn, self._views = calibration, coverage, in_turn, views
        self._on_state, self._on_job, self._refused = on_state, on_job, refused
        self.lane = Lane("quality", latest_wins=True)
        self._pair, self._results, self._failures = ModelPair(calibration, cache), Results(), Failures()
        self._changing = threading.Lock()  # held while text, plan, results and state change together
        self._planner = Planner(calibration, coverage)
        self._plan: Plan | None = None  # what the running measurement is of
        self._measured = False  # whether a person has asked for a measurement
        self.prompt = SessionPrompt(
            self._pair,
            coverage=coverage,
            tokenizer=calibration.text_tokenizer,
            behind=self._behind,
            on_answers=on_answers,
            on_job=on_job,
            refused=refused,
        )
        self.text = QualityText.demo() if calibration.has_demo_text else QualityText()
        self.state = QualityState(
            *(self.text.origin, len(self.text.text), None),
            window=WINDOWS[0],
            windows=DEFAULT_WINDOWS,
            follow=True,
            loads_bytes=calibration.state.loads_bytes,
            device_note=self._pair.device_note(device),
            refused=refused or calibration.tokenizer_problem(),
        )

    @property
    def has_demo_text(self) -> bool:
        """Whether the model is the demo model, which comes with a text."""
        return self._calibration.has_demo_text

    # --- choosing -----------------------------------------------------------------------------------------------

    def set_text(self, text: str) -> None:
        """Measure on another text; an empty one is none.

        Raises:
            ConfigError: when it is too long, or a character of it is half a surrogate pair; the old one stays.
        """
        self._take_text(QualityText(text, TYPED_ORIGIN))

    def load_file(self, path: Path | str) -> None:
        """Measure on the text of a file in UTF-8, for instance a test set of wikitext.

        Raises:
            ConfigError: when there is no such file, it is too long, or it is not in UTF-8; the old text stays.
        """
        self._take_text(QualityText.of_file(path))

    def use_demo_text(self) -> None:
        """Go back to the held-out text of the demo model.

        Raises:
            ConfigError: for any other model.
        """
        self._calibration.check_demo()
        self._take_text(QualityText.demo())

    def configure(
        self, *, window: int | None = None, windows: int | str | None = None, follow: bool | None = None
    ) -> None:
        """Change how it is measured.

        Args:
            window: Tokens of a window: 512 or 2048; a model with fewer positions gets as many as it has.
            windows: Windows of the text that are measured, or "all".
            follow: Whether each change of the recipe is measured, once a person has asked for a measurement.

        Raises:
            ConfigError: for another window, or a number of windows below 1; nothing is changed then.
        """
        self._change(**self.state.chosen(window, windows, follow))

    def recipe_changed(self) -> None:
        """Drop what is stale, and measure and answer anew where that is wanted."""
        self._change()
        self.prompt.recipe_changed(again=self.state.follow)

    # --- measuring ----------------------------------------------------------------------------------------------

    def measure(self) -> Job | None:
        """Measure perplexity and divergence of the recipe that holds now; None when that is known already.

        Raises:
            ConfigError: when there is no text, or the model was opened int4 already.
        """
        if self._refused is not None:
            raise self._refused
        self.text.check()
        self._measured = True
        return self._measure(quiet=False)

    # --- inside -------------------------------------------------------------------------------------------------

    def _take_text(self, text: QualityText) -> None:
        self._change(text, origin=text.origin, characters=len(text.text), path=text.path)

    def _change(self, text: QualityText | None = None, **changes: Any) -> None:
        """Take a text and settings, show what is known under the recipe that holds, and measure if that is wanted."""
        self.lane.cancel()
        with self._changing:
            self._plan = None
            self.text = text or self.text
            self.state = self._shown(replace(self.state, problem=None, **changes))
        self._on_state(self.state)
        if self.state.follow and self._measured and self.text.text.strip():
            self._measure(quiet=True)

    def _shown(self, state: QualityState) -> QualityState:
        """Return the state with the results that hold now."""
        state = replace(state, calibrated_on=self._planner.calibrated_on(self.text))
        if not len(self._results):
            return replace(state, measured=None, change=None, before="", history=())
        plan = self._planner.now(self.text, state.window, self._pair.weights)
        found = self._results.get(plan)
        change, before = (found and self._results.change(found)) or (None, "")
        return replace(state, measured=found, change=change, before=before, history=self._results.on(plan.text))

    def _measure(self, *, quiet: bool) -> Job | None:
        with self._changing:
            state, text, coverage = self.state, self.text, self._coverage()
            plan = self._planner.now(text, state.window, self._pair.weights)
            known = self._results.get(plan)
            if known is not None and known.covers(state.windows):
                return None
            self._plan = plan

        def steps(cancel: threading.Event) -> Iterator[Progress | tuple[Progress, Measured]]:
            found = self._behind(self._measuring(plan, text, state, coverage, cancel), cancel)
            return self._failures.watched(found, quiet=quiet, known=partial(self._on_failed, plan))

        changed = partial(self._on_measuring, plan)
        take = partial(self._on_measured, plan)
        return self.lane.submit(Job(MEASURE_LABEL, steps, take, changed, quiet=quiet, again=self.measure))

    def _measuring(
        self, plan: Plan, text: QualityText, state: QualityState, coverage: Coverage, cancel: threading.Event
    ) -> Iterator[Progress | tuple[Progress, Measured]]:
        ids = text.ids(self._calibration.text_tokenizer)
        original, int4 = yield from self._pair.make(coverage, cancel)
        windows = windows_of(ids, original, state.window, state.windows)
        with self._changing:
            known = self._results.get(plan) if plan is self._plan else None
        done = None if known is None else known.comparison
        yield from iter_measured(plan, windows, (original, int4), done, cancel)

    def _behind(self, steps: Iterator[Any], cancel: threading.Event) -> Iterator[Any]:
        """Take each step while nothing is timed and no view is under way."""
        return behind(self._views, self._in_turn(steps, cancel), cancel)

    def _on_measured(self, plan: Plan, job: Job, item: Progress | tuple[Progress, Measured]) -> None:
        job.progress, found = (item, None) if isinstance(item, Progress) else item
        with self._changing:
            if plan is not self._plan:
                return  # recipe or text are others by now
            if found is not None:
                self._results.add(found)
                self.state = self._shown(self.state)
        if found is not None:
            self._on_state(self.state)
        self._on_job(job)

    def _on_measuring(self, plan: Plan, job: Job) -> None:
        if job.error is not None:
            self._on_failed(plan, job.error)
        self._on_job(job)

    def _on_failed(self, plan: Plan, error: BaseException) -> None:
        if isinstance(error, WorkbenchError):
            with self._changing:
                if plan is self._plan:
                    self.state = replace(self.state, problem=error)
            self._on_state(self.state)
