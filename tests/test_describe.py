# SPDX-License-Identifier: Apache-2.0
"""Parts of a network, and the paper's networks beside the paper's figures."""

import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial import builders, config, describe
from deeplab_axial.backbones import presets
from deeplab_axial.models.classifier import Classifier
from deeplab_axial.postprocessing.multi_scale import MultiScale
from tests import conformance
from tests.cli import commands

ROOT = pathlib.Path(__file__).parents[1]
DEMO = ROOT / "configs" / "demo" / "axial_deeplab_tiny.textproto"


def _tiny():
    return next(case for case in conformance.CASES if case.name == "panoptic_deeplab").make()


def test_parts_of_a_network():
    model = _tiny()
    model(tf.zeros([1, 33, 33, 3]))
    parts = describe.describe(model, 65, 97)
    assert [part.name for part in parts] == [
        "stem",
        "stage2",
        "stage3",
        "stage4",
        "stage5",
        "semantic_decoder",
        "semantic_head",
        "instance_decoder",
        "center_head",
        "offset_head",
    ]
    by_name = {part.name: part for part in parts}
    assert sum(part.parameters for part in parts) == sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert by_name["semantic_head"].output == "17 x 25 x 5"
    assert by_name["stage5"].output == "5 x 7 x 256"
    # Depthwise 5x5 over 8 channels, 1x1 to 8, 1x1 to 5 with bias; two normalisations.
    assert by_name["semantic_head"].multiply_adds == 17 * 25 * (8 * 25 + 8 * 8 + 8 * 5)
    assert by_name["semantic_head"].parameters == 8 * 25 + 8 * 8 + 2 * 2 * 8 + 8 * 5 + 5
    text = describe.table(parts)
    assert len(text.splitlines()) == 12
    assert f"{sum(part.parameters for part in parts):,}" in text.splitlines()[-1]
    for part in parts:
        assert f"{part.parameters:,}" in text


def test_symbolic_weights_count_as_real_ones():
    model = _tiny()
    model(tf.zeros([1, 33, 33, 3]))
    expected = describe.describe(model, 65, 97)
    with tf.Graph().as_default():
        symbolic = _tiny()
        symbolic(tf.zeros([1, 33, 33, 3]))
        assert describe.describe(symbolic, 65, 97) == expected


def test_multi_scale_sums_over_scales_and_mirrored_images():
    with tf.Graph().as_default():
        model = _tiny()
        model(tf.zeros([1, 33, 33, 3]))
        total = [sum(p.multiply_adds for p in describe.describe(model, *size)) for size in ((65, 97), (33, 49))]
        parameters, one = describe.count(model, 65, 97)
        assert (parameters, one) == (sum(p.parameters for p in describe.describe(model, 65, 97)), total[0])
        assert describe.count(model, 65, 97, MultiScale((1.0, 0.5), flip=True)) == (parameters, 2 * sum(total))


def test_a_classifier():
    with tf.Graph().as_default():
        model = Classifier(_tiny().backbone, 10)
        model(tf.zeros([1, 33, 33, 3]))
        head = describe.describe(model, 64, 64)[-1]
    assert head == describe.Part("classification_head", "10", 256 * 10 + 10, 256 * 10)


@pytest.mark.slow
def test_the_command_compares_with_what_is_published(tmp_path):
    path = tmp_path / "row.textproto"
    path.write_text(
        f'base: "{DEMO}"\nexperiment_name: "row"\nevaluator_options {{ eval_scales: [0.5, 1] }}\n'
        'published { source: "Somebody, Table 1" split: "scenes val" input_size: [65, 97] parameters: 2 '
        "multiply_adds: 1 pq: 12.34 }\n"
    )
    result = commands.run("describe", f"--config_file={path}")
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "row: axial_deeplab_s, flavor 'paper', stride 16"
    assert lines[1] == "image: 65 x 97"
    assert "multiply-adds below: scales 0.5, 1" in lines
    (total,) = (line.split() for line in lines if line.startswith("total"))
    (parameters,) = (line.split() for line in lines if line.startswith("parameters"))
    (cost,) = (line.split() for line in lines if line.startswith("multiply-adds  "))
    count = int(total[1].replace(",", ""))
    assert parameters[1:] == [f"{count / 1e6:.2f}", "M", "2.00", "M", f"{count / 2e6 - 1:+.1%}"]
    assert cost[3:5] == ["1.00", "B"]
    assert float(cost[1]) > float(total[2].replace(",", "")) / 1e3  # both scales cost more than one
    assert lines[-1] == "published: scenes val: PQ 12.3 (Somebody, Table 1)"
    # At another size only the parameters compare.
    result = commands.run("describe", f"--config_file={path}", "--input_size=33,33")
    assert "image: 33 x 33" in result.out
    assert result.out.count("%") == 1


# Largest relative difference of our multiply-adds from the paper's.
_PAPER = {
    "coco/axial_deeplab_s": 0.04,
    "coco/axial_deeplab_m": 0.04,
    "coco/axial_deeplab_l": 0.02,
    "cityscapes/axial_deeplab_s": 0.04,
    "cityscapes/axial_deeplab_m": 0.04,
    "cityscapes/axial_deeplab_l": 0.02,
    "cityscapes/axial_deeplab_xl": 0.02,
    "cityscapes/axial_deeplab_l_span5": 0.02,
    "cityscapes/axial_deeplab_l_span9": 0.02,
    "cityscapes/axial_deeplab_l_span17": 0.02,
    "cityscapes/axial_deeplab_l_span33": 0.02,
    "cityscapes/axial_deeplab_l_span65": 0.02,
    "cityscapes/local_attention": 0.04,
    "cityscapes/local_attention_position_sensitive": 0.04,
    "cityscapes/resnet50_beta_paper": 0.04,
    "mapillary/axial_deeplab_l": 0.02,
}
# Billions, of the paper's own description: a query against the `span` keys around it, whatever a block shares.
_FORMULA = {"coco/axial_deeplab_s": 108.9, "coco/axial_deeplab_m": 207.6, "coco/axial_deeplab_l": 341.4}


@pytest.mark.slow
@pytest.mark.parametrize("name", _PAPER)
def test_figures_of_the_paper(name):
    options = config.load(ROOT / "configs" / f"{name}.textproto", backbone_names=presets.NAMES)
    published = options.published
    with tf.Graph().as_default():
        model = builders.build_symbolic_model(options)
        parameters, multiply_adds = describe.count(model, *published.input_size)
    assert multiply_adds / 1e9 == pytest.approx(published.multiply_adds, rel=_PAPER[name])
    assert parameters / 1e6 == pytest.approx(published.parameters, rel=0.03)
    if name in _FORMULA:
        # Blocks of queries share their windows, so that less has to be moved; it costs at most 4 % of the network.
        assert 1.0 <= multiply_adds / 1e9 / _FORMULA[name] < 1.045
        assert math.isclose(_FORMULA[name], published.multiply_adds, rel_tol=0.02)
