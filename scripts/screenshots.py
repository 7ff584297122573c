"""Make the pictures of the README from a run directory with a report: `python scripts/screenshots.py runs/demo docs/images`.

It needs Chromium with chromedriver and the package selenium.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from us_anomaly.data.images import read_image, read_mask
from us_anomaly.data.sample import NORMAL_TYPE, Sample, parse_labels
from us_anomaly.reporting.panel import CAPTION_PX, panel
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, write_bytes
from us_anomaly.scoring.scored_images import parse_predictions

WIDTH, HEIGHT = 1240, 860
MAX_BYTES = 300_000
MAX_PIXELS = 1_000_000_000
PART_PX = 150
NUM_TYPES = 3
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    f"--window-size={WIDTH},{HEIGHT}",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    run_dir = RunDir(arguments.run_dir)
    with chromium() as browser:
        write_picture(
            arguments.target / "report_evaluation.png", screenshot(browser, run_dir, "evaluation.html", "light")
        )
        write_picture(arguments.target / "report_overview.png", screenshot(browser, run_dir, "index.html", "dark"))
    write_picture(arguments.target / "heatmaps.png", heatmap_panel(run_dir))


@contextmanager
def chromium() -> Iterator[Any]:
    """Open a headless Chromium with an empty profile."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        sys.exit("there is no Chromium with chromedriver: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield browser
        finally:
            browser.quit()


def screenshot(browser: Any, run_dir: RunDir, page: str, theme: str) -> Image.Image:
    """Return what the first screen of a page shows."""
    metrics = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get((run_dir.report / page).resolve().as_uri())
    while not browser.execute_script("return [...document.images].every(picture => picture.complete)"):
        time.sleep(0.1)
    time.sleep(0.3)
    return Image.open(BytesIO(browser.get_screenshot_as_png())).convert("RGB")


def heatmap_panel(run_dir: RunDir) -> Image.Image:
    """Return image, heatmap, uncertainty and truth: the highest scores of some defect types, then of the normal images."""
    samples = {sample.filename: sample for sample in parse_labels(run_dir.split.read_text(encoding="utf-8"))}
    root = Path(read_json(run_dir.provenance(run_dir.split))["settings"]["data.root"])
    rows = []
    for result in highest_of_each_type(run_dir, samples):
        sample = samples[result["filename"]]
        image = read_image(root / sample.filename, max_pixels=MAX_PIXELS)
        mask = None if sample.mask_path is None else read_mask(root / sample.mask_path, max_pixels=MAX_PIXELS)
        picture = panel(
            scaled(image),
            heatmap=scaled(rgba(run_dir, result, "heatmap_path")),
            uncertainty=scaled(rgba(run_dir, result, "uncertainty_path")),
            mask=scaled(mask if mask is not None else np.zeros(image.shape[:2], dtype=bool)),
        )
        rows.append(picture)
    return below_each_other(rows)


def highest_of_each_type(run_dir: RunDir, samples: dict[str, Sample]) -> list[dict[str, Any]]:
    best: dict[str, dict[str, Any]] = {}
    results = parse_predictions(run_dir.predictions.read_text(encoding="utf-8"))
    for result in sorted(results, key=lambda result: -float(result["prediction"]["anomaly_score"])):
        best.setdefault(samples[result["filename"]].defect_type, result)
    normal = best.pop(NORMAL_TYPE, None)
    return [*list(best.values())[:NUM_TYPES], *([normal] if normal else [])]


def rgba(run_dir: RunDir, result: dict[str, Any], key: str) -> np.ndarray:
    with Image.open(run_dir.root / result["prediction"][key]) as picture:
        return np.asarray(picture.convert("RGBA"))


def scaled(pixels: np.ndarray) -> np.ndarray:
    """Return a picture or mask whose longest side is `PART_PX`."""
    factor = PART_PX / max(pixels.shape[:2])
    size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
    if pixels.dtype == bool:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def below_each_other(rows: list[Image.Image]) -> Image.Image:
    """Return the rows as one picture; only the first keeps its captions."""
    cut = [rows[0], *(row.crop((0, CAPTION_PX, row.width, row.height)) for row in rows[1:])]
    sheet = Image.new("RGB", (max(row.width for row in cut), sum(row.height for row in cut)), rows[0].getpixel((0, 0)))
    top = 0
    for row in cut:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG of less than `MAX_BYTES`: in full colour if it fits, else with 256 colours, else smaller."""
    for candidate in candidates(picture):
        buffer = BytesIO()
        candidate.save(buffer, format="PNG", optimize=True)
        if buffer.tell() < MAX_BYTES:
            break
    write_bytes(path, buffer.getvalue())
    print(f"{path}: {candidate.width}x{candidate.height}, {buffer.tell() / 1000:.0f} kB")


def candidates(picture: Image.Image) -> Iterator[Image.Image]:
    yield picture
    for scale in (1.0, 0.85, 0.7, 0.55, 0.4):
        size = round(picture.width * scale), round(picture.height * scale)
        smaller = picture.resize(size, Image.Resampling.LANCZOS) if scale < 1 else picture
        yield smaller.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2)  # rare colours count as well


if __name__ == "__main__":
    main()
