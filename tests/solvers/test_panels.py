"""Products and factors in panels: the bits of the whole, and no more work between two looks than a bound."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.errors import Cancelled
from workbench.solvers import InputMoments
from workbench.solvers import panels as room
from workbench.solvers.geometry import geometry
from workbench.solvers.panels import cholesky_, lower_inverse, panels, product, tiles

GIGA = 1e9


class Work(TorchDispatchMode):
    """Counts the multiply-adds of matrix operations, and the most of them between two looks."""

    def __init__(self):
        super().__init__()
        self.now, self.most, self.whole = 0, 0, 0

    def look(self):
        self.now = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.now += self.count(function.overloadpacket.__name__, args)
        self.most = max(self.most, self.now)
        return found

    def count(self, name, args):
        if name in ("mm", "addmm_"):
            left, right = args[-2:]
            done = left.shape[0] * left.shape[1] * right.shape[1]
        elif name == "linalg_cholesky_ex":
            done = len(args[0]) ** 3 // 6
        elif name == "linalg_solve_triangular":
            done = len(args[0]) ** 2 * args[1].shape[1] // 2
        else:
            return 0
        self.whole += done
        return done


def definite(size, seed=0):
    rows = torch.randn(2 * size, size, generator=torch.Generator().manual_seed(seed))
    return rows.t() @ rows / size + torch.eye(size)


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(room, "LEAST_PANEL", 8)
    monkeypatch.setattr(room, "FACTOR_PANEL", 32)


@pytest.mark.parametrize("size", [1, 767, 768, 1535, 1536, 4096, 11008])
def test_panels_cover_all_columns_and_none_is_narrow(size):
    cut = panels(size, 5)
    assert [0, *(panel.stop - 5 for panel in cut[:-1])] == [panel.start - 5 for panel in cut]
    assert cut[-1].stop == size + 5
    assert all(768 <= panel.stop - panel.start < 1536 for panel in cut) or len(cut) == 1


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("size", [1, 8, 37, 100])
def test_tiles_cover_the_upper_triangle_once(size):
    seen = torch.zeros(size, size)
    for rows, columns in tiles(size):
        seen[rows, columns] += 1
    assert torch.all(seen.triu() == torch.ones(size, size).triu()) and seen.max() == 1


@pytest.mark.parametrize("size", [100, 1700])
def test_panels_give_the_bits_of_one_operation(size):
    matrix = definite(size)
    left = torch.randn(70, size, generator=torch.Generator().manual_seed(1))
    lower = torch.linalg.cholesky(matrix)
    assert torch.equal(product(left, matrix), left @ matrix)
    assert torch.equal(cholesky_(matrix.clone()), lower)
    assert torch.equal(lower_inverse(lower), torch.linalg.solve_triangular(lower, torch.eye(size), upper=False))
    moments, rows = InputMoments.empty(size), torch.randn(300, size, generator=torch.Generator().manual_seed(2))
    moments.add(rows)
    moments.add(rows[:40])
    whole = torch.zeros(size, size).addmm_(rows.t(), rows).addmm_(rows[:40].t(), rows[:40])
    assert torch.equal(moments.total, whole)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("size", [5, 32, 33, 70, 100])
def test_factors_of_several_panels_are_those_of_float64(size):
    matrix = definite(size)
    lower = cholesky_(matrix.clone())
    torch.testing.assert_close(lower.double(), torch.linalg.cholesky(matrix.double()), rtol=1e-5, atol=1e-5)
    inverse = lower_inverse(lower)
    assert torch.equal(inverse, inverse.tril()) and torch.equal(lower, lower.tril())
    torch.testing.assert_close(inverse.double(), torch.linalg.inv(lower.double()), rtol=1e-5, atol=1e-5)
    assert torch.equal(cholesky_(matrix.clone()), lower)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("place", [3, 40, 99])
def test_what_is_not_positive_definite_has_no_factor(place):
    matrix = definite(100)
    matrix[place, place] = -1
    assert cholesky_(matrix) is None


@pytest.mark.usefixtures("narrow")
def test_a_factorization_stops_at_its_next_panel():
    looks = 0

    def look():
        nonlocal looks
        looks += 1
        if looks == 5:
            raise Cancelled("Stop.")

    with pytest.raises(Cancelled):
        geometry(definite(100), 32, 0.01, True, look)
    assert looks == 5


@pytest.mark.parametrize("width", [4096, 11008])
def test_no_more_than_a_bound_is_added_to_moments_between_two_looks(width):
    moments, work = InputMoments.empty(width, "meta"), Work()
    with work:
        moments.add(torch.empty(2048, width, device="meta"), work.look)
    assert work.most < 2 * GIGA < 15 * GIGA < work.whole
    assert work.whole < 0.61 * 2048 * width**2  # the lower half is copied


@pytest.mark.parametrize("width", [4096, 11008])
def test_no_more_than_a_bound_of_a_product_comes_between_two_looks(width):
    work, rows = Work(), torch.empty(512, width, device="meta")
    with work:
        product(rows, torch.empty(width, width, device="meta"), work.look)
    assert work.most < 5 * GIGA and work.whole == 512 * width**2


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("size", [32, 100, 300])
def test_factorizing_looks_at_least_as_often_as_a_square_is_factorized(size):
    work, matrix = Work(), definite(size)
    with work:
        lower_inverse(cholesky_(matrix, work.look), work.look)
    assert work.most <= 16 * 32**2  # a panel of fewer than 16 columns against a square of 32
    assert work.whole > 0.3 * size**3
