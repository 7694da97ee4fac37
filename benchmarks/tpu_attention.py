# SPDX-License-Identifier: Apache-2.0
"""Cycles of axial attention on TPUs, by the compiler's own estimate: no TPU is needed, and none has confirmed them.

  python benchmarks/tpu_attention.py [--only=v5e] [--route=PALLAS] [--pass=forward] [--first=10]

Needs the extra [tpu-check]. A row is one layer, height and width with projections and batch normalisation, in
bfloat16: in inference with folded batch normalisation, or forward and backward with the statistics of the batch; by its
kernel (PALLAS) or by TensorFlow's operations (XLA); beside it (CONVOLUTION) a 3x3 convolution of as many multiply-adds
in the forward pass. Every row is added at once to benchmarks/results/tpu_attention-compiler.csv, and what is there is
not compiled again, so the script can be stopped and started again; some rows take minutes. The most telling come first.

Columns beside those that say what was compiled: `cycles` of a run, empty with the reason in `unknown`; `ms` at the
chip's clock; `kernel_cycles` and `copy_cycles`, parts of them; `multiply_adds` of the forward pass.
"""

import csv
import json
import pathlib
import subprocess
import sys

import tf_keras
from absl import app, flags

from deeplab_axial.errors import InputError
from deeplab_axial.tpu_check import cycles, layers, process, topologies

FLAGS = flags.FLAGS
flags.DEFINE_string("only", "", "Only rows that have this in them: a chip, or a layer as S2@1025x1025.")
flags.DEFINE_string("route", "", "Only PALLAS, XLA or CONVOLUTION.")
flags.DEFINE_string("pass", "", "Only forward or training.")
flags.DEFINE_integer("first", 0, "Compile so many rows at most; 0: all.", lower_bound=0)
flags.DEFINE_string("case", "", "One row, as JSON; for the script itself.")

RESULTS = pathlib.Path(__file__).parent / "results" / "tpu_attention-compiler.csv"
KEY = ["layer", "batch", "height", "width", "channels", "key_depth", "value_depth", "span", "pass", "chip", "route"]
COLUMNS = [*KEY, "cycles", "ms", "kernel_cycles", "copy_cycles", "multiply_adds", "unknown", "environment"]
ROUTES = ("PALLAS", "CONVOLUTION", "XLA")
CHIPS = ("v5e", "v6e", "v5p", "v4")
# Output strides and channels of the stages; the depth of keys is half of the channels.
STAGES = {2: (4, 64), 3: (8, 128), 4: (16, 256), 5: (16, 512)}
WIDTH = {"S": 1, "L": 2}
CROPS = {"S": ((1025, 1025), (1025, 2049)), "L": ((1025, 1025),)}
FIRST = ("L4@1025x1025", "S2@1025x1025")


def main(_) -> None:
    """Compiles one row, or all that are missing, each in a process of its own."""
    if FLAGS.case:
        print(json.dumps(_measure(json.loads(FLAGS.case))))
        return
    for name, allowed in (("route", ROUTES), ("pass", ("forward", "training"))):
        if FLAGS[name].value and FLAGS[name].value not in allowed:
            raise SystemExit(f"--{name} must be one of {', '.join(allowed)}. Received: {FLAGS[name].value}")
    try:
        process.check_installed()
    except InputError as error:
        raise SystemExit(str(error)) from error
    wanted = [row for row in rows() if _is_wanted(row)]
    if not wanted:
        raise SystemExit(f"No row is wanted: --only={FLAGS.only} --route={FLAGS.route} --pass={FLAGS['pass'].value}")
    done = read()
    missing = [row for row in wanted if not any(_same(row, other) for other in done)]
    print(f"{len(wanted)} rows wanted, {len(missing)} of them missing", flush=True)
    for row in missing[: FLAGS.first or None]:
        command = [sys.executable, __file__, f"--case={json.dumps(row)}"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise SystemExit(f"{' '.join(command)} failed with status {result.returncode}:\n{result.stderr[-2000:]}")
        measured = json.loads(result.stdout.splitlines()[-1])
        _add({**row, **measured})
        what = "  ".join(str(value) for value in row.values())
        print(f"{what:72} {measured['cycles'] or measured['unknown']}", flush=True)


def rows() -> list[dict[str, object]]:
    """Everything that may be compiled, the most telling first."""
    found = []
    for model, factor in WIDTH.items():
        for crop in CROPS[model]:
            for stage, (stride, channels) in STAGES.items():
                height, width = ((side - 1) // stride + 1 for side in crop)
                name = f"{model}{stage}@{crop[0]}x{crop[1]}"
                depths = channels * factor, channels * factor // 2, channels * factor
                layer = (name, 8 if stride == 16 else 1, height, width, *depths)
                found += [
                    dict(zip(KEY, (*layer, span, what, chip, route)))
                    for span in (0, 65)
                    for what in ("forward", "training")
                    for chip in CHIPS
                    for route in ROUTES
                    if span < max(height, width) and not (span and route == "CONVOLUTION")
                ]
    return sorted(found, key=_order)


def _order(row) -> tuple:
    is_first = row["layer"] in FIRST and not (row["span"] and row["layer"] == FIRST[0])
    return (CHIPS.index(row["chip"]) > 0, not is_first, row["span"] > 0, ROUTES.index(row["route"]), row["pass"])


def read() -> list[dict[str, str]]:
    """The rows that are there."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _is_wanted(row) -> bool:
    wants = {"route": FLAGS.route, "pass": FLAGS["pass"].value}
    return FLAGS.only in (row["chip"], row["layer"], "") and all(row[k] == v for k, v in wants.items() if v)


def _same(row, other) -> bool:
    return all(str(row[name]) == other[name] for name in KEY)


def _add(row) -> None:
    is_new = not RESULTS.exists()
    with RESULTS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def _measure(row) -> dict[str, object]:
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    shape = tuple(row[name] for name in ("batch", "height", "width", "channels"))
    layer = layers.attention_layer(shape, row["key_depth"], row["value_depth"], row["span"] or None)
    topology, training = topologies.parse(row["chip"]), row["pass"] == "training"
    if row["route"] == "CONVOLUTION":
        program = layers.lower_convolution(layer, training, row["chip"])
    else:
        program = layers.lower_attention(layer, training, row["chip"], row["route"])
    result = process.compile_program(program, topology)
    total, parts = (result.expected.total, result.expected.parts) if result.expected else ("", {})
    return {
        "cycles": total,
        "ms": f"{total / topology.chip.clock_mhz / 1000:.4g}" if total else "",
        "kernel_cycles": parts.get(cycles.KERNELS, 0) if total else "",
        "copy_cycles": parts.get(cycles.COPIES, 0) if total else "",
        "multiply_adds": layers.count_multiply_adds(layer),
        "unknown": " ".join((result.error or result.no_cycles).split())[:200],
        "environment": "jax 0.10.2, libtpu 0.0.52",
    }


if __name__ == "__main__":
    app.run(main)
