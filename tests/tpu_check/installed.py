# SPDX-License-Identifier: Apache-2.0
"""Whether tests can compile for a TPU."""

import pytest

from deeplab_axial.errors import InputError
from deeplab_axial.tpu_check import process


def _is_installed() -> bool:
    try:
        process.check_installed()
    except InputError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not _is_installed(), reason="needs the extra [tpu-check]")
