# SPDX-License-Identifier: Apache-2.0
"""Writes deeplab_axial/protos/*_pb2.py and .pyi from protos/*.proto, and SOURCES.sha256, which tells when they are old.

Needs grpcio-tools 1.62.3: the code that its protoc 25 writes runs under protobuf 4.25 and everything later.
"""

import hashlib
import os
import pathlib

from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = "deeplab_axial/protos"


def main() -> None:
    """Generates the code and then the hashes, so that a failure leaves the old hashes."""
    os.chdir(ROOT)
    sources = sorted(pathlib.Path("protos").glob("*.proto"))
    arguments = ["protoc", f"--proto_path={PACKAGE}=protos", "--python_out=.", "--pyi_out=."]
    status = protoc.main(arguments + [f"{PACKAGE}/{source.name}" for source in sources])
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}; its message stands above.")
    lines = [f"{hashlib.sha256(source.read_bytes()).hexdigest()}  {source.name}\n" for source in sources]
    pathlib.Path(PACKAGE, "SOURCES.sha256").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
