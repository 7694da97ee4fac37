# SPDX-License-Identifier: Apache-2.0
"""The rules of the solver's options that need more than one field to tell."""

import collections
import difflib
import math
from collections.abc import Iterator
from typing import Any

_SOLVER = "trainer_options.solver_options"


def find_problems(options: Any) -> Iterator[tuple[str, str, Any, str]]:
    """Yields (field path, rule, received, remedy) for each problem.

    Args:
      options: an ExperimentOptions message.
    """
    solver = options.trainer_options.solver_options
    warmup, steps = solver.warmup_steps, solver.training_number_of_steps
    if warmup >= steps > 0:
        rule = f"must be less than training_number_of_steps ({steps})"
        yield f"{_SOLVER}.warmup_steps", rule, warmup, "Warm up for fewer steps, or train for more"
    parts, batch = solver.gradient_accumulation_steps, options.train_dataset_options.batch_size
    if options.HasField("train_dataset_options") and parts > 0 and batch % parts:
        rule = f"must be a multiple of gradient_accumulation_steps ({parts}), which share the batch out"
        yield "train_dataset_options.batch_size", rule, batch, "Change one of the two"
    if solver.optimizer == "sgd" and solver.sgd_nesterov and solver.sgd_momentum == 0:
        rule = "must be false without sgd_momentum, of which it is a form"
        yield f"{_SOLVER}.sgd_nesterov", rule, True, "Remove it, or set sgd_momentum above 0"
    yield from _multiplier_problems(options)


def _multiplier_problems(options: Any) -> Iterator[tuple[str, str, Any, str]]:
    solver = options.trainer_options.solver_options
    present = _parts(options.model_options)
    for i, entry in enumerate(solver.learning_rate_multiplier):
        path = f"{_SOLVER}.learning_rate_multiplier[{i}]"
        if present and entry.part not in present:
            close = difflib.get_close_matches(entry.part, present, n=1, cutoff=0.5)
            hint = f'Did you mean "{close[0]}"? ' if close else ""
            yield f"{path}.part", "must be a part of the model", entry.part, f"{hint}Its parts: {', '.join(present)}"
        if not (math.isfinite(entry.multiplier) and entry.multiplier >= 0):
            yield f"{path}.multiplier", "must be 0 or more", entry.multiplier, "Correct it; 0 freezes the part"
    named = [entry.part for entry in solver.learning_rate_multiplier]
    for part, count in collections.Counter(named).items():
        if count > 1:
            path = f"{_SOLVER}.learning_rate_multiplier"
            yield path, f'must name the part "{part}" once', named, "Remove all entries of the part but one"
    old = "backbone_learning_rate_multiplier"
    if solver.HasField(old) and "backbone" in named:
        rule = 'must not be set with a learning_rate_multiplier of the part "backbone"'
        yield f"{_SOLVER}.{old}", rule, solver.backbone_learning_rate_multiplier, "Remove one of the two"
    multipliers = {entry.part: entry.multiplier for entry in solver.learning_rate_multiplier}
    multipliers.setdefault("backbone", solver.backbone_learning_rate_multiplier)
    if present and all(multipliers.get(part, 1) != 1 for part in present):
        remedy = "Change base_learning_rate so that one part has the multiplier 1"
        rule = "must leave a part of the model at 1"
        yield f"{_SOLVER}.learning_rate_multiplier", rule, [multipliers[part] for part in present], remedy


def _parts(model: Any) -> tuple[str, ...]:
    """Parts of the network that the config describes; none if it describes none."""
    if model.HasField("classification"):
        return "backbone", "classification_head"
    if not model.HasField("panoptic_deeplab"):
        return ()
    instance = model.panoptic_deeplab.instance
    decoder = ("instance_decoder",) if instance.enable and not instance.share_decoder else ()
    heads = ("center_head", "offset_head") if instance.enable else ()
    return ("backbone", "semantic_decoder", "semantic_head", *decoder, *heads)
