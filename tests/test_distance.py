"""How far arrays are apart: against the formulas, written down once more."""

from __future__ import annotations

import numpy as np
import pytest

from mxtools.runtime.distance import EQUAL, UNLIKE, Distance, distance, worst

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_figures_are_those_of_the_formulas(scale: float) -> None:
    generator = np.random.default_rng(0)
    wanted = (generator.standard_normal((3, 40)) * scale).astype(np.float32)
    found = (wanted + generator.standard_normal((3, 40)) * scale / 100).astype(np.float32)
    a, b = found.astype(np.longdouble).ravel(), wanted.astype(np.longdouble).ravel()
    result = distance(found, wanted)
    assert result.max_abs == pytest.approx(float(np.abs(a - b).max()), rel=1e-12)
    assert result.relative == pytest.approx(float(np.abs(a - b).max() / np.abs(b).max()), rel=1e-12)
    assert result.cosine == pytest.approx(float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())), rel=1e-12)
    assert result.sqnr == pytest.approx(float(10 * np.log10((b * b).sum() / ((a - b) ** 2).sum())), rel=1e-12)


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ([1.0, -2.0], [1.0, -2.0], EQUAL),
        ([NAN, INF, 1.0], [NAN, INF, 1.0], EQUAL),
        ([NAN, 1.0], [1.0, 1.0], UNLIKE),
        ([INF, 1.0], [-INF, 1.0], UNLIKE),
        ([1.0], [1.0, 1.0], UNLIKE),
        (["a"], ["a"], EQUAL),
        (["a"], ["b"], UNLIKE),
        ([], [], EQUAL),
        ([0.0, 3.0], [0.0, 0.0], Distance(3.0, 3.0, 0.0, -INF)),
        ([0.0, 0.0], [0.0, 4.0], Distance(4.0, 1.0, 0.0, 0.0)),
        ([INF, 1.0], [INF, 2.0], Distance(1.0, 0.5, 1.0, 20 * np.log10(2))),
        ([True, False], [True, True], Distance(1.0, 1.0, np.sqrt(0.5), 10 * np.log10(2))),
    ],
    ids=str,
)
def test_special_values(found: list[object], wanted: list[object], expected: Distance) -> None:
    result = distance(np.array(found), np.array(wanted))
    assert tuple(vars(result).values())[:4] == pytest.approx(tuple(vars(expected).values())[:4], rel=1e-12)


def test_shapes_and_types_do_not_matter() -> None:
    assert distance(np.ones((2, 3), np.float16), np.ones(6, np.float64)) == EQUAL


def test_the_worst_is_the_one_with_the_largest_relative_error() -> None:
    near, far = distance(np.array([100.0]), np.array([101.0])), distance(np.array([1.0]), np.array([2.0]))
    assert worst([near, far, EQUAL]) == far
    assert worst([]) is None
