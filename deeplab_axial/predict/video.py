# SPDX-License-Identifier: Apache-2.0
"""Frames of videos, read and written by FFmpeg, which the optional package imageio-ffmpeg brings along."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from types import ModuleType, TracebackType

import numpy as np

from deeplab_axial import files
from deeplab_axial.errors import InputError

# A video that holds less than this share of the frames that its header promises is cut short.
_COMPLETE = 0.9
_NO_RATE = 25.0


def require() -> ModuleType:
    """The package imageio_ffmpeg.

    Raises:
      InputError: it is not installed; says how to.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise InputError(
            "Videos need the package imageio-ffmpeg. Install it: pip install 'deeplab-axial[video]' (or pip install "
            "imageio-ffmpeg)."
        ) from error
    return imageio_ffmpeg


class Reader:
    """The frames of a video, once.

    FFmpeg turns them as the file says and repeats or drops frames so that their rate is constant.

    Args:
      path: anything that FFmpeg reads: MP4, AVI, MOV, WebM, GIF, ...

    Attributes:
      height: of a frame, pixels.
      width: of a frame, pixels.
      fps: frames a second.
      num_frames: about how many frames there are; 0 if the file does not say.

    Raises:
      InputError: the file is no video that decodes.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            files.check_regular(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}). Correct the path.") from error
        self._frames = require().read_frames(path, pix_fmt="rgb24")
        try:
            header = next(self._frames)
            self.width, self.height = header["size"]
            self.fps = float(header["fps"]) or _NO_RATE
            self.num_frames = round(float(header["duration"]) * self.fps)
        except (OSError, RuntimeError, LookupError, ValueError) as error:
            raise InputError(f"{path} is no readable video ({_last_line(error)}). Replace or remove it.") from error

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields uint8 [height, width, 3], RGB.

        Raises:
          InputError: the video is damaged or cut short; after the frames that decode.
        """
        count = 0
        try:
            for frame in self._frames:
                count += 1
                yield np.frombuffer(frame, np.uint8).reshape(self.height, self.width, 3)
        except RuntimeError as error:
            raise InputError(f"{self.path}: frame {count + 1} does not decode ({_last_line(error)}).") from error
        if count == 0 or (count < _COMPLETE * self.num_frames and self.num_frames - count > 1):
            raise InputError(
                f"{self.path} is damaged or cut short: {count} of about {self.num_frames} frames decode. Replace it."
            )


class Writer:
    """Writes an H.264 MP4 that is complete or absent and holds `files.MARK`; a context manager.

    Args:
      path: the file, which should end in .mp4; one that exists is replaced.
      fps: frames a second.

    Raises:
      InputError: the file cannot be written.
    """

    def __init__(self, path: str, fps: float):
        self.path = path
        self.fps = fps
        self._partial = files.temporary_name(path)
        self._process: subprocess.Popen | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> "Writer":
        return self

    def add(self, frame: np.ndarray) -> None:
        """Appends a frame, uint8 [H, W, 3] RGB; an odd last row or column is cut off, as H.264 needs.

        Raises:
          InputError: the file cannot be written.
        """
        height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
        if self._process is None:
            self._size = (height, width)
            self._start(height, width)
        if self._size != (height, width):
            raise ValueError(f"All frames must be {self._size}. Received: {(height, width)}.")
        try:
            self._process.stdin.write(np.ascontiguousarray(frame[:height, :width]).tobytes())
        except OSError as error:
            raise self._failure() from error

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._process is None:
                return
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            if kind is not None:
                self._process.kill()
            if self._process.wait() and kind is None:
                raise self._failure()
            if kind is None:
                os.replace(self._partial, self.path)
        finally:
            self._log.close()
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._partial)

    def _start(self, height: int, width: int) -> None:
        command = [require().get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{width}x{height}", "-r", f"{self.fps:.6g}", "-i", "-", "-an", "-c:v", "libx264"]
        # Most players need chroma at half the resolution; so names stay readable at a low rate factor.
        command += ["-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
        command += ["-metadata", f"comment={files.MARK}", "-f", "mp4", self._partial]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=self._log, stdout=subprocess.DEVNULL)

    def _failure(self) -> InputError:
        self._process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip()
        return InputError(f"{self.path} cannot be written ({_last_line(said)}). Name another folder, or make room.")


def _last_line(error: object) -> str:
    """What FFmpeg says last, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "FFmpeg does not say why"
