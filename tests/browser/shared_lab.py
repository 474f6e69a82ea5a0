"""One JupyterLab page and one kernel, lent to one group of tests after another: what costs time is started once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from notebook_page import NotebookPage

# The kernel has imported PyTorch and the workbench already; names, outputs and widgets of its last notebook are gone.
EMPTY_KERNEL = """
import ipywidgets
ipywidgets.Widget.close_all()
get_ipython().run_line_magic("reset", "-f")
"""
EMPTY_PAGE = """async (code) => {
    const {kernel} = notebookPanel.sessionContext.session;
    if (kernel.status !== "idle") await kernel.restart();
    await kernel.requestExecute({code, store_history: false}).done;
    notebookPanel.dispose();
    return kernel.id;
}"""
OPEN = """async ([path, id]) => {
    const panel = await jupyterapp.commands.execute("docmanager:open", {path, factory: "Notebook", kernel: {id}});
    await panel.revealed;
    await panel.context.ready;
    await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
    window.notebookPanel = panel;
}"""


class SharedLab:
    """A page that is opened with the first notebook and keeps JupyterLab, and its kernel, for those that follow.

    For tests that look at the workbench; those that look at a first start, or at what a kernel holds, open a page of
    their own with the fixture `notebook`.
    """

    def __init__(self, lab: NotebookPage) -> None:
        self._lab = lab

    @contextlib.contextmanager
    def lend(self, cells: Sequence[str], width: int = 1280, height: int = 900) -> Iterator[NotebookPage]:
        """Show a notebook of these cells, all run, in a page of that size; no error may be left in it."""
        lab = self._lab
        lab.page.set_viewport_size({"width": width, "height": height})
        self._open(cells)
        lab.errors.clear()
        lab.run_all()
        yield lab
        assert lab.errors == []

    def _open(self, cells: Sequence[str]) -> None:
        lab = self._lab
        if not lab.page.evaluate("() => Boolean(window.notebookPanel)"):
            lab.open_notebook(cells)
            lab.collapse_sidebar()
            return
        lab.page.mouse.move(0, 0)
        kernel = lab.page.evaluate(EMPTY_PAGE, EMPTY_KERNEL)
        lab.set_theme("light")
        lab.page.evaluate(OPEN, [lab.new_file(cells), kernel])
