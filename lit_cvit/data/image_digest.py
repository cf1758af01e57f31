"""A digest of some of a split's images, which tells other images under the same names, at little cost."""

from __future__ import annotations

import hashlib

from lit_cvit.data.images import FileImage
from lit_cvit.data.sampling import evenly_spaced
from lit_cvit.data.tasks import SampleSource

_SAMPLES = 16
_PIECE = 1 << 20


def image_digest(source: SampleSource) -> dict[str, str]:
    """Where a split's images lie, and a digest of up to 16 of them, evenly spaced over its samples.

    Of each image the size and the first MiB count. Images that are no files of their own have no digest: they
    are drawn, or lie in a table.

    Args:
        source: The split.

    Returns:
        `root` (as configured; a path relative to a moved folder stays as it is) and `digest`; empty where no
        such sample has an image.

    Raises:
        ValueError: a record is bad or an image is missing; names it.
    """
    total, roots = hashlib.blake2b(digest_size=16), {}
    for row in evenly_spaced(len(source), _SAMPLES):
        image = source.sample(row).image
        if isinstance(image, FileImage):
            roots[str(image.root)] = True
            path = image.locate()
            total.update(f"{path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                total.update(file.read(_PIECE))
    return {"root": ", ".join(roots), "digest": total.hexdigest()} if roots else {}
