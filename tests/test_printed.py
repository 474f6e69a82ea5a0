"""A report that ends a cell, or a line at Python's or IPython's prompt, is read there as print shows it."""

from __future__ import annotations

import pytest
from IPython.lib.pretty import pretty

import workbench as wb
from workbench.coverage.coverage import Coverage
from workbench.measure.compare import SolverComparison
from workbench.measure.speed_report import SpeedReport
from workbench.measure.throughput_report import ThroughputReport
from workbench.paths import PathTable
from workbench.printed import Printed
from workbench.quantization_report import QuantizationReport
from workbench.records.quality import Quality
from workbench.targets.run import ExportReport, TargetTable

PRINTED = (
    *(Coverage, QuantizationReport, ExportReport, TargetTable),
    *(SpeedReport, ThroughputReport, SolverComparison, Quality, PathTable),
)


@pytest.mark.parametrize("report", PRINTED, ids=lambda report: report.__name__)
def test_what_says_print_it_shows_its_text_at_a_prompt(report):
    assert issubclass(report, Printed) and "__str__" in vars(report)
    assert vars(report)["__repr__"] is vars(Coverage)["__repr__"]


def test_a_prompt_shows_what_print_shows():
    table = wb.export_targets("demo")
    assert repr(table) == pretty(table) == str(table)
