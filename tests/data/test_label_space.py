# SPDX-License-Identifier: Apache-2.0
"""Label spaces as such: what they know, what they refuse, and `dataset.json`."""

import pytest

from deeplab_axial.builders import SHIPPED_NAMES, load_label_space
from deeplab_axial.data import dataset_info
from deeplab_axial.data.label_space import LabelClass, LabelSpace, differences, distinct_color, moved, tell
from deeplab_axial.data.tfrecord_files import Shard

CLASSES = (LabelClass(2, "road", False, (1, 2, 3), 7), LabelClass(5, "Auto, groß", True, (4, 5, 6), 9))
SPACE = LabelSpace("own", CLASSES, num_classes=6, ignore_label=0, label_divisor=256)


def test_what_it_knows():
    assert SPACE.thing_ids == (5,)
    assert SPACE.void_id == 0
    assert LabelSpace("own", CLASSES, 6, 255, 1000).void_id == 255000
    assert SPACE.by_id == {2: CLASSES[0], 5: CLASSES[1]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": CLASSES[::-1]}, "ascending"),
        ({"classes": CLASSES[:1] * 2}, "distinct"),
        ({"classes": (CLASSES[0], LabelClass(5, "road", True, (4, 5, 6), 9))}, "names must be distinct"),
        ({"num_classes": 5}, r"must lie in \[0, num_classes=5\)"),
        ({"ignore_label": 5}, "ignore_label must not be the id of a class"),
        ({"label_divisor": 1}, "label_divisor must be at least 2"),
    ],
)
def test_what_it_refuses(changes, said):
    arguments = {"classes": CLASSES, "num_classes": 6, "ignore_label": 0, "label_divisor": 256, **changes}
    with pytest.raises(ValueError, match=f"{said}.*Received"):
        LabelSpace("own", **arguments)


@pytest.mark.parametrize("name", ["own", *SHIPPED_NAMES])
def test_it_comes_back_from_dataset_json(tmp_path, name):
    space = SPACE if name == "own" else load_label_space(name)
    pixels = {c.id: 2**40 + c.id for c in space.classes}
    info = dataset_info.DatasetInfo(space, 3, (Shard("a.tfrecord", 3, 99),), 10, 20, pixels)
    info.write(tmp_path)
    assert dataset_info.DatasetInfo.read(tmp_path) == info
    assert load_label_space(tmp_path) == load_label_space(tmp_path / "dataset.json") == space
    assert LabelSpace.from_dict(space.to_dict()) == space


def test_colours_are_distinct():
    colors = [distinct_color(i) for i in range(500)]
    assert len(set(colors)) == len(colors)
    assert all(0 <= value <= 255 for color in colors for value in color)


def _named(*names: str, things: tuple[str, ...] = ()) -> LabelSpace:
    """Classes 1, 2, ... of these names; "" leaves an id out."""
    classes = [LabelClass(i, n, n in things, (0, 0, 0), i) for i, n in enumerate(names, 1) if n]
    return LabelSpace("named", tuple(classes), 9, 0, 256)


@pytest.mark.parametrize(
    ("first", "second", "differing", "exchanged"),
    [
        (_named("a", "b"), _named("a", "b"), {}, {}),
        (_named("a", "b"), _named("b", "a"), {1: ("a", "b"), 2: ("b", "a")}, {1: ("a", "b"), 2: ("b", "a")}),
        (_named("a", "b"), _named("a", "c"), {2: ("b", "c")}, {}),
        (_named("a", "b"), _named("a"), {2: ("b", "no class")}, {}),
        (_named("a", "b"), _named("", "b"), {1: ("a", "no class")}, {}),
        (
            _named("a", "b"),
            _named("c", "a"),
            {1: ("a", "c"), 2: ("b", "a")},
            {1: ("a", "c"), 2: ("b", "a")},
        ),
        (_named("a", "b", things=("a",)), _named("a", "b"), {1: ("a (thing)", "a (stuff)")}, {}),
    ],
)
def test_differences(first, second, differing, exchanged):
    assert differences(first, second) == differing
    assert moved(first, second) == exchanged
    assert differences(first, second, kinds=False) == {i: d for i, d in differing.items() if "thing" not in d[0]}


def test_differences_in_words():
    found = differences(_named(*"abcdefgh"), _named(*"bcdefgha"))
    assert tell(dict(list(found.items())[:2]), "in A", "in B") == "id 1 is a in A and b in B, 2 is b and c"
    many = dict.fromkeys(range(11), ("x", "y"))
    assert tell(many, "in A", "in B").endswith(", 7 is x and y, and 3 more ids differ")
