# SPDX-License-Identifier: Apache-2.0
"""What training costs with each allocator: images a second, page faults, share of time in the kernel, memory (Linux).

  python benchmarks/allocators.py --demo_dir=demo [--tcmalloc=libtcmalloc_minimal.so.4] [--jemalloc=libjemalloc.so.2]

Trains the demo's network on its records, which `deeplab-axial demo` has made. "glibc" is malloc as it is, "kept" what
the commands tell it (cli/allocator.py), the others are preloaded. Each has --rounds runs, in turns; the table has the
median rate after the tenth step, the rest is of the whole process, imports and tracing with it.
Writes benchmarks/results/allocators-cpu.csv.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile

import measure
import numpy as np
from absl import app, flags

from deeplab_axial.cli import allocator

FLAGS = flags.FLAGS
flags.DEFINE_string("demo_dir", "demo", "What `deeplab-axial demo` has made.")
flags.DEFINE_string("tcmalloc", "", "Shared library of tcmalloc, to be compared, too.")
flags.DEFINE_string("jemalloc", "", "Shared library of jemalloc, to be compared, too.")
flags.DEFINE_integer("steps", 30, "Steps of a run.", lower_bound=11)
flags.DEFINE_integer("rounds", 2, "Runs with each allocator.", lower_bound=1)
flags.DEFINE_string("case", "", "One case, as JSON; for the script itself.")
_FIRST = 10  # steps that do not count


def main(_) -> None:
    """Measures one case, or all, each in a process of its own."""
    if FLAGS.case:
        print(json.dumps(_measure(**json.loads(FLAGS.case))))
        return
    names = ["glibc", "kept", *(name for name in ("tcmalloc", "jemalloc") if FLAGS[name].value)]
    cases = [{"allocator_name": name, "round": i} for i in range(FLAGS.rounds) for name in names]
    flag_names = ("demo_dir", "tcmalloc", "jemalloc", "steps")
    measure.run_cases(__file__, cases, [f"--{name}={FLAGS[name].value}" for name in flag_names], "allocators", _show)


def _show(row) -> str:
    return (
        f"{row['images_per_second']:.2f} images/s, {row['faults']:.0f} faults a step, "
        f"{row['in_kernel']:.0%} in the kernel, peak {row['peak_gib']:.2f} GiB"
    )


def _measure(allocator_name: str, round: int) -> dict[str, float]:
    environment = dict(os.environ)
    if allocator_name == "glibc":
        environment[allocator.VARIABLE] = "0"
    elif allocator_name != "kept":
        environment["LD_PRELOAD"] = FLAGS[allocator_name].value
    with tempfile.TemporaryDirectory() as folder:
        settings = (
            f"trainer_options.solver_options.training_number_of_steps={FLAGS.steps}",
            "trainer_options.save_summaries_steps=5",
            f"train_dataset_options.file_pattern={FLAGS.demo_dir}/records/train/*.tfrecord",
        )
        command = [
            sys.executable,
            "-m",
            "deeplab_axial.cli.main",
            "train",
            "--mode=train",
            f"--model_dir={folder}/model",
        ]
        config = "--config_file=configs/demo/axial_deeplab_tiny.textproto"
        subprocess.run([*command, config, *(f"--set={x}" for x in settings)], env=environment, check=True)
        with open(f"{folder}/model/history.jsonl", encoding="utf-8") as file:
            history = [json.loads(line) for line in file]
    rates = [row["images_per_second"] for row in history if row["step"] > _FIRST]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "images_per_second": float(np.median(rates)),
        "faults": used.ru_minflt / FLAGS.steps,
        "in_kernel": used.ru_stime / (used.ru_stime + used.ru_utime),
        "peak_gib": used.ru_maxrss / 2**20,
    }


if __name__ == "__main__":
    app.run(main)
