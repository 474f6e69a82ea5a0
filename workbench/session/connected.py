"""The rooms of a session, each made with what it needs of the others: a change in one reaches all that follow it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from workbench.coverage.coverage import Coverage
from workbench.jobs import Job, Lane, wait_for_all
from workbench.recipe.recipe import Recipe
from workbench.session.ahead import SessionAhead
from workbench.session.calibration import SessionCalibration
from workbench.session.compare import SessionCompare
from workbench.session.details import SessionDetails
from workbench.session.events import Event, Listeners
from workbench.session.exact import SessionErrors
from workbench.session.export import SessionExport
from workbench.session.history import SessionHistory
from workbench.session.improve import SessionImprove
from workbench.session.layers import SessionLayers
from workbench.session.microscope import SessionMicroscope
from workbench.session.perplexity import SessionPerplexity
from workbench.session.quality import SessionQuality
from workbench.session.recipe import SessionRecipe
from workbench.session.report import SessionReport
from workbench.session.rooms import Means
from workbench.session.speed import SessionSpeed
from workbench.session.state import SessionState
from workbench.session.stored import SessionStored
from workbench.session.turns import Turns
from workbench.session.verdict import SessionVerdict
from workbench.session.views import SessionViews
from workbench.session.zoom import SessionZoom
from workbench.views.cache import ViewCache

_NOTHING_TO_COMPARE = "there is no original beside it to compare with; session.perplexity measures it alone"


class ConnectedRooms(SessionState):
    """Model, recipe and selection, and all that is seen and made of them, room by room.

    Attributes:
        layers: Settings layer by layer.
        history: The way back to the recipes before, and forth again.
        views: The picture of the layer on show.
        microscope: A group of the layer on show, weight by weight.
        speed: The measured speed of a layer shape.
        exact: The exact errors under the recipe that holds.
        calibration: The calibration text, and what becomes of it.
        quality: The model under the recipe beside the original, on a text and on a prompt.
        stored: What is stored of the layer on show, where it came int4.
        perplexity: How well a model that came int4 predicts a text, alone.
        recipes: The recipe's rules, text and files, and the recipes before it.
        details: Histograms and output error of the layer on show.
        compare: Settings that are held fast, and the layer on show under both.
        zoom: Parts of the heatmap at full size.
        ahead: Neighbouring settings, solved while nothing else runs, where `ahead.on` is set.
        verdict: Size, error and speed in a line.
        improving: What the latest search for a better recipe found.
        reporting: The report that was written last.
        exports: Which formats hold the model, and what was written last.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._listeners, self._cache, turns = Listeners(), ViewCache(), Turns()
        self._state = threading.Lock()  # held while recipe, coverage and errors change together
        self.work = Lane("work", latest_wins=False)
        means = self._connect_views(turns)
        self._connect_quality(turns)
        self._connect_rest(means, turns)
        emit = self._listeners.emit
        self.recipes: SessionRecipe = SessionRecipe(self, self.preflight, lambda: emit("recipe", self.recipes))
        self.history = SessionHistory(self.recipes.history, self.preflight, self._take)
        self.layers = SessionLayers(self)

    def _connect_views(self, turns: Turns) -> Means:
        """Make what shows layers, and what it is given of the text; return what is lent to other rooms."""
        emit, on_job = self._listeners.emit, self._listeners.on_job
        self.calibration = SessionCalibration(
            *(self.source, self.tokenizer),
            in_turn=turns.in_turn,
            on_state=partial(emit, "calibration"),
            on_job=self._listeners.on_long_job,
            again=self.refresh,
            on_text=self._recalibrate,
        )
        means = Means(self._cache, turns.in_turn, emit, on_job, self.calibration.inputs)
        self.exact = SessionErrors(self, self._cache, self._state, emit, on_job)
        self.microscope = SessionMicroscope(self, means, self._state)
        self.views = SessionViews(self, means, self.exact, self.microscope)
        self.speed = SessionSpeed(self, turns.alone, emit, on_job)
        return means

    def _connect_quality(self, turns: Turns) -> None:
        """Make what measures the whole model."""
        emit, on_job = self._listeners.emit, self._listeners.on_job
        self.quality = SessionQuality(
            self.calibration,
            self._cache,
            coverage=lambda: self.coverage,
            in_turn=turns.behind,
            views=self.views.lane,
            on_state=partial(emit, "quality"),
            on_answers=partial(emit, "answers"),
            on_job=on_job,
            device=self.device,
            refused=None if self.given is None else self.given.refusal(_NOTHING_TO_COMPARE),
        )
        self.stored = SessionStored(self, turns.in_turn, emit, on_job)
        self.perplexity = SessionPerplexity(self, turns.behind, emit, on_job)

    def _connect_rest(self, means: Means, turns: Turns) -> None:
        """Make what stands on the views: closer looks, the search for a better recipe, reports and exports."""
        emit, on_job = self._listeners.emit, self._listeners.on_job
        self.details, self.compare = SessionDetails(self, means), SessionCompare(self, means)
        self.zoom = SessionZoom(self, means)
        self.ahead = SessionAhead(self, replace(means, in_turn=turns.behind), lambda: self.lanes)
        self.verdict = SessionVerdict(self, turns.alone, emit)
        self.improving = SessionImprove(self, emit, on_job)
        self.reporting = SessionReport(self, sweep=self.exact.sweep, on_swept=self.exact.take, emit=emit, on_job=on_job)
        self.exports = SessionExport(self, self._cache, emit, on_job)
        # Views come first: one waits for inputs, and starts a look when it is there.
        self.lanes: tuple[Lane, ...] = (
            *(self.views.lane, self.microscope.lane, self.calibration.lane, self.work),
            *(self.quality.lane, self.quality.prompt.lane, self.verdict.lane),
            *(self.details.lane, self.compare.lane, self.zoom.lane, self.exports.lane),
            *(self.perplexity.lane, self.stored.lane),
        )

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event, on the thread where it happens; returns a function that stops it."""
        return self._listeners.add(listener)

    def set_recipe(self, recipe: Recipe) -> None:
        """Take a recipe as a whole; it can be undone.

        Raises:
            PatternError: for a pattern that matches nothing; the recipe stays as it was.
            ConfigError: for a model that was opened int4 already.
        """
        if recipe != self.recipe:
            self._choosable("no recipe applies to it")
            self.history.add(recipe)

    def refresh(self) -> Job | None:
        """Compute the view of the current layer anew; what an older request still computes is dropped."""
        if self.given is not None:  # there is no view to come before these
            self.stored.refresh()
            self.exports.follow()
            self.verdict.follow()
        return self.views.refresh()

    def cancel(self) -> None:
        """Stop what runs; acknowledged at once, done at the next block."""
        for lane in (self.ahead.lane, *reversed(self.lanes)):  # who asks for something before who gives it
            lane.cancel()
        self.verdict.stop()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing runs; False when `timeout_s` seconds passed first."""
        return wait_for_all(self.lanes, timeout_s)

    def _choosable(self, why: str) -> None:
        if self.given is not None:
            raise self.given.refusal(why)

    def _recalibrate(self) -> None:
        """Drop what was measured with another text, and show the current layer anew."""
        self.exact.text_changed()
        self.refresh()
        self.quality.recipe_changed()

    def _take(self, recipe: Recipe, coverage: Coverage, step: Callable[[], bool]) -> bool:
        with self._state:
            if not step():
                return False
            size = self.resolved().group_size
            self.hold(recipe, coverage)
            self.microscope.regroup(size, self.resolved().group_size)
            self.exact.recipe_changed()
        self.refresh()  # first: the new view is computed while all else that follows from the recipe is told
        self._listeners.emit("coverage", coverage)
        self.quality.recipe_changed()
        return True
