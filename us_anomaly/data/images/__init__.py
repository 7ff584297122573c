"""Pictures and masks from files: one door for everything that reads pixels.

`decoding` opens files and guards against hostile ones, `brightness` brings pictures of more than 8 bits to 8,
`masks` turns masks into yes or no per pixel, `inspection` checks a whole data set.
"""

from us_anomaly.data.images.decoding import DEFAULT_MAX_PIXELS, IMAGE_SUFFIXES, image_size, read_image, read_own, rgb_of
from us_anomaly.data.images.inspection import (
    BadImage,
    Inspection,
    find_duplicates,
    inspect_images,
    keep_good,
)
from us_anomaly.data.images.masks import Mask, load_mask, read_mask

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "IMAGE_SUFFIXES",
    "BadImage",
    "Inspection",
    "Mask",
    "find_duplicates",
    "image_size",
    "inspect_images",
    "keep_good",
    "load_mask",
    "read_image",
    "read_mask",
    "read_own",
    "rgb_of",
]
