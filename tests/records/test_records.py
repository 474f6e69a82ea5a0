"""Records: frozen, and the same after JSON."""

import dataclasses
import json
import math

import pytest

from workbench.errors import WorkbenchError
from workbench.records.errors import ErrorMap, ErrorSummary, ErrorTrace, Histogram, LayerResult
from workbench.records.layers import CoverageRow, LayerRecord
from workbench.records.microscope import Microscope, MicroscopeVariant
from workbench.records.progress import Progress
from workbench.records.quality import Quality
from workbench.records.record import Record, write_json
from workbench.records.speed import SpeedPoint

EXAMPLES = [
    LayerRecord("a.b", "linear", (3, 4), "bfloat16", 24),
    LayerRecord("head", "output_head", (), "float32", 0, tied_to="a.b"),
    CoverageRow("a.b", "linear", (3, 4), 12, "int4", "default", 24, 8, 5.25, "N 3→16"),
    Progress(1, 3, "layer", 0.5, 1.0),
    Progress(0, 0, "", 0.0),
    ErrorTrace("mean |error|", (0.5, 0.25), 10, 6),
    LayerResult("a.b", "hqq", "float", 64, "mean |error|", 0.25, 0.5, (0.5, 0.25), 1.5),
    LayerResult("a.b", "rtn", "int", 32, "mean |error|", 0.5, 0.5, (0.5,), 1.5, ("a note", "another")),
    ErrorSummary(0.0, 0.0, 0.0, 0.0, (0, 0), math.inf, 0.0, 5.0, 12),
    ErrorSummary(math.inf, math.inf, 1.0, math.inf, (2, 3), -math.inf, 1.0, 4.5, 12),
    ErrorMap(bytes(range(256)), 16, 16, 1e-4, 1.0, "RMS error", True, 2, 3, 32, 48, "max", "rmse"),
    ErrorMap(b"", 0, 0, -1.0, 1.0, "weight", False, 1, 1, 0, 0, "none", "original"),
    Histogram(3, 1.0, (1, 2, 3), 0.5, (0, 6, 0)),
    Quality(math.e, 1.0, 510, 2, 256),
    Quality(math.inf, 800.0, 31, 2, 16, 1, 26.75, 0.0125, (0.0, 0.025), 0.875),
    MicroscopeVariant("int", False, "rtn", reason="the same"),
    MicroscopeVariant("int", True, "hqq", "", (0.5, -1.0), (0, 1, 1), 0.5, 3.0, 0.1, max_abs_ratio=math.inf),
    Microscope(
        *("a.b", 3, 1, 64, 64, (0.25, -0.5)),
        variants=(
            MicroscopeVariant("float", False, "rtn", "", (0.5,), (0, 0), 0.5, 0.1, 0.1, rms_ratio=math.inf),
            MicroscopeVariant("symmetric", False, "rtn", "always exact"),
        ),
        current=0,
    ),
    Microscope("a.b", 0, 0, 0, 32, (), (), None),
    SpeedPoint("cpu", "a CPU", "int4", "bfloat16", 8, 64, 32, 1, 0.25, 0.125, 0.5, 9, 1.5, 2.5, "eager", "op", 0.5, 32),
    SpeedPoint("cpu", "a CPU", "dense", "bfloat16", 8, 64, 32, 1, 0.25, 0.125, 0.5, 9, 1.5, 2.5, "compiled"),
]
IDS = [f"{type(one).__name__}-{place}" for place, one in enumerate(EXAMPLES)]


def subclasses(kind):
    return {kind, *(child for direct in kind.__subclasses__() for child in subclasses(direct))}


def test_every_record_has_an_example_here():
    own = {kind for kind in subclasses(Record) - {Record} if kind.__module__.startswith("workbench.records.")}
    assert {type(one) for one in EXAMPLES} == own


@pytest.mark.parametrize("record", EXAMPLES, ids=IDS)
def test_json_and_back_is_the_same_record(record):
    text = json.dumps(record.to_json(), allow_nan=False)
    back = type(record).from_json(json.loads(text))
    assert back == record
    assert hash(back) == hash(record)
    for one in dataclasses.fields(record):
        assert type(getattr(back, one.name)) is type(getattr(record, one.name)), one.name


@pytest.mark.parametrize("record", EXAMPLES, ids=IDS)
def test_no_field_can_be_changed(record):
    for one in dataclasses.fields(record):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, one.name, None)


@pytest.mark.parametrize("record", EXAMPLES, ids=IDS)
def test_missing_and_unknown_fields_are_refused_by_name(record):
    data = record.to_json()
    for name in data:
        with pytest.raises(WorkbenchError, match=rf"{type(record).__name__}.*'{name}'"):
            type(record).from_json({key: value for key, value in data.items() if key != name})
    with pytest.raises(WorkbenchError, match=r"'colour'.*Allowed"):
        type(record).from_json({**data, "colour": 1})


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_dictionary_is_refused(data):
    with pytest.raises(WorkbenchError, match="Progress"):
        Progress.from_json(data)


def test_nan_survives_json():
    point = dataclasses.replace(EXAMPLES[-1], time_ms=math.nan)
    back = SpeedPoint.from_json(json.loads(json.dumps(point.to_json(), allow_nan=False)))
    assert math.isnan(back.time_ms)


def test_names_that_look_like_numbers_stay_names():
    for name in ("inf", "-inf", "nan"):
        record = LayerRecord(name, "linear", (1, 2), "float32", 8, tied_to=name)
        assert LayerRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(("shape", "count"), [((3, 4), 12), ((7,), 7), ((), 1), ((0, 5), 0), ((2, 3, 4), 24)])
def test_parameters_are_the_product_of_the_shape(shape, count):
    assert LayerRecord("a", "linear", shape, "float32", 0).parameters == count


def test_files_are_stable_and_end_with_a_newline(tmp_path):
    write_json(tmp_path / "one.json", {"b": 1, "a": [1, 2], "ü": "×"})
    write_json(tmp_path / "two.json", {"ü": "×", "a": [1, 2], "b": 1})
    text = (tmp_path / "one.json").read_bytes()
    assert text == (tmp_path / "two.json").read_bytes()
    assert text.endswith(b"}\n")
    assert json.loads(text) == {"a": [1, 2], "b": 1, "ü": "×"}
