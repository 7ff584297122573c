#!/usr/bin/env python3
"""Time the pixel metrics on 500 drawn maps of 256x256 and compare with the package adeval, if it is installed.

    OMP_NUM_THREADS=1 python scripts/benchmark_pixel_metrics.py

Prints processor time, so that other work on the machine does not count, and all figures, so that speed is not
bought with wrong numbers. For the comparison: pip install adeval opencv-python-headless
"""

import argparse
import importlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import ndimage

from us_anomaly.scoring.exact_pixels import count_exactly
from us_anomaly.scoring.pixel_curve import pixel_figures
from us_anomaly.scoring.region_overlap import PixelItem, PixelTruth
from us_anomaly.scoring.streaming_pixels import count_streaming


def drawn(num_maps: int, side: int) -> tuple[Any, Any]:
    """Draw smooth heavy-tailed maps, seven in ten with one to three defects of 6 to 40 pixels."""
    generator = np.random.default_rng(0)
    maps = np.empty((num_maps, side, side), dtype=np.float32)
    masks = np.zeros(maps.shape, dtype=bool)
    for number in range(num_maps):
        if number >= 0.3 * num_maps:
            for _ in range(generator.integers(1, 4)):
                (row, column), (height, width) = generator.integers(0, side - 40, 2), generator.integers(6, 40, 2)
                masks[number, row : row + height, column : column + width] = True
        noise = ndimage.gaussian_filter(generator.normal(size=(side, side)), 3)
        maps[number] = np.exp(6 * noise + 1.2 * ndimage.gaussian_filter(masks[number].astype(float), 4))
    return maps, masks


def figures(count: Callable[[list[PixelItem]], Any], items: list[PixelItem]) -> dict[str, float]:
    return pixel_figures(count(items).curve(), saturated=False).values


def timed(name: str, work: Callable[[], Any]) -> None:
    seconds = []
    for _ in range(3):
        started = time.process_time()
        result = work()
        seconds.append(time.process_time() - started)
    print(f"{name:10s} {min(seconds):6.3f} s  {result}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--num-maps", type=int, default=500)
    parser.add_argument("--side", type=int, default=256)
    arguments = parser.parse_args()
    maps, masks = drawn(arguments.num_maps, arguments.side)
    items = [PixelItem(one, PixelTruth(mask), "all") for one, mask in zip(maps, masks, strict=True)]
    for name, count in (("exact", count_exactly), ("streaming", count_streaming)):
        timed(name, partial(figures, count, items))
    try:
        adeval = importlib.import_module("adeval.mem_effic")
    except ImportError:
        print("adeval is not installed: nothing to compare with")
        return
    if not hasattr(np, "trapz"):
        setattr(np, "trapz", np.trapezoid)  # noqa: B010 (adeval 1.1 calls a name that NumPy 2.4 dropped)
    targets = masks.astype(np.uint8)
    names = ("pixel_auroc", "pixel_average_precision", "aupro_0.3")
    timed("adeval", lambda: dict(zip(names, map(float, adeval.auroc_aupr_aupro(maps, targets)), strict=True)))


if __name__ == "__main__":
    main()
