"""`usad infer` from the files of pictures to written heatmaps, and the metrics of maps."""

import contextlib
import dataclasses
import io
import tempfile
from pathlib import Path

import numpy as np
from benchmark_pixel_metrics import drawn, figures
from composed_settings import composed
from PIL import Image

from benchmarks.drawn_backbone import drawn_resnet18
from benchmarks.measure import Plan, Row, timed
from us_anomaly.commands import infer
from us_anomaly.commands.run import STAGES
from us_anomaly.scoring.exact_pixels import count_exactly
from us_anomaly.scoring.region_overlap import PixelItem, PixelTruth
from us_anomaly.scoring.streaming_pixels import count_streaming
from us_anomaly.settings import Settings

NUM_TRAINED = 6
FILE_SIDE_PX = 700


def inference(plan: Plan) -> Row:
    """Time `usad infer` on a folder with the default settings: decode, resize, score, write maps, heatmaps and panels."""
    num_pictures = 2 if plan.quick else 24
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        _draw(folder / "data" / "images" / "good", NUM_TRAINED, plan)
        _draw(folder / "new", num_pictures, plan)
        settings = _settings(folder, plan)
        for stage, run in STAGES:
            if stage not in ("infer", "evaluate", "report"):
                run(settings)
        what = dataclasses.replace(settings.inference, input=str(folder / "new"))
        settings = dataclasses.replace(settings, inference=what)

        compute = plan.compute()
        row = timed("", lambda: infer.run(settings), plan=plan, compute=compute, flops=False)
    side, detector = 64 if plan.quick else FILE_SIDE_PX, settings.teacher
    row.note = (
        f"{num_pictures / row.seconds:.2f} pictures/s ({num_pictures} files of {side} px, stride {settings.scoring.stride_px}, "
        f"width {detector.width:g}, p={settings.scales}, d={detector.descriptor_dim})"
    )
    return row


def _settings(folder: Path, plan: Plan) -> Settings:
    return composed(
        f"run_dir={folder / 'run'}",
        "data=folder",
        f"data.root={folder / 'data'}",
        f"image_size={64 if plan.quick else plan.side_px}",
        f"backbone.weights={drawn_resnet18(folder)}",
        "teacher.checkpoint=null",
        "teacher.images=train",
        "teacher.positions=patches",
        "teacher.steps=1",
        "teacher.batch_size=2",
        "teacher.min_explained_variance=-1",
        "students.steps=1",
        f"runtime.num_threads={plan.threads}",
        "runtime.progress=false",
        "runtime.log_level=error",
        *(("teacher.width=0.1", "teacher.descriptor_dim=16") if plan.quick else ()),
    )


def _draw(folder: Path, count: int, plan: Plan) -> None:
    """Draw pictures of smooth noise, which compress about as well as photographs."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(count)
    side = 64 if plan.quick else FILE_SIDE_PX
    for number in range(count):
        coarse = Image.fromarray(generator.integers(60, 196, size=(side // 8, side // 8, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:03}.png")


def metrics(plan: Plan, algorithm: str) -> Row:
    """Time all pixel figures of drawn maps."""
    num_maps, side = (4, 64) if plan.quick else (500, 256)
    maps, masks = drawn(num_maps, side)
    items = [PixelItem(one, PixelTruth(mask), "all") for one, mask in zip(maps, masks, strict=True)]
    count = {"exact": count_exactly, "streaming": count_streaming}[algorithm]
    row = timed("", lambda: figures(count, items), plan=plan, compute=plan.compute(), flops=False)
    row.note = f"{num_maps} maps of {side}x{side}"
    return row
