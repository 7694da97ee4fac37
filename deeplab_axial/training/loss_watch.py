# SPDX-License-Identifier: Apache-2.0
"""What the total loss of a run tells before its end: that nothing is learnt, or that it diverges."""

from deeplab_axial import keys
from deeplab_axial.training import log

# A loss of so many times its start is no noise between batches.
_TIMES = 10.0
# Steps whose images all lack labels before it is said; fewer may be chance where much is void.
_EMPTY_STEPS = 10


class LossWatch:
    """Says once when the total loss is _TIMES its start, and once when it is 0 at _EMPTY_STEPS steps in a row.

    Args:
      folder: of the model; the start of a run that is resumed is its first entry in log.HISTORY_FILE.
      total_steps: of the run; of a run of fewer steps than _EMPTY_STEPS all count.
    """

    def __init__(self, folder: str, total_steps: int):
        history = log.read_history(folder)
        self._start = history[0].get(keys.TOTAL_LOSS) if history else None
        self._enough = min(_EMPTY_STEPS, total_steps)
        self._empty = 0
        self._said: set[str] = set()

    def step(self, step: int, total_loss: float) -> str | None:
        """What to say after a step, if anything.

        Args:
          step: steps done.
          total_loss: of this one, finite.
        """
        self._start = total_loss if self._start is None else self._start
        self._empty = self._empty + 1 if total_loss == 0 else 0
        if self._empty == self._enough:
            return self._once(
                "empty",
                f"The total loss has been 0 at {self._empty} steps up to step {step}: no pixel of their images has a "
                "label, so nothing is learnt. Look at the records: deeplab-axial check_data.",
            )
        if total_loss > _TIMES * self._start > 0:
            return self._once(
                "diverges",
                f"The total loss is {total_loss:.4g} at step {step}, more than {_TIMES:.0f} times its start "
                f"({self._start:.4g}): the training may diverge. Lower base_learning_rate, lengthen warmup_steps or "
                "set use_gradient_clipping.",
            )
        return None

    def _once(self, what: str, text: str) -> str | None:
        if what in self._said:
            return None
        self._said.add(what)
        return text
