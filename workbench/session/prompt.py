"""A prompt in a session: what the original and the int4 model under the recipe that holds now make of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from workbench.coverage.coverage import Coverage
from workbench.errors import WorkbenchError
from workbench.jobs import Job, Lane
from workbench.records.progress import Progress
from workbench.session.model_pair import ModelPair
from workbench.session.quality_plan import recipe_label
from workbench.session.quality_prompt import Answers, check_prompt, iter_prompt, prompt_ids
from workbench.session.quality_run import Failures

PROMPT_LABEL = "Prompt on both models"
Behind = Callable[[Iterator[Any], threading.Event], Iterator[Any]]


class SessionPrompt:
    """Answers on a lane of its own; a new prompt, or another recipe, drops what is stale.

    Args:
        pair: Makes both models.
        coverage: Returns what becomes of every weight now.
        tokenizer: Returns the model's own.
        behind: Takes each step of work while nothing is timed and no view is under way.
        on_answers: Called after each token, and with None when the answers are stale; on any thread.
        on_job: Called after each change of a job, on its lane's thread.
        refused: Why there are no two models to ask, or None.

    Attributes:
        answers: What both models make of the newest prompt, or None.
        lane: Where prompts are answered.
    """

    def __init__(
        self,
        pair: ModelPair,
        *,
        coverage: Callable[[], Coverage],
        tokenizer: Callable[[], Any],
        behind: Behind,
        on_answers: Callable[[Answers | None], None],
        on_job: Callable[[Job], None],
        refused: WorkbenchError | None = None,
    ) -> None:
        self._refused = refused
        self._pair, self._coverage, self._tokenizer, self._behind = pair, coverage, tokenizer, behind
        self._on_answers, self._on_job = on_answers, on_job
        self.lane, self._failures = Lane("prompt", latest_wins=True), Failures()
        self.answers: Answers | None = None
        self._asked: tuple[str, int] | None = None
        self._answering: object = None  # what the running answers are for
        self._changing = threading.Lock()  # held while answers and what they are for change together

    def ask(self, prompt: str, tokens: int = 40) -> Job:
        """Let the original and the int4 model go on from a prompt, each token the most likely one.

        Args:
            prompt: The beginning of a text.
            tokens: Most tokens of each answer.

        Raises:
            ConfigError: for a blank prompt, a number of tokens out of range, or a model that was opened int4 already.
        """
        if self._refused is not None:
            raise self._refused
        check_prompt(prompt, tokens)
        self._asked = (prompt, tokens)
        return self._ask(prompt, tokens, quiet=False)

    def recipe_changed(self, *, again: bool) -> None:
        """Drop the answers, and with `again` give them anew."""
        if self._asked is None:
            return
        self.lane.cancel()
        self._drop()
        if again:
            self._ask(*self._asked, quiet=True)

    def _drop(self) -> object:
        """Drop the answers and return what stands for those to come."""
        key = object()
        with self._changing:
            self._answering, self.answers = key, None
        self._on_answers(None)
        return key

    def _ask(self, prompt: str, tokens: int, *, quiet: bool) -> Job:
        coverage, key = self._coverage(), self._drop()

        def steps(cancel: threading.Event) -> Iterator[Progress | Answers]:
            found = self._behind(self._steps(prompt, tokens, coverage, cancel), cancel)
            return self._failures.watched(found, quiet=quiet, known=lambda error: None)

        return self.lane.submit(Job(PROMPT_LABEL, steps, partial(self._on_item, key), self._on_job, quiet=quiet))

    def _steps(self, prompt: str, tokens: int, coverage: Coverage, cancel: threading.Event) -> Iterator[Any]:
        tokenizer = self._tokenizer()
        ids = prompt_ids(prompt, tokenizer)
        original, int4 = yield from self._pair.make(coverage, cancel)
        models = (original.model, int4)
        yield from iter_prompt(models, prompt, ids, tokens, tokenizer, recipe_label(coverage), cancel)

    def _on_item(self, key: object, job: Job, item: Progress | Answers) -> None:
        if not isinstance(item, Progress):
            with self._changing:
                if key is not self._answering:
                    return  # recipe or prompt are others by now
                self.answers = item
            self._on_answers(item)
            item = progress_of(item)
        job.progress = item
        self._on_job(job)


def progress_of(answers: Answers) -> Progress:
    """Say how far two answers are."""
    done = min(map(len, answers.tokens))
    return Progress(answers.wanted if answers.done else done, answers.wanted, f"{done} tokens", 0.0)
