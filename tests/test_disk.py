"""Why a file could not be written."""

from __future__ import annotations

import errno
import sys

import pytest

from workbench.disk import why_unwritten


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "the disk is full (2.00 kB are needed)"), (errno.EFBIG, "a file would be larger"), (None, "no")],
)
def test_the_reason_is_said(number, said):
    assert why_unwritten("no", number, need_bytes=2000)[0].startswith(said)


@pytest.mark.parametrize(("platform", "loaded"), [("win32", True), ("linux", False)])
def test_a_model_that_windows_holds_open_is_named(platform, loaded, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    reason, mend = why_unwritten("Access is denied", errno.EACCES)
    assert reason == "Access is denied" and "choose a folder" in mend
    assert ("let go of the model" in mend) is loaded
