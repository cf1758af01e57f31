"""Many images at once: looked up with one system call each, or decoded in several processes."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from lit_cvit.data.image_kinds import SUSPICIOUS_BYTES
from lit_cvit.data.images import FileImage
from lit_cvit.data.tasks import SampleSource
from lit_cvit.utils.processes import end_with_parent

_CHUNK = 128


class ImageLookup:
    """Looks image files up as `FileImage.locate` does, and remembers the folders it has seen."""

    def __init__(self) -> None:
        self._inside: dict[tuple[str, str], bool] = {}

    def find(self, image: FileImage) -> None:
        """Make sure that the file is there and not empty.

        Raises:
            ValueError: as in `FileImage.locate`.
        """
        if not self._is_plain(image):
            image.locate()

    def _is_plain(self, image: FileImage) -> bool:
        """Whether it is certainly a file that `locate` accepts: no link, in a folder under the root."""
        path = image.path
        if path.startswith("/") or any(mark in path for mark in ("..", "\\", ":")):
            return False
        root = os.fspath(image.root)
        try:
            found = os.lstat(os.path.join(root, path))
        except (OSError, ValueError):
            return False
        # Small files are looked into.
        plain = stat.S_ISREG(found.st_mode) and found.st_size > SUSPICIOUS_BYTES
        return plain and self._under(root, os.path.dirname(path))

    def _under(self, root: str, folder: str) -> bool:
        key = root, folder
        if key not in self._inside:
            real, inner = os.path.realpath(root), os.path.realpath(os.path.join(root, folder))
            self._inside[key] = os.path.commonpath((real, inner)) == real
        return self._inside[key]


def decode_images(
    sources: Sequence[SampleSource],
    which: Sequence[tuple[int, int]],
    *,
    workers: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[ValueError | None]:
    """Open the images of samples, each in one of several processes.

    Args:
        sources: Splits; picklable if there are many images.
        which: Number of the split and index in it, of samples with an image.
        workers: Number of processes; None: one for each CPU. Few images are opened in this process.
        on_progress: Called with the number of images opened so far.

    Yields:
        What is wrong, or None, in the order of `which`.

    Raises:
        ValueError: a process was killed.
    """
    count = workers or os.cpu_count() or 1
    chunks = [which[at : at + _CHUNK] for at in range(0, len(which), _CHUNK)]
    decode, done = functools.partial(_decode, tuple(sources)), 0
    # If this process is killed, those of the pool would wait for work for good.
    with ProcessPoolExecutor(min(count, max(len(chunks), 1)), initializer=end_with_parent) as pool:
        few = count == 1 or len(chunks) < 2
        try:
            for found in map(decode, chunks) if few else pool.map(decode, chunks):
                done += len(found)
                if on_progress is not None:
                    on_progress(done)
                yield from found
        except BrokenProcessPool as error:
            raise ValueError(
                f"a process that decodes images was killed after {done} of {len(which)} images, perhaps for "
                f"want of memory; try fewer --workers than {count}"
            ) from error


def _decode(sources: Sequence[SampleSource], which: Sequence[tuple[int, int]]) -> list[ValueError | None]:
    return [_problem(sources[number], index) for number, index in which]


def _problem(source: SampleSource, index: int) -> ValueError | None:
    image = source.sample(index).image
    assert image is not None, "the caller has looked"
    try:
        image.open()
    except ValueError as error:
        return error
    return None
