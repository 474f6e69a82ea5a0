"""What the commands do that open the notebooks or write a page: `workbench lab|report`."""

from __future__ import annotations

import argparse

from workbench.cli.progress import ProgressLine, finish, stopping
from workbench.cli.settings import asked, recipe_of
from workbench.errors import ConfigError, EnvironmentProblem


def lab(arguments: argparse.Namespace) -> None:
    """Open the workbench in JupyterLab."""
    from workbench.cli.launch import launch_lab

    if not 1 <= arguments.port <= 65535:
        raise ConfigError(f"--port {arguments.port}.", allowed="1 to 65535")
    code = launch_lab(
        arguments.model, port=arguments.port, browser=not arguments.no_browser, folder=arguments.notebook_dir
    )
    if code:
        raise EnvironmentProblem(f"JupyterLab ended with code {code}.", mend="its own messages above say why")


def report(arguments: argparse.Namespace) -> None:
    """Write one HTML file: coverage, errors of every layer, recipe and code, and the speed of this machine."""
    from workbench.report.write import check_target
    from workbench.session import open_session
    from workbench.sizes import size

    recipe = recipe_of(arguments)
    check_target(arguments.out)
    session = open_session(arguments.model)
    if arguments.calibration is not None:
        session.calibration.load_file(arguments.calibration)
    if session.given is None or asked(arguments):
        session.set_recipe(recipe)
    session.refresh()
    session.wait()  # for the first view, and the speed that is measured behind it
    with ProgressLine() as shown, stopping() as cancel:
        if arguments.speed:
            finish(session.speed.measure(), shown, cancel)
        finish(session.report(arguments.out), shown, cancel)
    written = session.reporting.latest
    assert written is not None, "a report that was not written is an error"
    for name in written.missing:
        print(f"note: {name} could not be solved and has no error in the report")
    print(session.verdict.line())
    print(f"wrote {written.path}: {size(written.size_bytes)}")
