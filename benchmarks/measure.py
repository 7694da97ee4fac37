# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: each case runs in a process of its own, and beside it a large matrix product.

Seconds depend on the machine and on who else uses it. The share of the GEMM rate, the multiply-adds a second of a
float32 product of two 2048 x 2048 matrices timed right before and right after, hardly does.
"""

import csv
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

MATRIX_SIZE = 2048
GIB = 2**30


def measure(function: Callable[[], Any], multiply_adds: float, rounds: int) -> dict[str, float]:
    """Times a function between matrix products.

    Args:
      function: what to time; returns tensors.
      multiply_adds: of one call.
      rounds: timed calls, after two that do not count.

    Returns:
      "seconds" (the fastest), "gemm_rate" (multiply-adds a second, the fastest), "share_of_gemm_rate" (the median over
      the rounds, each against its own matrix products) and "peak_gib" (of the whole process, above what it held when
      this function was called).
    """
    matrix = tf.random.normal([MATRIX_SIZE, MATRIX_SIZE])
    product = tf.function(lambda: tf.reduce_sum(tf.linalg.matmul(matrix, matrix)), autograph=False)
    seconds(product), seconds(product)
    before = resident()
    seconds(function), seconds(function)
    times, rates, shares = [], [], []
    for _ in range(rounds):
        first, middle, last = seconds(product), seconds(function), seconds(product)
        times.append(middle)
        rates += [MATRIX_SIZE**3 / first, MATRIX_SIZE**3 / last]
        shares.append(multiply_adds / middle / (2 * MATRIX_SIZE**3 / (first + last)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": min(times),
        "gemm_rate": max(rates),
        "share_of_gemm_rate": sorted(shares)[rounds // 2],
        "peak_gib": (peak - before) / GIB,
    }


def seconds(function: Callable[[], Any]) -> float:
    """What a call of the function takes until its tensors can be read."""
    started = time.perf_counter()
    tf.nest.map_structure(lambda t: t.numpy(), function())
    return time.perf_counter() - started


def resident() -> int:
    """Bytes of memory that the process holds."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def show_share(row: Mapping[str, Any]) -> str:
    """What `measure` measured, in a line."""
    return (
        f"{1000 * row['seconds']:9.1f} ms {row['share_of_gemm_rate']:7.1%} of the GEMM rate {row['peak_gib']:6.2f} GiB"
    )


def run_cases(
    script: str,
    cases: Sequence[Mapping[str, Any]],
    arguments: Sequence[str],
    output: str,
    show: Callable[[Mapping[str, Any]], str] = show_share,
) -> None:
    """Runs a benchmark's script once for each case and writes what they measure as a table.

    Args:
      script: the path of the script; called with --case=JSON it prints one line of JSON.
      cases: what to measure.
      arguments: further flags for the script.
      output: name of the table, without folder and device.
      show: row of the table -> what to print of it.
    """
    device = "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
    path = pathlib.Path(script).parent / "results" / f"{output}-{device}.csv"
    rows = []
    for case in cases:
        command = [sys.executable, script, f"--case={json.dumps(case)}", *arguments]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        if result.returncode:
            raise SystemExit(f"{' '.join(command)} failed with status {result.returncode}")
        row = {**case, **json.loads(result.stdout.splitlines()[-1])}
        rows.append(row)
        what = "  ".join(f"{value}" for value in case.values())
        print(f"{what:64} {show(row)}", flush=True)
    environment = f"TensorFlow {tf.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "environment"])
        writer.writeheader()
        for row in rows:
            numbers = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
            writer.writerow({**numbers, "environment": environment})
    print(f"\n{path}")
