import pytest

from us_anomaly.data import bands as module
from us_anomaly.data.bands import bands


@pytest.mark.parametrize("at_once", [1, 7, 40, 1000])
@pytest.mark.parametrize("multiple", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(10, 4), (1, 9), (12, 1), (5, 0)])
def test_bands_hold_every_row_once_and_no_more_pixels_than_need_be(monkeypatch, at_once, multiple, height, width):
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", at_once)
    found = list(bands(height, width, multiple=multiple))
    assert [row for band in found for row in range(band.start, band.stop)] == list(range(height))
    assert all((band.stop - band.start) % multiple == 0 for band in found[:-1])
    assert all((band.stop - band.start - multiple) * width < max(at_once, 1) for band in found)
