# SPDX-License-Identifier: Apache-2.0
"""Package metadata; tool settings live in pyproject.toml."""

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent

TEST = ["pytest>=7.4", "pytest-xdist>=3.3", "hypothesis>=6.90", "cityscapesscripts>=2.2", "hotcoco>=1.3"]
VIDEO = ["imageio-ffmpeg>=0.6"]
LINUX = "sys_platform == 'linux' and platform_machine == 'x86_64'"
JAX = [f"{package}==0.10.2; python_version >= '3.11' and {LINUX}" for package in ("jax", "jaxlib")]
LIBTPU = f"libtpu==0.0.52; python_version >= '3.11' and {LINUX}"

setup(
    name="deeplab-axial",
    version="0.1.0",
    description="Axial-DeepLab panoptic segmentation for TensorFlow: train, evaluate and export from textproto configs",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["deeplab_axial", "deeplab_axial.*"]),
    package_data={"deeplab_axial": ["protos/*.pyi", "templates/*.html", "label_spaces/*.textproto"]},
    python_requires=">=3.10",
    install_requires=[
        "absl-py>=1.4",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "pillow>=10.1",
        "protobuf>=4.25",
        "pycocotools>=2.0.7",
        "tensorboard>=2.15",
        "tensorflow>=2.15.1,<2.22",
        "tf-keras>=2.15.1,<2.22",
        "tqdm>=4.66",
    ],
    extras_require={
        "video": VIDEO,
        "test": [*TEST, *VIDEO],
        "dev": [*TEST, *VIDEO, *JAX, "ruff>=0.15,<0.18"],
        # Builds attention's kernel while a graph is traced for a TPU.
        "tpu": JAX,
        # Compiles for a TPU without one, by parts of JAX that it promises nothing about. libtpu is too large for "dev".
        "tpu-check": [*JAX, LIBTPU],
        # tensorflow-addons reached its end of life in 2024 and needs TensorFlow < 2.16 and Python < 3.12.
        "addons": ["tensorflow-addons==0.23.0", "tensorflow==2.15.1", "tf-keras==2.15.1"],
    },
    entry_points={"console_scripts": ["deeplab-axial = deeplab_axial.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
