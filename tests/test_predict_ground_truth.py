# SPDX-License-Identifier: Apache-2.0
"""Ground truth beside predictions must have the classes of the model."""

import json

import pytest

from deeplab_axial.errors import InputError
from deeplab_axial.predict.ground_truth import GroundTruth
from tests.colors import SPACE

SKY, ROAD, CAT = (
    {"id": 10, "name": "sky", "isthing": 0},
    {"id": 11, "name": "road", "isthing": 0},
    {"id": 17, "name": "cat", "isthing": 1},
)


def _read(folder, categories):
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "file_name": "a.png"}]}
    path = folder / "truth.json"
    path.write_text(json.dumps({**content, "categories": categories}))
    return GroundTruth(str(path), str(folder), SPACE).image_id("x/a.jpg")


@pytest.mark.parametrize(
    "categories",
    [
        [SKY, ROAD, CAT],
        [SKY, CAT, {"id": 99, "name": "other", "isthing": 1}],
        [{"id": 10}, {**ROAD, "isthing": 1}],  # which the label space has turned into stuff
        [5, {"id": [1]}, {}],
    ],
)
def test_categories_that_are_the_classes(tmp_path, categories, caplog):
    assert _read(tmp_path, categories) == 1
    assert not caplog.records


def test_other_names_of_the_classes(tmp_path, caplog):
    assert _read(tmp_path, [{**SKY, "name": "Himmel"}, {**ROAD, "name": 5}, CAT]) == 1
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}/truth.json: these count as the same classes under other names: category 10 is Himmel there and "
        "sky in the model, category 11 is 5 there and road in the model."
    )


@pytest.mark.parametrize(
    ("categories", "said"),
    [
        (
            [{**SKY, "id": 11}, {**ROAD, "id": 10}, CAT],
            "category 11 is sky there and road in the model, category 10 is road there and sky in the model.",
        ),
        ([{**CAT, "isthing": 0}], "category 17 (cat) is stuff there and a thing in the model."),
        ([{**CAT, "name": "tom", "isthing": 0}], "category 17 (cat) is stuff there and a thing in the model."),
        ([{**CAT, "id": 18}], "category 18 is cat there and no class in the model."),
    ],
)
def test_categories_that_are_other_classes(tmp_path, categories, said):
    with pytest.raises(InputError) as error:
        _read(tmp_path, categories)
    message = str(error.value)
    assert message.startswith(
        f"{tmp_path}/truth.json: the categories must be the classes of the model. Received: {said}"
    )
