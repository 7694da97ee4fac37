# SPDX-License-Identifier: Apache-2.0
"""Exports: SavedModels and LiteRT models, written, checked in a fresh process, and only then put in place."""

from deeplab_axial.export.metadata import METADATA_FILE, Metadata, Variant, git_revision, load
from deeplab_axial.export.writer import write

__all__ = ["METADATA_FILE", "Metadata", "Variant", "git_revision", "load", "write"]
