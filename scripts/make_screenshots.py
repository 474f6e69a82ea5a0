"""Takes the README's pictures from the real page: the shipped notebook on the demo model in JupyterLab and Chromium.

    .venv/bin/python scripts/make_screenshots.py        # docs/workbench-light.png, docs/<tab>-light.png, and in dark

Needs the extra "test" (Playwright) and a Chromium. The speedups in the picture are those of the machine it runs on.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser")]

from notebook_page import NotebookPage, open_lab, show_tab  # noqa: E402
from playwright.sync_api import expect  # noqa: E402

WALK = """
app.session.configure(solver="refined", group_size=64)
app.session.select(["model.layers.0.mlp.down_proj"])
app.session.sweep_errors().wait()
app.session.speed.measure(batch_sizes=(1, 4, 16, 64, 256, 1024)).wait()
app.session.export("exports/demo-int4").wait()
app.session.quality.measure()
app.wait()
"""
TABS = {"errors": "Layers and errors", "speed": "Speed", "quality": "Quality", "recipe": "Recipe", "export": "Export"}
FIRST_SCREEN = 1070  # pixels of the app that the README shows


def walk(lab: NotebookPage) -> None:
    """Run the notebook and do what a person would: settings, a layer, all errors, speed, export."""
    lab.open_notebook(ROOT / "notebooks" / "01_workbench.ipynb")
    lab.collapse_sidebar()
    lab.run_all()
    lab.run_code(WALK, timeout_s=120)
    expect(lab.page.locator(".wb-heat .wb-title")).to_have_text("model.layers.0.mlp.down_proj")
    expect(lab.page.locator("[data-fact=Verified]")).to_contain_text("yes")


def pictures(lab: NotebookPage, folder: Path) -> None:
    """Save each tab of the app in both themes."""
    for theme in ("light", "dark"):
        lab.set_theme(theme)
        for name, label in TABS.items():
            show_tab(lab.page, label)
            lab.page.mouse.move(0, 0)
            lab.page.wait_for_timeout(700)
            lab.page.locator(".wb-app").screenshot(path=folder / f"{name}-{theme}.png")
        show_tab(lab.page, TABS["errors"])
        box = lab.page.locator(".wb-app").bounding_box()
        assert box is not None
        box["height"] = FIRST_SCREEN
        lab.page.screenshot(path=folder / f"workbench-{theme}.png", clip=box)


def main() -> int:
    folder = ROOT / "docs"
    folder.mkdir(exist_ok=True)
    with open_lab(1460, 3700) as lab:
        walk(lab)
        pictures(lab, folder)
    print(f"wrote {', '.join(TABS)} to {folder}, light and dark")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
