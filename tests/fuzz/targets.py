# SPDX-License-Identifier: Apache-2.0
"""What reads files: for each a strategy of inputs, and the function that must take them or refuse them."""

import contextlib
import functools
import io
import json
import pathlib
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st
from PIL import Image

from deeplab_axial import builders, config, export
from deeplab_axial.backbones import presets
from deeplab_axial.cli import config_differences
from deeplab_axial.data import dataset_info, tfrecord_files
from deeplab_axial.data.converters import coco_panoptic, image_files, shard_files
from deeplab_axial.data.source import Source
from deeplab_axial.errors import InputError
from deeplab_axial.predict import images
from deeplab_axial.predict.ground_truth import GroundTruth
from deeplab_axial.predict.output import PREDICTIONS_FILE, Output
from deeplab_axial.report import details, page
from deeplab_axial.submissions import coco
from deeplab_axial.training import best, checkpoint_files, checkpoints, label_space_file, log
from tests.data import checked
from tests.fuzz import mutations
from tests.report import runs

REPOSITORY = pathlib.Path(__file__).parents[2]
TINY = REPOSITORY / "tests" / "data" / "tiny.textproto"


class Target(NamedTuple):
    """Something that reads.

    Attributes:
      name: in test ids.
      inputs: makes the strategy; called once, in the test.
      read: takes an input and an empty folder.
      also: exceptions that are part of its contract beside InputError.
    """

    name: str
    inputs: Callable[[], st.SearchStrategy]
    read: Callable[[Any, pathlib.Path], Any]
    also: tuple[type[Exception], ...] = ()


@functools.cache
def _textprotos() -> list[bytes]:
    """Configs that stand alone: with what they have from their bases."""
    shipped = ("imagenet/resnet50", "cityscapes/axial_deeplab_s", "demo/axial_deeplab_tiny")
    paths = [TINY, *(REPOSITORY / "configs" / f"{name}.textproto" for name in shipped)]
    return [config.to_text(config.load(path)).encode() for path in paths]


def _read_config(data: bytes, folder: pathlib.Path) -> None:
    (folder / "base.textproto").write_bytes(b'experiment_name: "base"')
    path = folder / "config.textproto"
    path.write_bytes(data)
    config.load(path, backbone_names=presets.NAMES, refused_backbones=presets.REFUSED)


def _read_label_space(data: bytes, folder: pathlib.Path) -> None:
    (folder / "space.textproto").write_bytes(data)
    builders.load_label_space(folder / "space.textproto")


def _label_spaces() -> list[bytes]:
    return [path.read_bytes() for path in sorted((REPOSITORY / "deeplab_axial" / "label_spaces").glob("*.textproto"))]


@functools.cache
def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    found = []
    for form, values in [
        *((form, pixels) for form in ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")),
        ("PNG", pixels[..., 0].astype(np.uint16) * 200),
        ("TIFF", pixels[..., 0].astype(np.uint16) * 200),
        ("PNG", pixels[..., 0] > 99),
    ]:
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, form)
        found.append(buffer.getvalue())
    return [*found, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"]


def _predict_image(data: bytes, folder: pathlib.Path) -> None:
    (folder / "image.jpg").write_bytes(data)
    images.decode(folder / "image.jpg")
    images.decode(data)


def _convert_image(data: bytes, folder: pathlib.Path) -> None:
    (folder / "image.jpg").write_bytes(data)
    image_files.read_image(str(folder / "image.jpg"))


ANNOTATION = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "height": 9, "width": 12},
        {"id": "b", "file_name": "b.jpg", "height": 4, "width": 5},
    ],
    "annotations": [
        {
            "image_id": 1,
            "file_name": "a.png",
            "segments_info": [{"id": 7, "category_id": 3, "area": 9, "bbox": [0, 0, 3, 3], "iscrowd": 0}],
        },
        {"image_id": "b", "file_name": "b.png", "segments_info": []},
    ],
    "categories": [
        {"id": 3, "name": "car", "isthing": 1, "color": [1, 2, 3], "supercategory": "vehicle"},
        {"id": 5, "name": "sky", "isthing": 0},
    ],
}


def _read_annotation(data: bytes, folder: pathlib.Path) -> None:
    path = folder / "panoptic_val.json"
    path.write_bytes(data)
    for read in (
        lambda: coco_panoptic.convert(folder, path, folder, folder / "out"),  # the images are not there
        lambda: GroundTruth(str(path), str(folder), checked.SPACE),
        lambda: coco.ImageList.read(str(path)),
    ):
        _refused(read)


def _refused(read: Callable[[], Any]) -> None:
    with contextlib.suppress(InputError):
        read()


@functools.cache
def _shards() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        shard = tfrecord_files.write_shard(folder, "x", [checked.encode(f"{i}.jpg") for i in range(3)])
        return [pathlib.Path(folder, shard.file).read_bytes()]


def _header(length: int) -> bytes:
    """A record's header whose checksum is right."""
    packed = length.to_bytes(8, "little")
    return packed + tfrecord_files._masked_crc32c(packed).to_bytes(4, "little")


_HEADERS = tuple(_header(length) for length in (0, 1, 100, 2**31, 2**40, 2**62, 2**64 - 1))


def _read_shard(data: bytes, folder: pathlib.Path) -> None:
    path = folder / "x.tfrecord"
    path.write_bytes(data)
    _refused(lambda: tfrecord_files.check_shards([path]))
    source = Source.open([str(path)], checked.SPACE, allow_damage=True)
    checked.run_check(source)


def _read_record(data: bytes, folder: pathlib.Path) -> None:
    tfrecord_files.write_shard(folder, "x.tfrecord", [data])
    source = Source.open([str(folder / "x.tfrecord")], checked.SPACE, allow_damage=True)
    checked.run_check(source)


def _arrays() -> st.SearchStrategy:
    shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
    types = st.sampled_from(["u1", "u2", "i1", "i8", "f2", "f4", "f8", "c8", "?", "S3", "U2", "O", "M8[s]"])
    values = st.sampled_from([0, 1, 0.5, 255, 65535, -1, float("nan"), float("inf")])

    def make(shape, kind, value):
        with np.errstate(all="ignore"):
            return np.full(shape, value).astype(kind) if kind[0] not in "M" else np.zeros(shape, kind)

    return st.one_of(
        st.builds(make, shapes, types, values),
        st.sampled_from([None, 3, "", "\ud800", "\x00", b"", [], {}, [[1, 2], [3]], object(), pathlib.Path("none")]),
    )


def _read_array(value: Any, folder: pathlib.Path) -> None:
    images.decode(value)


METRICS = {"step": 3, "num_images": 2, "panoptic_quality": {"all": {"pq": 0.5}}, "mean_iou": {"mean": None}}
METRICS_OF_ANOTHER = {**METRICS, log.DIFFERS: {log.NETWORK: ["model_options.backbone.output_stride: was 16, now 32"]}}
BEST = {"metric": best.DEFAULT_METRIC, "value": 0.5, "step": 3, "checkpoint": "ckpt-3"}
HISTORY = b"".join(json.dumps({**entry, "time": "2026-01-01"}).encode() + b"\n" for entry in runs.HISTORY[:3])
ENTRIES = b'{"step": 3, "checkpoint": "0123456789abcdef", "panoptic_quality/all/pq": 0.5}\n' * 2
INFO = dataset_info.DatasetInfo(
    checked.SPACE, 3, (tfrecord_files.Shard("x.tfrecord", 3, 900),), 32, 48, {0: 5, 2: 7}, class_counts={2: 1}
)
METADATA = export.Metadata(checked.SPACE, "", 3, "0.1", METRICS, variant=export.Variant(input_size=(33, 49)))


def _read_history(folder: pathlib.Path) -> None:
    log.read_history(str(folder))


def _read_best(folder: pathlib.Path) -> None:
    (folder / "best" / "metrics.json").write_text(json.dumps(METRICS))
    best.Evaluations(str(folder), "mean_iou/mean").best_value()


def _read_metrics(folder: pathlib.Path) -> None:
    for name in best.METRICS:
        best.look_up(log.read_metrics(str(folder)) or {}, name)


SETTINGS = {"model": "a table", "padding": None, "scores": False, "panoptic_json": "caf\udce9.json"}
PREDICTIONS = {
    "info": {"description": "x", "settings": SETTINGS},
    "inputs": [
        {"path": "photos/caf\udce9.jpg", "name": "caf\ufffd"},
        {"path": "b.mp4", "name": "b"},
        {"path": "c.jpg", "failed": "caf\udce9.png is no readable image"},
    ],
    "images": [
        {"id": 7, "file_name": "caf\ufffd.jpg", "height": 9, "width": 12},
        {"id": "b/000000", "file_name": "b.mp4", "height": 9, "width": 12},
    ],
    "annotations": [
        {"image_id": 7, "file_name": "caf\ufffd.png", "segments_info": [{"id": 7, "category_id": 3, "area": 9}]},
        {"image_id": "b/000000", "file_name": "b/000000.png", "segments_info": []},
    ],
    "categories": [{"id": 3, "name": "car", "isthing": 1, "color": [1, 2, 3]}],
}


def _read_predictions(folder: pathlib.Path) -> Output:
    (folder / "panoptic" / "b").mkdir(parents=True, exist_ok=True)
    for place in ("caf\ufffd.png", "panoptic/caf\ufffd.png", "b.mp4", "panoptic/b/000000.png"):
        (folder / place).touch()
    output = Output(str(folder), checked.SPACE, settings=SETTINGS)
    output.keep()
    output.start()
    return output


def _write_info(folder: pathlib.Path) -> dict:
    INFO.write(folder)
    return json.loads((folder / "dataset.json").read_text())


def _in_folder(make: Callable[[pathlib.Path], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return make(pathlib.Path(folder))


@functools.cache
def _archive() -> dict[str, bytes]:
    def make(folder: pathlib.Path) -> dict[str, bytes]:
        details.write(runs.make_run(names=("a", "b"), num_pictures=1).details, folder)
        with zipfile.ZipFile(folder / details.DETAILS_FILE) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    return _in_folder(make)


def _pack(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _edited_archives() -> st.SearchStrategy[bytes]:
    entries = _archive()
    main = mutations.edited_json([json.loads(entries["details.json"])])
    picture = st.sampled_from([name for name in entries if name != "details.json"])
    return st.one_of(
        main.map(lambda content: _pack({**entries, "details.json": content})),
        st.builds(
            lambda name, content: _pack({**entries, name: content}), picture, mutations.edited(list(entries.values()))
        ),
        mutations.edited([_pack(entries)]),
    )


def _read_report(data: bytes, folder: pathlib.Path) -> None:
    (folder / details.DETAILS_FILE).write_bytes(data)
    run = page.Run("run", details.read(folder), runs.HISTORY[:3])
    page.write_report(folder / "report.html", "run", run)


def _read_sidecar(folder: pathlib.Path) -> shard_files.Tally | None:
    (folder / "x").write_bytes(b"123")
    return shard_files.read_sidecar(str(folder), "x", "f")


def _sidecar() -> dict:
    tally = shard_files.Tally(2, 3, 4, 5, 6, remarks={"odd": (1, "a.jpg")})
    return {"fingerprint": "f", **vars(tally)}


@functools.cache
def _checkpoint() -> dict[str, bytes]:
    def make(folder: pathlib.Path) -> dict[str, bytes]:
        step = tf.Variable(3, dtype=tf.int64)
        checkpoints.Manager(str(folder), {"model": tf.Variable(tf.ones([9]))}, step, 1).save()
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    return _in_folder(make)


def _read_checkpoint(suffix: str) -> Callable[[bytes, pathlib.Path], None]:
    def read(data: bytes, folder: pathlib.Path) -> None:
        for name, content in _checkpoint().items():
            (folder / name).write_bytes(data if name.endswith(suffix) else content)
        checkpoint_files.listed(str(folder))
        checkpoint_files.why_unreadable(str(folder / "ckpt-3"))
        objects = {"model": tf.Variable(tf.zeros([9])), "step": tf.Variable(0, dtype=tf.int64)}
        checkpoints.restore(str(folder / "ckpt-3"), objects, "--checkpoint")

    return read


def _of_checkpoint(suffix: str) -> Callable[[], st.SearchStrategy[bytes]]:
    return lambda: mutations.edited([content for name, content in _checkpoint().items() if name.endswith(suffix)])


def _read_kept_config(folder: pathlib.Path) -> None:
    options = config.load(TINY)
    config_differences.since_run(options, str(folder))


def _json(*values: Any) -> Callable[[], st.SearchStrategy[bytes]]:
    return lambda: mutations.edited_json(list(values))


# Files that this program wrote: {name in a folder: (inputs, what reads the folder)}.
OWN_FILES: dict[str, tuple[Callable[[], st.SearchStrategy[bytes]], Callable[[pathlib.Path], Any]]] = {
    "metrics.json": (_json(METRICS, METRICS_OF_ANOTHER), _read_metrics),
    "best/best.json": (_json(BEST), _read_best),
    "history.jsonl": (lambda: mutations.edited([HISTORY]), _read_history),
    "evaluations.jsonl": (lambda: mutations.edited([ENTRIES]), lambda folder: best.Evaluations(str(folder)).read()),
    "dataset.json": (lambda: mutations.edited_json([_in_folder(_write_info)]), dataset_info.DatasetInfo.read),
    export.METADATA_FILE: (
        lambda: mutations.edited_json([json.loads(METADATA.to_json())]),
        lambda folder: export.load(str(folder)),
    ),
    "config.textproto": (lambda: mutations.edited(_textprotos()), _read_kept_config),
    PREDICTIONS_FILE: (_json(PREDICTIONS), _read_predictions),
    label_space_file.FILE_NAME: (
        lambda: mutations.edited_json([checked.SPACE.to_dict()]),
        lambda folder: label_space_file.read(str(folder)),
    ),
    # An unreadable one vouches for nothing: the shard is made again.
    ".x.json": (lambda: mutations.edited_json([_sidecar()]), _read_sidecar),
}


def _write_and_read(name: str, data: bytes, folder: pathlib.Path) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    OWN_FILES[name][1](folder)


TARGETS = (
    Target("config", lambda: mutations.edited([*_textprotos(), b'base: "base.textproto"']), _read_config),
    Target("label space", lambda: mutations.edited(_label_spaces()), _read_label_space),
    Target("image to predict", lambda: mutations.edited(_images()), _predict_image),
    Target("image to convert", lambda: mutations.edited(_images()), _convert_image),
    Target("annotation", _json(ANNOTATION), _read_annotation),
    Target("shard", lambda: mutations.edited(_shards(), (*mutations.TOKENS, *_HEADERS)), _read_shard),
    Target("record", lambda: mutations.edited([checked.encode()]), _read_record),
    # A program's mistake, as its documentation says.
    Target("array", _arrays, _read_array, also=(ValueError,)),
    *(Target(name, inputs, functools.partial(_write_and_read, name)) for name, (inputs, _) in OWN_FILES.items()),
    Target("report_data.zip", _edited_archives, _read_report),
    Target("list of checkpoints", _of_checkpoint("checkpoint"), _read_checkpoint("checkpoint")),
    Target("checkpoint's index", _of_checkpoint(".index"), _read_checkpoint(".index")),
    Target("checkpoint's data", _of_checkpoint("-00001"), _read_checkpoint("-00001")),
)
