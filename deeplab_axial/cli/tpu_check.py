# SPDX-License-Identifier: Apache-2.0
"""The command `tpu_check`: what it does. Its flags are in `options`."""

import json

from absl import flags

from deeplab_axial import builders, files
from deeplab_axial.cli import folders
from deeplab_axial.cli.options.experiment import load_config
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2
from deeplab_axial.tpu_check import pace, pace_report, process, report, search, topologies

FLAGS = flags.FLAGS


def main() -> None:
    """Checks."""
    topology = topologies.parse(FLAGS.topology)
    price = pace.parse_price(FLAGS.price_per_chip_hour)
    if FLAGS.json:
        folders.refuse_foreign([FLAGS.json], "json")
    options = load_config()
    if len(options.train_dataset_options.crop_size) != 2:
        raise InputError(f"{FLAGS.config_file}: tpu_check needs train_dataset_options.crop_size. Received: none.")
    wanted = _batch_size(options, topology)
    process.check_installed()
    if FLAGS.layers:
        _check_layers(options, wanted, topology)
        return
    run = pace.Run(options.trainer_options.solver_options.training_number_of_steps, price)
    batch_size = wanted or _search(options, topology)
    while True:
        program = builders.build_step_program(options, batch_size, topology.chip.name)
        result = process.compile_program(program, topology, not FLAGS.plan_only, FLAGS.timeout)
        unit = options.trainer_options.solver_options.gradient_accumulation_steps
        if wanted or report.fits(program, topology, result) or result.error or batch_size == unit:
            break
        batch_size -= unit  # the search knew nothing of the machine code
    trainer_options, solver = options.trainer_options, options.trainer_options.solver_options
    setting = report.Setting(
        options.experiment_name or FLAGS.config_file,
        tuple(options.train_dataset_options.crop_size),
        trainer_options.precision,
        trainer_options.recompute,
        solver.gradient_accumulation_steps,
        options.model_options.backbone.attention_logits_at_once > 0,
    )
    if FLAGS.json:
        content = {"description": files.MARK, **report.as_json(setting, program, topology, result, run)}
        files.write_atomically(FLAGS.json, json.dumps(content, indent=2))
    print(report.as_text(setting, program, topology, result, run))


def _check_layers(options: config_pb2.ExperimentOptions, batch_size: int, topology: topologies.Topology) -> None:
    """Compiles the layers of attention and prints what they cost; JSON as the flag says."""
    results = []
    for layer, *programs in builders.build_layer_programs(options, batch_size, topology.chip.name):
        compiled = [process.compile_program(program, topology, timeout=FLAGS.timeout) for program in programs]
        results.append(pace_report.LayerResult(layer, *compiled))
        seconds = sum(result.seconds for result in compiled)
        print(f"compiled {'x'.join(map(str, layer.shape))} in {seconds:.0f} s", flush=True)
    if FLAGS.json:
        content = {"description": files.MARK, "topology": topology.name, "layers": pace_report.layer_json(results)}
        files.write_atomically(FLAGS.json, json.dumps(content, indent=2))
    print("\n".join(["", *pace_report.layer_lines(results, topology)]))


def _batch_size(options: config_pb2.ExperimentOptions, topology: topologies.Topology) -> int | None:
    """Images of a core; None to search."""
    parts = options.trainer_options.solver_options.gradient_accumulation_steps
    if FLAGS.batch_size == "auto":
        return None
    if FLAGS.batch_size:
        if not FLAGS.batch_size.isdecimal() or int(FLAGS.batch_size) < 1 or int(FLAGS.batch_size) % parts:
            raise InputError(
                "--batch_size must be auto or a multiple of solver_options.gradient_accumulation_steps "
                f"({parts}). Received: {FLAGS.batch_size}."
            )
        return int(FLAGS.batch_size)
    total = options.train_dataset_options.batch_size
    if total % (topology.num_cores * parts):
        raise InputError(
            f"{FLAGS.config_file}: train_dataset_options.batch_size must be a multiple of the {topology.num_cores} "
            f"cores of {topology.name} times the {parts} gradient_accumulation_steps. Received: {total}. "
            "Change one of them, or say --batch_size for one core."
        )
    return total // topology.num_cores


def _search(options: config_pb2.ExperimentOptions, topology: topologies.Topology) -> int:
    """The largest batch of a core that fits; the smallest if none does."""
    unit = options.trainer_options.solver_options.gradient_accumulation_steps

    def try_batch(batch_size: int) -> search.Trial:
        program = builders.build_step_program(options, batch_size, topology.chip.name)
        result = process.compile_program(program, topology, makes_code=False, timeout=FLAGS.timeout)
        if result.error:
            raise InputError(f"The training step does not compile for {topology.name}: {result.error}")
        needed = result.needed + report.between_cores(program, topology)
        fits = report.fits(program, topology, result)
        print(
            f"batch {batch_size}: {needed / 2**30:.2f} GiB, {'fits' if fits else 'does not fit'} "
            f"({result.seconds:.0f} s)",
            flush=True,
        )
        return search.Trial(needed, fits)

    return search.largest_batch(try_batch, report.available(topology), unit) or unit
