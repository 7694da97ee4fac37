# SPDX-License-Identifier: Apache-2.0
"""The figures that `checks` counts equal slow counts, and read well."""

import collections

import numpy as np
import pytest

from deeplab_axial.data import (
    check_report,
    dataset_info,
    record_checks,
    records,
)
from deeplab_axial.data.pipeline import ImageOptions
from tests.data.checked import (
    AGAIN,
    VOID,
    change,
    encode,
    fault_lines,
    jpeg,
    panoptic_map,
    report,
    run_check,
    write,
)


def test_instances_too_small_for_the_stride_are_counted_after_resizing(tmp_path):
    source = write(tmp_path, [encode("a.jpg"), encode("b.jpg")])
    (line,) = fault_lines(run_check(source, output_stride=16))
    assert line == (
        f"warning: {tmp_path}: 2 of 4 instances have less than 16 x 16 pixels after resizing, one position at the "
        "model's output stride: car 2. They are hardly learned; raise min_resize_value, or lower output_stride."
    )
    doubled = run_check(source, output_stride=16, image_options=ImageOptions((65, 97), 64, 96))
    assert fault_lines(doubled) == []
    assert doubled.resized_sizes == {(64, 96): 2}
    assert doubled.small_instances == 0


def test_things_with_instance_id_0_count_as_crowd(tmp_path):
    panoptic = np.where(panoptic_map() == 3002, 3000, panoptic_map())
    summary = run_check(write(tmp_path, [encode("a.jpg", panoptic, (), crowd=())]))
    assert fault_lines(summary) == []
    assert (summary.listed_crowd, summary.unlisted_crowd) == (0, 1)
    assert summary.instances == {2: 1}
    assert "crowd      0 segments listed, 1 more with instance id 0" in report(summary)


def test_the_figures_equal_a_slow_count(tmp_path):
    rng = np.random.default_rng(5)
    choices = [0, 2000, 2001, 2002, 3001, 3007, VOID]
    maps = [rng.choice(choices[: 1 + n], (32, 48)).astype(np.int32) for n in (0, 2, 3, 4, 6, 6)]
    summary = run_check(write(tmp_path, [encode(f"{i}.jpg", m, (), crowd=(3007,)) for i, m in enumerate(maps)]))
    pixels, segments, images, instances = (collections.Counter() for _ in range(4))
    for panoptic in maps:
        ids = set()
        for row in panoptic.tolist():
            for value in row:
                pixels[value // 1000] += 1
                ids.add(value)
        segments.update(i // 1000 for i in ids)
        images.update({i // 1000 for i in ids})
        instances[sum(i in (2001, 2002, 3001) for i in ids)] += 1
    for counted, expected in (
        (summary.class_pixels, pixels),
        (summary.class_segments, segments),
        (summary.class_images, images),
    ):
        assert {i: n for i, n in enumerate(counted.tolist()) if n} == expected
    assert summary.instances == instances


def test_segments_equal_numpys_unique():
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 50), (50, 1), (40, 60)):
        panoptic = rng.integers(0, 4, size).astype(np.int32).repeat(3, 1) * 1000
        ids, areas = record_checks.find_segments(panoptic)
        np.testing.assert_array_equal([ids, areas], np.unique(panoptic, return_counts=True))


@pytest.mark.parametrize(
    ("sizes", "stride", "largest", "usual"),
    [
        ({(480, 640): 1}, 16, (481, 641), (481, 641)),
        ({(481, 641): 3}, 32, (481, 641), (481, 641)),
        ({(1, 1): 1}, 16, (17, 17), (17, 17)),
        ({(480, 640): 95, (2000, 3000): 5}, 16, (2001, 3009), (481, 641)),
        ({(480, 640): 94, (2000, 3000): 6}, 16, (2001, 3009), (2001, 3009)),
        # Landscape and portrait: neither side alone tells.
        ({(480, 640): 50, (640, 480): 50}, 16, (641, 641), (641, 641)),
        # The largest heights and the largest widths belong to different images; both sides grow together.
        ({(100, 100): 92, (300, 100): 4, (100, 300): 4}, 8, (305, 305), (305, 305)),
    ],
)
def test_suggested_crops(sizes, stride, largest, usual):
    assert check_report.largest_crop(sizes, stride) == largest
    assert check_report.usual_crop(sizes, stride) == usual
    assert check_report.share_that_fits(sizes, usual) >= 0.95
    assert check_report.share_that_fits(sizes, largest) == 1


def test_the_summary_as_text(tmp_path):
    source = write(tmp_path, [encode("a.jpg"), encode("b.jpg", np.zeros((32, 48), np.int32), (0,), crowd=())])
    assert report(run_check(source)) == (
        "images     2 read\n"
        "sizes      height x width, pixels: smallest 32 x 48, median 32 x 48, largest 32 x 48\n"
        "crop       33 x 49 holds 100% of the images whole; crop_size is the same\n"
        "instances  an image: mean 1.0, median 0, 95 % have at most 2, largest 2\n"
        "           images by their instances: 0: 1, 2-3: 1\n"
        "too small  0 of 2 instances (0.0%) have less than 8 x 8 pixels\n"
        "small      1 of 2 instances (50.0%) are below small_instance_threshold, 300 pixels\n"
        "crowd      1 segment listed\n"
        "void       1.6% of the pixels\n"
        "faults     0 errors, 0 warnings\n"
        "\n"
        "   id  name    kind    pixels %  segments    images\n"
        "    0  road    stuff     77.604         2         2\n"
        "    2  car     thing      6.510         1         1\n"
        "    3  person  thing     14.323         2         1"
    )
    alone = report(run_check(source, limit=1), is_training=False, image_options=ImageOptions((33, 41)))
    assert "images     1 of 2 read" in alone
    assert "33 x 49 holds the largest image; crop_size is 33 x 41, which holds 0%" in alone
    assert "small_instance_threshold" not in alone


def test_classes_that_are_never_seen_are_listed(tmp_path):
    source = write(tmp_path, [encode("b.jpg", np.zeros((32, 48), np.int32), (0,), crowd=())])
    assert report(run_check(source)).splitlines()[-1] == "never seen (2): car, person"


def test_records_without_labels_have_their_images_checked(tmp_path):
    bare = records.encode_example(jpeg(), "jpeg", "a.jpg", 32, 48, None)
    source = write(tmp_path, [bare, change(bare, ENCODED=b"x", FILENAME=b"b.jpg")])
    summary = run_check(source, with_labels=False)
    (line,) = fault_lines(summary)
    assert "image 'b.jpg': the image does not decode" in line
    assert report(summary).endswith("There are no labels; the images alone were checked.")


def _labelled(name, label):
    bare = records.encode_example(jpeg(), "jpeg", name, 32, 48, None)
    return bare if label is None else change(bare, CLASS_LABEL=[label])


def test_classification_records(tmp_path):
    source = write(
        tmp_path,
        [_labelled("a.jpg", 0), _labelled("b.jpg", 2), _labelled("c.jpg", 2), _labelled("d.jpg", 1)],
        [_labelled("e.jpg", None), change(_labelled("f.jpg", 3), ENCODED=b"x"), _labelled("g.jpg", 255)],
        task=dataset_info.CLASSIFICATION,
    )
    summary = run_check(source)
    first, second = source.files
    rule = f"image/class/label must be the id of a class of 'street'. Received: %s. {AGAIN}"
    lines = fault_lines(summary)
    assert lines[:3] == [
        f"error: {first}, record 4, image 'd.jpg': {rule % 1}",
        f"error: {second}, record 1, image 'e.jpg': {rule % 'no label'}",
        f"error: {second}, record 3, image 'g.jpg': {rule % 255}",
    ]
    assert lines[3].startswith(f"error: {second}, record 2, image 'f.jpg': the image does not decode (")
    assert len(lines) == 4
    text = report(summary)
    assert text.endswith(
        "   id  name        images\n    0  road             1\n    2  car              2\n    3  person           1"
    )
    assert "crop" not in text
