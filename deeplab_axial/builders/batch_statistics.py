# SPDX-License-Identifier: Apache-2.0
"""Whether the batch normalisations of a training have enough to take statistics of."""

import math
from collections.abc import Iterator

from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2


def check_batch_statistics(options: config_pb2.ExperimentOptions, num_replicas: int) -> None:
    """Refuses a training in which a batch normalisation sees one value a channel.

    Its mean is that value and its variance 0, so that it puts out its offset alone, whatever the image. Its moving
    variance goes to 0, and in inference it multiplies by 1 / sqrt(batchnorm_epsilon).

    Args:
      options: validated for training; batch_size is a multiple of replicas x parts.
      num_replicas: that share the batch out.

    Raises:
      InputError: names the layer, the images that it sees together, and what to do.
    """
    solver = options.trainer_options.solver_options
    batch_size, parts = options.train_dataset_options.batch_size, solver.gradient_accumulation_steps
    together = batch_size // (num_replicas * parts) * (num_replicas if solver.use_sync_batchnorm else 1)
    single = dict(_single_positions(options))
    held = {entry.part for entry in solver.learning_rate_multiplier if entry.hold_statistics}
    layers = [layer for part, layer in single.items() if part not in held]
    if together > 1 or not layers:
        return
    remedies = ["a larger batch_size"]
    if parts > 1:
        remedies.append("fewer parts")
    if num_replicas > 1:
        remedies.append("use_sync_batchnorm: true")
    remedies.append("a larger crop_size" if "backbone" in single else "aspp_use_only_1x1_proj_conv: true")
    raise InputError(
        f"train_dataset_options.batch_size must give batch normalisation two images or more together: {layers[0]}, and "
        f"of one image it would learn nothing and spoil inference. Received: batch_size {batch_size}, for "
        f"{num_replicas} device{'s' if num_replicas > 1 else ''} x gradient_accumulation_steps {parts}. Take "
        f"{', '.join(remedies[:-1])} or {remedies[-1]}."
    )


def _single_positions(options: config_pb2.ExperimentOptions) -> Iterator[tuple[str, str]]:
    """(part of the model, what it says) of parts that normalise a map of one position an image."""
    model = options.model_options
    stride = model.backbone.output_stride
    height, width = options.train_dataset_options.crop_size
    if math.ceil(height / stride) * math.ceil(width / stride) == 1:
        yield "backbone", f"the backbone ends at one position for crop_size {height} x {width}"
    if not model.HasField("panoptic_deeplab"):
        return
    instance = model.panoptic_deeplab.instance
    decoders = {"semantic_decoder": model.decoder}
    if instance.enable and not instance.share_decoder:
        own = instance.HasField("instance_decoder_override")
        decoders["instance_decoder"] = instance.instance_decoder_override if own else model.decoder
    for part, decoder in decoders.items():
        if not decoder.aspp_use_only_1x1_proj_conv:
            yield part, f"the pooled branch of ASPP ({part}) has one position an image"
