# SPDX-License-Identifier: Apache-2.0
"""Label spaces that are shipped or written in files, and the rules that they keep."""

import json
import pathlib

import pytest
from google.protobuf import text_format

from deeplab_axial import builders, config
from deeplab_axial.data.label_space import LabelClass, LabelSpace, distinct_color
from deeplab_axial.errors import InputError
from deeplab_axial.protos import label_space_pb2

ROOT = pathlib.Path(__file__).parents[1]
PANOPTIC = [name for name in builders.SHIPPED_NAMES if name != "imagenet"]

# --- The shipped ones ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_classes", "things", "ignore_label", "divisor", "void"),
    [
        ("cityscapes_panoptic", 19, range(11, 19), 255, 1000, 255000),
        ("coco_panoptic", 134, range(1, 81), 0, 256, 0),
        ("kitti_step", 19, (11, 13), 255, 1000, 255000),
        ("motchallenge_step", 7, (4,), 255, 1000, 255000),
        ("mapillary_vistas_1.2", 66, range(1, 38), 0, 256, 0),
        ("mapillary_vistas_2.0", 117, range(1, 71), 0, 256, 0),
    ],
)
def test_the_numbers(name, num_classes, things, ignore_label, divisor, void):
    space = builders.load_label_space(name)
    assert (space.num_classes, space.ignore_label, space.label_divisor) == (num_classes, ignore_label, divisor)
    assert space.thing_ids == tuple(things)
    assert space.void_id == void


def test_the_numbers_of_ade20k():
    space = builders.load_label_space("ade20k_panoptic")
    assert (space.num_classes, space.ignore_label, space.label_divisor) == (151, 0, 1000)
    assert len(space.thing_ids) == 100
    assert all(c.category_id == c.id - 1 for c in space.classes)


@pytest.mark.parametrize("name", PANOPTIC)
def test_every_class_is_there_once(name):
    space = builders.load_label_space(name)
    assert space.name == name
    assert [c.id for c in space.classes] == list(range(space.ignore_label == 0, space.num_classes))
    for field in ("name", "category_id"):
        assert len({getattr(c, field) for c in space.classes}) == len(space.classes)
    assert all(len(c.color) == 3 for c in space.classes)


@pytest.mark.parametrize("name", builders.SHIPPED_NAMES)
def test_the_file_says_what_it_is(name):
    lines = (ROOT / "deeplab_axial" / "label_spaces" / f"{name}.textproto").read_text().splitlines()
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    assert lines[1].startswith("# ")
    assert max(map(len, lines)) <= 120


def test_names_and_categories():
    def rows(name: str, *ids: int) -> list[tuple[int, str]]:
        space = builders.load_label_space(name)
        return [(space.by_id[i].category_id, space.by_id[i].name) for i in ids]

    assert rows("cityscapes_panoptic", 0, 6, 11, 18) == [
        (7, "road"), (19, "traffic light"), (24, "person"), (33, "bicycle")
    ]  # fmt: skip
    assert rows("coco_panoptic", 1, 12, 80, 81, 133) == [
        (1, "person"), (13, "stop sign"), (90, "toothbrush"), (92, "banner"), (200, "rug-merged")
    ]  # fmt: skip
    assert rows("motchallenge_step", 0, 4) == [(1, "sidewalk"), (11, "person")]
    assert rows("mapillary_vistas_1.2", 1, 4, 37, 38, 65) == [
        (1, "Bird"), (20, "Person"), (63, "Wheeled Slow"), (3, "Curb"), (65, "Ego Vehicle")
    ]  # fmt: skip
    # Unlabeled, the ambiguous labels and the groups are void.
    assert rows("mapillary_vistas_2.0", 1, 6, 70, 71, 116) == [
        (1, "Bird"), (31, "Person"), (118, "Water Valve"), (4, "Concrete Block"), (123, "Static")
    ]  # fmt: skip
    names = {c.name for c in builders.load_label_space("mapillary_vistas_2.0").classes}
    assert not names & {"Unlabeled", "Person Group", "Pole Group", "Vehicle Group", "Traffic Sign - Ambiguous"}


def test_cityscapes_is_that_of_cityscapesscripts():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    official = {label.trainId: label for label in labels if 0 <= label.trainId < 255}
    for c in builders.load_label_space("cityscapes_panoptic").classes:
        label = official[c.id]
        assert (c.category_id, c.name, c.is_thing, c.color) == (label.id, label.name, label.hasInstances, label.color)


def test_coco_is_that_of_panopticapi_in_the_converters_order():
    sample = ROOT.parent / "shared" / "data" / "coco_sample" / "panoptic_coco_categories.json"
    if not sample.exists():
        pytest.skip("the folder ../shared with COCO's categories is not beside this checkout")
    categories = sorted(json.loads(sample.read_text()), key=lambda c: (not c["isthing"], c["id"]))
    coco = builders.load_label_space("coco_panoptic")
    expected = [(c["id"], c["name"], bool(c["isthing"]), tuple(c["color"])) for c in categories]
    assert [(c.category_id, c.name, c.is_thing, c.color) for c in coco.classes] == expected


@pytest.mark.parametrize("name", ["mapillary_vistas_1.2", "mapillary_vistas_2.0", "coco_panoptic"])
def test_things_come_first_and_then_category_ids(name):
    classes = builders.load_label_space(name).classes
    assert list(classes) == sorted(classes, key=lambda c: (not c.is_thing, c.category_id))


def _configs() -> list[str]:
    folder = ROOT / "configs"
    return [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.textproto")) if p.parent.name != "bases"]


@pytest.mark.parametrize("name", _configs())
def test_networks_of_configs_have_as_many_classes_as_their_data(name):
    options = config.load(ROOT / "configs" / name)
    if options.model_options.HasField("classification"):
        return
    channels = options.model_options.panoptic_deeplab.semantic_head.output_channels
    for dataset in (options.train_dataset_options.dataset, options.eval_dataset_options.dataset):
        # Of the synthetic scenes and of own data, dataset.json tells.
        assert dataset in (*PANOPTIC, "scenes", "own_data")
        if dataset in PANOPTIC:
            assert channels == builders.load_label_space(dataset).num_classes


# --- From files ------------------------------------------------------------------------------------------------------

OWN = """
label_space {
  name: "own"
  label_divisor: 256
  label_class { id: 2 name: "Auto, groß" is_thing: true color: [0, 128, 255] category_id: 40 }
  label_class { id: 0 name: "road" }
}
"""
OWN_SPACE = LabelSpace(
    "own",
    (LabelClass(0, "road", False, distinct_color(0), 0), LabelClass(2, "Auto, groß", True, (0, 128, 255), 40)),
    num_classes=3,
    ignore_label=255,
    label_divisor=256,
)


def test_a_textproto_may_have_bases_and_other_sections(tmp_path):
    (tmp_path / "base.textproto").write_text(OWN)
    (tmp_path / "own.textproto").write_text('base: "base.textproto" experiment_name: "a" label_space { name: "b" }')
    assert builders.load_label_space(tmp_path / "base.textproto") == OWN_SPACE
    space = builders.load_label_space(tmp_path / "own.textproto")
    assert (space.name, space.classes) == ("b", OWN_SPACE.classes)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cityscapes", "cityscapes_panoptic"),
        ("mapillary_vistas_12", "mapillary_vistas_1.2"),
        ("coco_panopti", "coco_panoptic"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(name, near):
    with pytest.raises(InputError) as error:
        builders.load_label_space(name)
    assert f'Received: {name!r}, which does not exist. Did you mean "{near}"? Valid names: ade20k' in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "own.textproto: label_space: must be set. Received: nothing."),
        (b"label_space {", "own.textproto:1:"),
        (b"label_space { clases: 3 }", "own.textproto:1:15: label_space.clases: LabelSpaceOptions has no such field"),
        (b"\xff\xfe", "own.textproto: must be a textproto that can be read. Received: not UTF-8 text."),
        (b'label_space { name: "a" }', "own.textproto: label_space.label_class: must be set. Received: []."),
    ],
)
def test_broken_files_are_named(tmp_path, content, said):
    (tmp_path / "own.textproto").write_bytes(content)
    with pytest.raises(InputError) as error:
        builders.load_label_space(tmp_path / "own.textproto")
    assert said in str(error.value)


def test_a_folder_without_dataset_json_is_named(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}/dataset.json cannot be read"):
        builders.load_label_space(tmp_path)


# --- The rules -------------------------------------------------------------------------------------------------------

ROAD = 'label_class { id: 1 name: "road" } '


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ROAD + 'name: ""', 'name: must be set. Received: "". Name the data set'),
        (ROAD + "num_classes: -1", "num_classes: must be 0 or more. Received: -1"),
        (ROAD + "num_classes: 1", "label_class[0].id: must be less than num_classes (1). Received: 1"),
        (ROAD + "ignore_label: -1", "ignore_label: must be 0 or more. Received: -1"),
        (ROAD + "ignore_label: 1", "label_class[0].id: must not be ignore_label, which stands for void. Received: 1"),
        (ROAD + "label_divisor: 1", "label_divisor: must be at least 2. Received: 1"),
        (
            ROAD + "label_divisor: 65537",
            "label_divisor: times the number of class ids, void included (256), must be at most 16777216, what a PNG "
            "holds. Received: 65537. Set it to 65536 or less",
        ),
        (
            'ignore_label: 0 label_class { id: 20000 name: "a" }',
            "label_divisor: times the number of class ids, void included (20001), must be at most 16777216",
        ),
        ('label_class { name: "a" }', "label_class[0].id: must be set. Received: nothing"),
        ('label_class { id: -3 name: "a" }', "label_class[0].id: must be 0 or more. Received: -3"),
        ("label_class { id: 3 }", 'label_class[0].name: must be set. Received: ""'),
        (
            ROAD + 'label_class { id: 1 name: "car" }',
            "label_class[1].id: must differ from that of every other class, and label_class[0] has it. Received: 1",
        ),
        (
            ROAD + 'label_class { id: 2 name: "road" }',
            "label_class[1].name: must differ from that of every other class, and label_class[0] has it. "
            'Received: "road"',
        ),
        (
            ROAD + 'label_class { id: 2 name: "car" category_id: 1 }',
            "label_class[1].category_id: must differ from that of every other class, and label_class[0] has it. "
            "Received: 1",
        ),
        *(
            (
                f'label_class {{ id: 1 name: "a" color: {color} }}',
                f"label_class[0].color: must have three values from 0 to 255. Received: {color}",
            )
            for color in ("[1, 2]", "[1, 2, 3, 4]", "[0, 0, 256]", "[0, -1, 0]")
        ),
    ],
)
def test_each_rule_names_field_value_and_remedy(text, expected):
    options = label_space_pb2.LabelSpaceOptions(name="own")
    text_format.Merge(text, options)
    with pytest.raises(InputError) as error:
        builders.build_label_space(options, "own.textproto")
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"own.textproto: label_space.{expected}")
    assert line.count(". ") >= 2
    assert line.endswith(".")


def test_a_config_reports_them_with_all_its_other_problems(tmp_path):
    (tmp_path / "a.textproto").write_text('label_space { label_class { id: 255 } } trainer_options { precision: "x" }')
    with pytest.raises(InputError) as error:
        config.load(tmp_path / "a.textproto")
    fields = [line.split(": ")[1] for line in str(error.value).splitlines()]
    assert sorted(fields) == [
        "label_space.label_class[0].id",
        "label_space.label_class[0].name",
        "label_space.name",
        "model_options",
        "trainer_options.precision",
    ]
