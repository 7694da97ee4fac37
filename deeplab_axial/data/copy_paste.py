# SPDX-License-Identifier: Apache-2.0
"""Panoptic copy-paste: segments of another image are laid over an image (Yu et al. 2022, k-means Mask Transformer).

What DeepLab2 does with its fields, and so do we:

- The other image comes from a second, differently shuffled stream of the same records. It goes through resizing, random
  scale, colours, crop and flip by itself, with the factors of the random scale multiplied by
  `panoptic_copy_paste_scale`. Scale 0 turns all of this off.
- Out of the n different panoptic ids of the other crop (void and padding count as one each) a number from 0 to n is
  drawn, and then so many of the ids. `random` pastes the segments of a kind that are drawn, `all` pastes every one,
  `none` pastes none. The kinds are things (crowd included), stuff and void. Padding is never pasted.
- Stuff, and crowd without an instance id, keeps its panoptic id. So it becomes one segment with the same class of the
  image below.
- What is left of a segment below stays in the ground truth, however little it is.

Where ours differs: DeepLab2 turns the pasted instance id i into label_divisor - 1 - i, and stops the training when any
instance id reaches half of label_divisor. Here a pasted instance takes the smallest instance id of its class that is
free; where none below label_divisor is left, this instance is not pasted. Void with an instance id, which is of no kind
in DeepLab2, is void here.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from deeplab_axial.data.label_space import LabelSpace

OPTIONS = ("random", "none", "all")
# Panoptic id of the other image's padding, which is never pasted; no segment has it.
PADDING_ID = -1


@dataclasses.dataclass(frozen=True)
class CopyPasteOptions:
    """What is pasted.

    Attributes:
      scale: multiplies the factors of the other image's random scale.
      things: one of OPTIONS.
      stuff: one of OPTIONS.
      void: one of OPTIONS.
    """

    scale: float
    things: str = "random"
    stuff: str = "random"
    void: str = "none"

    def __post_init__(self):
        if self.scale <= 0:
            raise ValueError(f"scale must be above 0. Received: {self.scale}. Leave the options out for no copy-paste")
        for name in ("things", "stuff", "void"):
            if getattr(self, name) not in OPTIONS:
                raise ValueError(f"{name} must be one of {', '.join(OPTIONS)}. Received: {getattr(self, name)!r}")


class Labelled(NamedTuple):
    """An image with its ground truth.

    Attributes:
      image: [H, W, 3] float32.
      panoptic: [H, W] int32.
      crowd_ids: [N] int32, panoptic ids that are crowd; entries that do not occur are allowed.
    """

    image: tf.Tensor
    panoptic: tf.Tensor
    crowd_ids: tf.Tensor


def paste(
    canvas: Labelled, other: Labelled, label_space: LabelSpace, options: CopyPasteOptions, seed: tf.Tensor
) -> Labelled:
    """Lays segments of one crop over another; see the module for which.

    Args:
      canvas: what lies below; its ids stay as they are.
      other: what is pasted, of the same size; its padding has PADDING_ID.
      label_space: of both.
      options: see `CopyPasteOptions`; the scale is the caller's business.
      seed: [2] integers.

    Returns:
      Each pixel from one of the two. Crowd ids are those of the canvas, then those that were pasted.
    """
    divisor = label_space.label_divisor
    ids, index = tf.unique(tf.reshape(other.panoptic, [-1]))
    is_pasted = _choose(ids, label_space, options, seed)
    # Crowd that was cut off counts as used: its id is still listed.
    used = tf.concat([tf.reshape(canvas.panoptic, [-1]), canvas.crowd_ids], axis=0)
    new_ids = _free_ids(ids, is_pasted, used, divisor)
    is_pasted &= tf.equal(new_ids // divisor, ids // divisor)  # `==` would lose the static shape
    index = tf.reshape(index, tf.shape(other.panoptic))
    mask = tf.gather(is_pasted, index)  # [H, W]
    is_crowd = tf.reduce_any(tf.equal(ids[:, None], other.crowd_ids), axis=-1)
    return Labelled(
        image=tf.where(mask[..., None], other.image, canvas.image),
        panoptic=tf.where(mask, tf.gather(new_ids, index), canvas.panoptic),
        crowd_ids=tf.concat([canvas.crowd_ids, tf.boolean_mask(new_ids, is_pasted & is_crowd)], axis=0),
    )


def _choose(ids: tf.Tensor, label_space: LabelSpace, options: CopyPasteOptions, seed: tf.Tensor) -> tf.Tensor:
    """Which of the different ids [n] to paste, boolean [n]."""
    number_seed, order_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    count = tf.shape(ids)[0]
    number = tf.random.stateless_uniform([], number_seed, 0, count + 1, tf.int32)
    drawn = tf.argsort(tf.random.stateless_uniform([count], order_seed)) < number
    by_option = {"random": drawn, "none": tf.zeros_like(drawn), "all": tf.ones_like(drawn)}
    semantic = ids // label_space.label_divisor
    is_thing = tf.reduce_any(tf.equal(semantic[:, None], tf.constant(label_space.thing_ids, tf.int32)), axis=-1)
    chosen = tf.where(is_thing, by_option[options.things], by_option[options.stuff])
    chosen = tf.where(semantic == label_space.ignore_label, by_option[options.void], chosen)
    return chosen & (ids != PADDING_ID)


def _free_ids(ids: tf.Tensor, is_pasted: tf.Tensor, used: tf.Tensor, divisor: int) -> tf.Tensor:
    """Gives each pasted id with an instance id the smallest one of its class that is not used.

    Args:
      ids: [n] int32, different panoptic ids.
      is_pasted: [n] boolean.
      used: [m] int32, panoptic ids in any order, repeated or not.
      divisor: label divisor.

    Returns:
      [n] int32; an id that finds no room becomes one of another class. Ids that need no change stay.
    """
    is_numbered = is_pasted & (ids % divisor != 0)
    block = ids // divisor * divisor  # where the ids of the class begin
    wanted = _sorted(tf.boolean_mask(ids, is_numbered))
    rank = _below(wanted, ids) - _below(wanted, block)  # among the pasted instances of the class, from 0

    # The instance id for rank r is r + 1, and one more for each used id that has at most r free ones before it.
    used = _sorted(tf.unique(tf.boolean_mask(used, used % divisor != 0))[0])
    used_block = used // divisor * divisor
    used_rank = tf.range(tf.shape(used)[0]) - _below(used, used_block)
    with_gaps = used - 1 - used_rank  # block + free ids before; ascending
    passed = _below(with_gaps, block + rank + 1) - _below(with_gaps, block)
    return tf.where(is_numbered, block + rank + 1 + passed, ids)


def _sorted(ids: tf.Tensor) -> tf.Tensor:
    """Sorted, with a last one above all, as searchsorted takes nothing empty."""
    return tf.concat([tf.sort(ids), [tf.int32.max]], axis=0)


def _below(ascending: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """How many entries of the first are less than each of the second."""
    return tf.searchsorted(ascending, values, side="left")
