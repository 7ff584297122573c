"""Agreement with the package adeval, where it is installed: pip install adeval opencv-python-headless."""

import numpy as np
import pytest
from scipy import ndimage

from us_anomaly.scoring.exact_pixels import count_exactly
from us_anomaly.scoring.pixel_curve import pixel_figures
from us_anomaly.scoring.region_overlap import PixelItem, PixelTruth
from us_anomaly.scoring.streaming_pixels import count_streaming

pytest.importorskip("cv2")
mem_effic = pytest.importorskip("adeval.mem_effic")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_figures_agree_with_adeval_at_its_finest(monkeypatch):
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # adeval 1.1 calls a name that NumPy 2.4 dropped
    generator = np.random.default_rng(0)
    masks = ndimage.gaussian_filter(generator.normal(size=(8, 64, 64)), (0, 4, 4)) > 0.1
    maps = ndimage.gaussian_filter(generator.normal(size=masks.shape), (0, 2, 2)) * 5 + masks
    maps = maps.astype(np.float32)
    auroc, _, aupro = mem_effic.auroc_aupr_aupro(maps, masks.astype(np.uint8), nstrips=100_000)
    items = [PixelItem(one, PixelTruth(mask), "all") for one, mask in zip(maps, masks, strict=True)]
    for count in (count_exactly, count_streaming):
        values = pixel_figures(count(items).curve(), saturated=False).values
        assert values["pixel_auroc"] == pytest.approx(auroc, abs=1e-5)
        assert values["aupro_0.3"] == pytest.approx(aupro, abs=1e-5)
