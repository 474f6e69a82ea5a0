"""The speed of the layer on show: which points are measured, kept and dropped, and what is refused."""

import pytest

from tests.session.stand_ins import EMBEDDING, GATE, Heard, waited
from workbench.errors import ConfigError

pytestmark = pytest.mark.usefixtures("quick_roofline")


def test_speed_is_measured_for_the_layer_on_show(demo):
    heard = Heard(demo)
    demo.select([GATE])
    job = waited(demo.speed.measure(batch_sizes=[1, 3], budget_s=0.0))
    assert job.state == "done"
    assert demo.speed.points == heard.of("speed")
    cpu = [point for point in demo.speed.points if point.device == "cpu"]
    assert {(point.batch, point.path) for point in cpu} >= {(b, p) for b in (1, 3) for p in ("int4", "dense")}
    assert {(point.n, point.k, point.group_size) for point in demo.speed.points} == {(768, 256, 64)}
    assert all(point.time_ms > 0 and point.runs > 0 for point in demo.speed.points)
    assert job.progress.done == job.progress.total
    waited(demo.speed.measure(batch_sizes=[2], budget_s=0.0))
    assert {point.batch for point in demo.speed.points} == {2}


def test_points_of_other_dtypes_are_kept_while_the_shape_is_the_same(demo):
    demo.select([GATE])
    waited(demo.speed.measure(batch_sizes=[1], paths=["int4"], budget_s=0.0))
    waited(demo.speed.measure(batch_sizes=[2], paths=["int4"], dtypes=["float32"], budget_s=0.0))
    assert {(point.dtype, point.batch) for point in demo.speed.points} == {("bfloat16", 1), ("float32", 2)}
    assert set(demo.speed.rooflines["cpu"].matmul_gflop_per_s) == {"bfloat16", "float32"}
    assert any("path by batch size" in note for note in demo.speed.notes)
    demo.configure(group_size=32)
    waited(demo.speed.measure(batch_sizes=[1], paths=["int4"], dtypes=["float32"], budget_s=0.0))
    assert {(point.dtype, point.group_size) for point in demo.speed.points} == {("float32", 32)}


def test_speed_of_what_is_not_linear_is_refused_and_the_old_points_stay(demo):
    waited(demo.speed.measure(batch_sizes=[1], budget_s=0.0))
    before = demo.speed.points
    for name in (EMBEDDING, "model.norm"):
        demo.select([name])
        with pytest.raises(ConfigError, match="is no linear layer"):
            demo.speed.measure()
    assert demo.speed.points == before


@pytest.mark.parametrize("batch_sizes", [[], [0], [-1, 4]])
def test_batch_sizes_that_cannot_be_measured_are_a_problem(demo, batch_sizes):
    heard = Heard(demo)
    job = waited(demo.speed.measure(batch_sizes=batch_sizes))
    assert job.state == "failed"
    assert isinstance(heard.of("problem")[0], ConfigError)
