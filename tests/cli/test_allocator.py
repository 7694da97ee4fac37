# SPDX-License-Identifier: Apache-2.0
"""The commands keep the memory that operations free."""

import os
import platform
import subprocess
import sys

import pytest

from deeplab_axial.cli import allocator

# Pages of 4 KiB faulted in by ten tensors of 32 MiB, one after the other, once many others were there.
FAULTS = """
import resource
from deeplab_axial.cli import allocator
print(allocator.keep_memory())
{imports}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        float((x + 1)[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(8):
    faults()
print(faults())
"""
NUMPY = "import numpy as np; x = np.ones(1 << 23, np.float32)"
TENSORFLOW = """
import tensorflow as tf
tf.random.set_seed(0)  # starts what on Python 3.11 sets options of malloc, too
list(tf.data.Dataset.range(3).map(lambda x: x + 1, num_parallel_calls=2).batch(2))
x = tf.ones([1 << 23])
"""
PAGES = 10 * (32 << 20) // 4096

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def _faults(imports: str, **environment: str) -> tuple[str, int]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))}
    script = [sys.executable, "-c", FAULTS.format(imports=imports)]
    told, faults = subprocess.run(
        script, env={**own, **environment, "NUMPY_MADVISE_HUGEPAGE": "0"}, capture_output=True, text=True, check=True
    ).stdout.split()
    return told, int(faults)


@pytest.mark.parametrize("imports", [NUMPY, TENSORFLOW], ids=("numpy", "tensorflow"))
def test_freed_memory_is_used_again(imports):
    told, faults = _faults(imports)
    assert told == "True"
    assert faults < 0.05 * PAGES


def test_it_can_be_left_alone():
    told, faults = _faults(NUMPY, DEEPLAB_AXIAL_KEEP_MEMORY="0")
    assert told == "False"
    assert faults > 0.5 * PAGES  # what the other test would see if keep_memory did nothing


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stays(monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert not allocator.keep_memory()
