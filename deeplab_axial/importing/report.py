# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint gave to a model, for people to read."""

import dataclasses
import textwrap


@dataclasses.dataclass
class Report:
    """What was read, what was left, and what of the model got no value.

    Attributes:
      origin: who wrote the checkpoint, as "DeepLab2".
      path: prefix of the checkpoint.
      step: training step of the checkpoint; None if it says none.
      restored: part of the model -> number of its variables, all of them.
      absent: part of the model, which keeps its initialisation -> why.
      left: reason -> number of the checkpoint's variables that were left there for it.
      notes: what else is worth knowing.
    """

    origin: str
    path: str
    step: int | None = None
    restored: dict[str, int] = dataclasses.field(default_factory=dict)
    absent: dict[str, str] = dataclasses.field(default_factory=dict)
    left: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def __str__(self):
        step = "" if self.step is None else f", step {self.step}"
        lines = [f"Read {sum(self.restored.values())} variables from {self.path} ({self.origin}{step}):"]
        lines += [f"  {part:<20}{number:>6}" for part, number in self.restored.items()]
        if self.left:
            lines += _wrap("Left there: " + ", ".join(f"{number} {reason}" for reason, number in self.left.items()))
        for part, reason in self.absent.items():
            lines += _wrap(f"Not restored: {part} ({reason}); it keeps its initialisation.")
        for note in self.notes:
            lines += _wrap(f"Note: {note}")
        return "\n".join(lines)


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
