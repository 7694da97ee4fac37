# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint gave to a model, for people to read."""

import dataclasses
import textwrap

_SHOWN = 10


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
      taken: names of all that was read, as the checkpoint has them.
      new: names of the model's variables that keep their initialisation.
      left_over: names of all that was left in the checkpoint.
    """

    origin: str
    path: str
    step: int | None = None
    restored: dict[str, int] = dataclasses.field(default_factory=dict)
    absent: dict[str, str] = dataclasses.field(default_factory=dict)
    left: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    taken: list[str] = dataclasses.field(default_factory=list)
    new: list[str] = dataclasses.field(default_factory=list)
    left_over: list[str] = dataclasses.field(default_factory=list)

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

    def first_names(self) -> str:
        """Names of what is new and of what was left over: a line for each kind, of the first few."""
        lines = []
        for kind, names in (("New", self.new), ("Left over", self.left_over)):
            if names:
                shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
                lines += _wrap(f"{kind}: {len(names)} in all, {shown}")
        return "\n".join(lines)

    def all_names(self) -> str:
        """The report and every name, a line each, for a file."""
        lines = [str(self)]
        for kind, names in (("Restored", self.taken), ("New", self.new), ("Left over", self.left_over)):
            lines += ["", f"{kind}: {len(names)}", *(f"  {name}" for name in names)]
        return "\n".join([*lines, ""])


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
