"""Images: reading a rank's share of them from any file that ASE reads, and their hashes.

Nothing here talks to other ranks. Every ``ase.io`` call has ``parallel=False``: otherwise
ASE would read on rank 0 alone and hand its image to all ranks.
"""

from __future__ import annotations

from ampmpi.images.hashing import HashedImages, digest_image, hash_image, hash_images
from ampmpi.images.imageset import ImageList, ImageRef, Images, ImageSet, open_images

__all__ = [
    "HashedImages",
    "ImageList",
    "ImageRef",
    "ImageSet",
    "Images",
    "digest_image",
    "hash_image",
    "hash_images",
    "open_images",
]
