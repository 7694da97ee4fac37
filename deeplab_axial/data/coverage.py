# SPDX-License-Identifier: Apache-2.0
"""Whether the classes of a data set cover its images: much void without stuff, or no things at all."""

from collections.abc import Mapping

from deeplab_axial.data.label_space import LabelSpace

# Share of void pixels that is told where nothing is stuff. What a benchmark leaves void lies below, and has stuff.
_MUCH_VOID = 0.1


def problems(space: LabelSpace, class_pixels: Mapping[int, int] | None, with_instances: bool) -> dict[str, str]:
    """What makes training or evaluation on these classes misleading.

    Args:
      space: the classes.
      class_pixels: pixels of each class id, void under the ignore label; None if they were not counted.
      with_instances: whether the network has instance heads.

    Returns:
      Kind of the problem -> figures and remedy.
    """
    found = {}
    pixels = class_pixels or {}
    total = sum(pixels.values())
    things = sum(pixels.get(c.id, 0) for c in space.classes if c.is_thing)
    stuff = sum(pixels.get(c.id, 0) for c in space.classes if not c.is_thing)
    void = pixels.get(space.ignore_label, 0)
    if total and not stuff and void > _MUCH_VOID * total:
        found["void without stuff"] = (
            f"{void / total:.1%} of the pixels are void, and none is stuff. Void neither trains nor counts in metrics: "
            "a network that sees an object on every pixel scores 100 % there. Give what lies between the objects a "
            'stuff class, as {"name": "background", "isthing": 0}, and convert again.'
        )
    if with_instances and (not space.thing_ids or (total and not things)):
        if space.thing_ids:
            what = f"None of the {len(space.thing_ids)} thing classes has a pixel"
        else:
            what = f"None of the {len(space.classes)} classes is a thing"
        found["no things"] = (
            f"{what}, so there are no centres and offsets to learn, and their losses drown the semantic one. Set "
            "model_options.panoptic_deeplab { instance { enable: false } }."
        )
    return found
