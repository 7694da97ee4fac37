# SPDX-License-Identifier: Apache-2.0
"""The `Summary` of a check as text, and the crops that it suggests."""

import collections
import math
import textwrap
from collections.abc import Mapping

import numpy as np

from deeplab_axial.data import dataset_info
from deeplab_axial.data.checks import ERROR, WARNING, Summary
from deeplab_axial.data.pipeline import ImageOptions

# Share of the training images that a suggested crop holds whole.
_SHARE = 0.95


def largest_crop(sizes: Mapping[tuple[int, int], int], output_stride: int) -> tuple[int, int]:
    """The smallest crop that holds all images.

    Args:
      sizes: (height, width), pixels -> number of images.
      output_stride: sides of the crop are output_stride * k + 1.

    Returns:
      (height, width), pixels.
    """
    return tuple(_align(max(sides), output_stride) for sides in zip(*sizes))


def usual_crop(sizes: Mapping[tuple[int, int], int], output_stride: int, share: float = _SHARE) -> tuple[int, int]:
    """A small crop that holds most images whole: quantiles of the heights and the widths that do so together.

    Args:
      sizes: (height, width), pixels -> number of images.
      output_stride: sides of the crop are output_stride * k + 1.
      share: of the images that must fit.

    Returns:
      (height, width), pixels.
    """
    heights, widths = (np.repeat(sides, list(sizes.values())) for sides in np.array(list(sizes)).T)
    crop = largest_crop(sizes, output_stride)
    for quantile in np.linspace(share, 1, 51):
        sides = (np.quantile(s, quantile, method="inverted_cdf") for s in (heights, widths))
        crop = tuple(_align(int(side), output_stride) for side in sides)
        if share_that_fits(sizes, crop) >= share:
            break
    return crop


def share_that_fits(sizes: Mapping[tuple[int, int], int], crop: tuple[int, int]) -> float:
    """Share of the images that are no larger than the crop (height, width)."""
    fitting = sum(n for (height, width), n in sizes.items() if height <= crop[0] and width <= crop[1])
    return fitting / sum(sizes.values())


def _align(side: int, output_stride: int) -> int:
    return max(1, math.ceil((side - 1) / output_stride)) * output_stride + 1


def format_faults(summary: Summary) -> str:
    """One line for each fault, errors first and kind by kind; of a kind the first ones, and how many more there are."""
    lines = []
    for severity in (ERROR, WARNING):
        for (of, kind), kept in sorted(summary.faults.kept.items()):
            if of == severity:
                lines += map(str, kept)
                more = summary.faults.counts[of, kind] - len(kept)
                lines += [f"{severity}: ... and {more} more: {kind}"] * bool(more)
    return "\n".join(lines)


def format_summary(summary: Summary, image_options: ImageOptions, output_stride: int, is_training: bool) -> str:
    """The figures of a split.

    Args:
      summary: what `check` found.
      image_options: those that it was given.
      output_stride: likewise.
      is_training: whether crops are cut at random, or must hold the largest image.
    """
    is_panoptic = summary.task == dataset_info.PANOPTIC
    rows = [("images", _images(summary))]
    if summary.sizes:
        rows.append(("sizes", _sizes(summary)))
        if is_panoptic:
            rows.append(("crop", _crop(summary, image_options, output_stride, is_training)))
    if summary.with_labels and is_panoptic and summary.class_pixels.any():
        rows += _panoptic_rows(summary, output_stride, is_training)
    faults = (_count(summary.faults.count(severity), severity) for severity in (ERROR, WARNING))
    rows.append(("faults", ", ".join(faults)))
    text = "\n".join(f"{name:<11}{value}" for name, value in rows)
    if not summary.with_labels:
        return f"{text}\nThere are no labels; the images alone were checked."
    return f"{text}\n\n{_class_table(summary)}"


def _images(summary):
    of = f" of {summary.num_records}" if summary.num_checked != summary.num_records else ""
    more = f"; the data set has {summary.num_listed}" if summary.num_listed > summary.num_records else ""
    return f"{summary.num_checked}{of} read{more}"


def _sizes(summary):
    """Smallest and largest by area, and the medians of both sides; height x width."""
    by_area = sorted(summary.sizes, key=lambda size: (size[0] * size[1], size))
    counts = list(summary.sizes.values())
    median = [_median(np.repeat(sides, counts)) for sides in np.array(list(summary.sizes)).T]
    smallest, largest = by_area[0], by_area[-1]
    text = f"height x width, pixels: smallest {_size(smallest)}, median {_size(median)}, largest {_size(largest)}"
    tallest, widest = map(max, zip(*summary.sizes))
    return text if largest == (tallest, widest) else f"{text}; tallest {tallest}, widest {widest}"


def _crop(summary, image_options, output_stride, is_training):
    sizes, own = summary.resized_sizes, image_options.crop_size
    after = " after resizing" if image_options.resizes else ""
    if is_training:
        crop = usual_crop(sizes, output_stride)
        text = f"{_size(crop)} holds {share_that_fits(sizes, crop):.0%} of the images whole{after}"
    else:
        crop = largest_crop(sizes, output_stride)
        text = f"{_size(crop)} holds the largest image{after}"
    if crop == tuple(own):
        return f"{text}; crop_size is the same"
    return f"{text}; crop_size is {_size(own)}, which holds {share_that_fits(sizes, own):.0%}"


def _panoptic_rows(summary, output_stride, is_training):
    numbers = np.repeat(list(summary.instances), list(summary.instances.values()))
    rows = [
        (
            "instances",
            f"an image: mean {numbers.mean():.1f}, median {_median(numbers)}, 95 % have at most "
            f"{np.quantile(numbers, 0.95, method='inverted_cdf')}, largest {numbers.max()}",
        ),
        ("", f"images by their instances: {_histogram(summary.instances)}"),
    ]
    total = summary.num_instances
    if total:
        stride = f"{output_stride} x {output_stride}"
        rows.append(("too small", f"{_share(sum(summary.too_small.values()), total)} have less than {stride} pixels"))
    if total and is_training:
        threshold = f"small_instance_threshold, {summary.small_instance_threshold} pixels"
        rows.append(("small", f"{_share(summary.small_instances, total)} are below {threshold}"))
    unlisted = f", {summary.unlisted_crowd} more with instance id 0" if summary.unlisted_crowd else ""
    rows.append(("crowd", f"{_count(summary.listed_crowd, 'segment')} listed{unlisted}"))
    void = summary.class_pixels[summary.label_space.ignore_label] / summary.class_pixels.sum()
    return [*rows, ("void", f"{void:.1%} of the pixels")]


def _share(count, total):
    return f"{count} of {total} instances ({count / total:.1%})"


def _histogram(counts: collections.Counter) -> str:
    """ "0: 2, 1: 5, 2-3: 9": counts in bins that double."""
    bins = collections.Counter()
    for number, images in counts.items():
        bins[int(number).bit_length()] += images

    def title(bits):
        low, high = (1 << bits) >> 1, (1 << bits) - 1
        return str(low) if low == high else f"{low}-{high}"

    return ", ".join(f"{title(bits)}: {bins[bits]}" for bits in sorted(bins))


def _class_table(summary):
    space = summary.label_space
    seen = [c for c in space.classes if summary.class_images[c.id]]
    unseen = [c.name for c in space.classes if not summary.class_images[c.id]]
    width = max([4, *(len(c.name) for c in seen)])
    is_panoptic = summary.task == dataset_info.PANOPTIC
    columns = f"{'kind':<6}{'pixels %':>10}{'segments':>10}" if is_panoptic else ""
    lines = [f"{'id':>5}  {'name':<{width}}  {columns}{'images':>10}"]
    for c in seen:
        share = 100 * summary.class_pixels[c.id] / max(summary.class_pixels.sum(), 1)
        kind = "thing" if c.is_thing else "stuff"
        columns = f"{kind:<6}{share:>10.3f}{summary.class_segments[c.id]:>10}" if is_panoptic else ""
        lines.append(f"{c.id:>5}  {c.name:<{width}}  {columns}{summary.class_images[c.id]:>10}")
    if unseen:
        lines += textwrap.wrap(
            f"never seen ({len(unseen)}): {', '.join(unseen)}", 110, subsequent_indent="  ", break_on_hyphens=False
        )
    return "\n".join(lines)


def _count(number, what):
    return f"{number} {what}{'' if number == 1 else 's'}"


def _median(values):
    return int(np.quantile(values, 0.5, method="inverted_cdf"))


def _size(size):
    return f"{size[0]} x {size[1]}"
