# SPDX-License-Identifier: Apache-2.0
"""Stands for the compiler: does what the program's first word says and dumps the plan that follows it."""

import json
import os
import pathlib
import sys
import time

REPORT = "Memory Space: default (color=0)\nTotal bytes: {total} (1MiB)\n"
ASSIGNMENT = """\
BufferAssignment:
allocation 0: size 512, page 0, thread-local:
 value: <1 add @0> (size=512,offset=0): f32[]{:T(128)}
allocation 1: size 1000, page 0, parameter 0, shape |f32[250]| at ShapeIndex {}, maybe-live-out:
 value: <2 arg @0> (size=1000,offset=0): f32[250]{0}
allocation 2: size 2000, page 0, parameter 1, shape |f32[500]| at ShapeIndex {}:
 value: <3 arg.1 @0> (size=2000,offset=0): f32[500]{0}
allocation 3: size 9000, page 0, preallocated-temp:
 value: <4 fusion.1 @0> (size=5000,offset=0): f32[1250]{0:T(128)}
 value: <5 fusion.2 @0> (size=4000,offset=1000): f32[1000]{0:T(128)}
 value: <6 copy-start.3{0} @0> (size=3000,offset=5000): bf16[1500]{0:T(128)(2,1)}
 value: <7 while{1,0} (phi) @0> (size=1000,offset=8000): s32[250]{0}
 value: <8 vmem @1> (size=8000,offset=0): f32[2000]{0:S(1)}
"""
PROGRAM = """\
HloModule step
  %fusion.1 = f32[1250]{0} fusion(%arg), kind=kLoop, metadata={op_name="model/stage2_block1/attention/MatMul"}
  %fusion.2 = f32[1000]{0} fusion(%arg), kind=kLoop, metadata={op_name="model/other"}
  %convert.7 = bf16[1500]{0} convert(%fusion.1), metadata={op_name="model/head/Cast"}
  %copy.2 = bf16[1500]{0} copy(%convert.7), backend_config={}
  ROOT %copy-start.3 = (bf16[1500]{0}, u32[]) copy-start(%copy.2), backend_config={}
"""
OUT_OF_MEMORY = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (57.05G) exceeds available HBM (15.75G). HLO module: step."
)
REFUSED = 'UNIMPLEMENTED: no such thing on a TPU: op_name="model/stage3_block2/sort" source_line=3'


def main(hlo_file: str, topology: str, folder: str) -> None:
    word, _, total = pathlib.Path(hlo_file).read_text().partition(" ")
    root = pathlib.Path(folder)
    print("started for", topology, os.environ["TPU_ACCELERATOR_TYPE"], flush=True)
    if word == "crash":
        print("the last words")
        os.abort()
    if word == "hang":
        time.sleep(60)
    (root / "costs.json").write_text(json.dumps({"flops": 2e12, "bytes_accessed": 3e9, "loops": 2}))
    if word == "refuse":
        (root / "executable.json").write_text(json.dumps({"error": REFUSED}))
        return
    dump = root / "dump"
    dump.mkdir()
    (dump / "module_0.step.after_optimizations-memory-usage-report.txt").write_text(REPORT.format(total=total))
    (dump / "module_0.step.after_optimizations-buffer-assignment.txt").write_text(ASSIGNMENT)
    (dump / "module_0.step.after_optimizations.txt").write_text(PROGRAM)
    if word == "exceed":
        (root / "executable.json").write_text(json.dumps({"error": OUT_OF_MEMORY}))
        return
    (dump / "module_0.step.after_optimizations_after_buffer_assignment.txt").write_text(PROGRAM)
    if word == "stop":
        time.sleep(60)
    (root / "executable.json").write_text(json.dumps({"code": 700, "bytes_after_fusion": 1e9}))


if __name__ == "__main__":
    main(*sys.argv[1:])
