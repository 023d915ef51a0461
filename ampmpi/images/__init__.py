"""Images: reading them by share from any file that ASE reads, and their hashes.

Nothing here talks to other ranks: ASE's own parallel reading would hand every
rank the image that rank 0 reads, so that each ``ase.io`` call turns it off.
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
