# SPDX-License-Identifier: Apache-2.0
"""Data sets whose classes do not cover their images."""

import dataclasses

import pytest

from deeplab_axial.data import coverage
from deeplab_axial.data.label_space import LabelClass, LabelSpace

NUCLEUS = LabelClass(1, "nucleus", True, (1, 1, 1), 1)
TISSUE = LabelClass(2, "tissue", False, (2, 2, 2), 2)
BOTH = LabelSpace("cells", (NUCLEUS, TISSUE), 3, 0, 256)
THINGS = dataclasses.replace(BOTH, classes=(NUCLEUS,))
STUFF = dataclasses.replace(BOTH, classes=(TISSUE,))


@pytest.mark.parametrize(
    ("space", "pixels", "kinds"),
    [
        (THINGS, {0: 80, 1: 20}, ["void without stuff"]),
        (BOTH, {0: 80, 1: 20, 2: 0}, ["void without stuff"]),
        (BOTH, {0: 80, 1: 10, 2: 10}, []),
        (THINGS, {0: 10, 1: 90}, []),
        (THINGS, None, []),
        (STUFF, {0: 1, 2: 99}, ["no things"]),
        (STUFF, None, ["no things"]),
        (BOTH, {0: 1, 2: 99}, ["no things"]),
        (BOTH, None, []),
        (BOTH, {}, []),
    ],
)
def test_what_is_told(space, pixels, kinds):
    assert list(coverage.problems(space, pixels, with_instances=True)) == kinds
    assert "no things" not in coverage.problems(space, pixels, with_instances=False)


def test_figures_and_remedies():
    (void,) = coverage.problems(THINGS, {0: 803, 1: 197}, with_instances=True).values()
    assert void.startswith("80.3% of the pixels are void, and none is stuff.")
    assert '{"name": "background", "isthing": 0}' in void
    (stuff,) = coverage.problems(STUFF, {2: 5}, with_instances=True).values()
    assert stuff.startswith("None of the 1 classes is a thing, so")
    assert "instance { enable: false }" in stuff
    (unseen,) = coverage.problems(BOTH, {2: 5}, with_instances=True).values()
    assert unseen.startswith("None of the 1 thing classes has a pixel, so")
