# SPDX-License-Identifier: Apache-2.0
"""Compiles a program of XLA for a TPU, in a process of its own, without any TPU.

  python -m deeplab_axial.tpu_check.compiler HLO_FILE TOPOLOGY FOLDER

TensorFlow and JAX do not meet in it, and a crash of the compiler ends nothing else. It needs the extra [tpu-check],
whose versions are pinned because JAX promises nothing about some of what is used here. `process` runs it.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from deeplab_axial.tpu_check import topologies


def main(hlo_file: str, topology_name: str, folder: str) -> None:
    """Compiles and writes what the compiler says.

    Args:
      hlo_file: HloModuleProto, serialised.
      topology_name: see `topologies.parse`.
      folder: gets costs.json, {"flops", "bytes_accessed", "loops": whose bodies count once}, and at the end
        executable.json, {"code": bytes, "bytes_after_fusion"} or {"error": what the compiler answers}.
    """
    topology = topologies.parse(topology_name)
    os.environ.update(environment(topology))
    import jax
    import numpy as np
    from jax.experimental import topologies as jax_topologies
    from jaxlib import _jax, xla_client

    with open(hlo_file, "rb") as file:
        serialized = file.read()
    # On the program as TensorFlow gave it, so that what XLA computes twice to save memory does not count.
    costs = _jax.hlo_module_cost_analysis(
        jax.devices("cpu")[0].client, xla_client.XlaComputation(serialized).get_hlo_module()
    )
    module = _to_stablehlo(serialized)
    counts = {"flops": costs["flops"], "bytes_accessed": costs["bytes accessed"], "loops": _loops(module.operation)}
    _write(folder, "costs", counts)
    options = {"chip_config_name": "megacore"} if topology.chip.name == "v4" else {}
    device = jax_topologies.get_topology_desc(topology.name, "tpu", **options).devices[0]
    compile_options = xla_client.CompileOptions()
    compile_options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]]))
    try:
        executable = device.client.compile(module, xla_client.DeviceList((device,)), compile_options)
    except _jax.JaxRuntimeError as error:
        _write(folder, "executable", {"error": str(error)})
    else:
        memory = executable.get_compiled_memory_stats()
        fused = _jax.hlo_module_cost_analysis(jax.devices("cpu")[0].client, executable.hlo_modules()[0])
        values = {"code": memory.generated_code_size_in_bytes, "bytes_after_fusion": fused["bytes accessed"]}
        _write(folder, "executable", values)


def _write(folder: str, name: str, values: Mapping[str, Any]) -> None:
    with open(os.path.join(folder, f"{name}.json"), "w", encoding="utf-8") as file:
        json.dump(values, file)


def environment(topology: topologies.Topology) -> dict[str, str]:
    """Environment variables by which libtpu needs no TPU machine around it."""
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": topology.accelerator_type,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }


def _to_stablehlo(serialized: bytes):
    """What the client compiles: the program in StableHLO, without the copies of mhlo, which mean nothing there."""
    from jax.interpreters import mlir
    from jaxlib import _jax
    from jaxlib.mlir import ir

    with mlir.make_ir_context():
        module = ir.Module.parse(_jax.mlir.hlo_to_stablehlo(serialized))
        _remove_copies(module.operation)
    return module


def _loops(operation) -> int:
    inner = (o.operation for region in operation.regions for block in region.blocks for o in block.operations)
    return sum((o.name == "stablehlo.while") + _loops(o) for o in inner)


def _remove_copies(operation) -> None:
    for region in operation.regions:
        for block in region.blocks:
            for inner in list(block.operations):
                _remove_copies(inner.operation)
                if inner.operation.name == "mhlo.copy":
                    inner.operation.results[0].replace_all_uses_with(inner.operation.operands[0])
                    inner.operation.erase()


if __name__ == "__main__":
    main(*sys.argv[1:])
