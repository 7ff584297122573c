"""Feed damaged pictures and masks to the readers: a picture or one clear line, never a hang, a crash or a leak.

`python tests/safety/image_fuzz.py [N]` does it for N inputs (default 100000) and prints what came of them.
"""

import io
import random
import resource
import signal
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from us_anomaly.data.images import image_size, load_mask, read_image
from us_anomaly.errors import BadImageError

MAX_PIXELS = 200_000
SECONDS_PER_INPUT = 20
INTERESTING = (
    b"\0" * 4,
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\0\0\0\1",
    b"\xff\xfe",
    b"\xff\xd8",
    b"\xff\xd9",
)


def seeds() -> list[bytes]:
    """Return small whole files of every format and mode that is read."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (9, 7), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: list[tuple[Image.Image, str, dict[str, object]]] = [
        (rgb, "PNG", {}),
        (rgb.convert("P"), "PNG", {"transparency": 0}),
        (rgb.convert("1"), "PNG", {}),
        (rgb.convert("LA"), "PNG", {}),
        (deep, "PNG", {}),
        (rgb, "PNG", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        (rgb, "JPEG", {"exif": exif}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "BMP", {}),
        (rgb.convert("P"), "BMP", {}),
        (rgb, "WEBP", {"lossless": True}),
        (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(180)]}),
        (rgb, "TIFF", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgb, "TIFF", {"compression": "tiff_deflate"}),
        (rgb, "TIFF", {"compression": "jpeg"}),
        (rgb.convert("F"), "TIFF", {}),
        (rgb.convert("CMYK"), "TIFF", {}),
        (deep, "TIFF", {}),
        (rgb, "TIFF", {"save_all": True, "append_images": [rgb]}),
    ]
    files = []
    for picture, kind, options in variants:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


def damaged(rng: random.Random, files: list[bytes]) -> bytes:
    """Return one of the files after a few random changes."""
    content = bytearray(rng.choice(files))
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(content)) if content else 0
        match rng.randrange(8):
            case 0:
                content[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                content[place : place + 4] = rng.choice(INTERESTING)
            case 2:
                del content[place:]
            case 3:
                del content[place : place + rng.randint(1, 40)]
            case 4:
                content[place:place] = content[place : place + rng.randint(1, 40)]
            case 5:
                content[place:place] = rng.randbytes(rng.randint(1, 20))
            case 6:
                content[place : place + 4] = struct.pack(rng.choice((">I", "<I")), rng.randrange(2**32))
            case _:
                other = rng.choice(files)
                cut = rng.randrange(len(other))
                content[place:] = other[cut:]
    return bytes(content)


def fuzz(count: int, *, seed: int, folder: Path) -> Counter[str]:
    """Read `count` damaged files with every reader; return how many were pictures and how many were refused.

    Raises:
        AssertionError: A reader raised anything but `BadImageError`, or its line is none.
        TimeoutError: An input took too long.
    """
    rng, files = random.Random(seed), seeds()
    path = folder / "fuzz"
    outcomes: Counter[str] = Counter()

    def too_slow(*_: object) -> None:
        raise TimeoutError("an input takes too long")

    before = signal.signal(signal.SIGALRM, too_slow)
    try:
        for number in range(count):
            content = damaged(rng, files)
            path.write_bytes(content)
            signal.alarm(SECONDS_PER_INPUT)
            for reader in (read_image, image_size, load_mask):
                try:
                    reader(path, max_pixels=MAX_PIXELS)
                    outcomes["read"] += 1
                except BadImageError as error:
                    outcomes["refused"] += 1
                    said = str(error)
                    if not said.startswith(f"{path}: ") or "\n" in said:
                        raise AssertionError(f"input {number} of seed {seed}: {said!r} is no clear line") from error
                except TimeoutError:
                    raise
                except BaseException as error:
                    raise AssertionError(
                        f"input {number} of seed {seed}: {reader.__name__} raised {error!r}"
                    ) from error
            signal.alarm(0)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return outcomes


def held() -> tuple[int, int, float]:
    """Return the numbers of open files and threads, and the memory in MiB that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    num_files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    return num_files, threading.active_count(), pages * resource.getpagesize() / 2**20


def main() -> None:
    """Fuzz and print what came of it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fuzz(2000, seed=1, folder=Path(folder))
        files, threads, memory = held()
        outcomes = fuzz(count, seed=0, folder=Path(folder))
    files_after, threads_after, memory_after = held()
    print(
        f"{count} damaged files, three readers: {outcomes['read']} times a picture, {outcomes['refused']} times one clear line"
    )
    print(
        f"open files {files} then {files_after}, threads {threads} then {threads_after}, MiB {memory:.0f} then {memory_after:.0f}"
    )
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
