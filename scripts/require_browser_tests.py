"""Fails if the tests in tests/browser did not all run: a green report without them would prove little.

    python scripts/require_browser_tests.py build/junit.xml

Says nothing when they ran, so that pytest's summary stays the last line.
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

PACKAGE = "tests.browser."


def problem(report: Path) -> str:
    """What is wrong with the report of a test run, in JUnit's XML; empty if the browser tests ran."""
    if not report.is_file():
        return f"no test report at {report}"
    cases = [
        case
        for case in ElementTree.parse(report).iter("testcase")
        if f"{case.get('classname', '')}.".startswith(PACKAGE)
    ]
    if not cases:
        return f"{report} has no test of tests/browser: none was collected"
    skipped = [case.get("name", "") for case in cases if case.find("skipped") is not None]
    if skipped:
        return f"tests of tests/browser were skipped: {', '.join(skipped)}"
    return ""


def main() -> int:
    wrong = problem(Path(sys.argv[1]))
    if wrong:
        print(wrong, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
