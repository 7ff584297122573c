"""What an exported detector computes in a form of its own agrees with the form that the detector takes."""

import numpy as np
import pytest
import torch
from scoring.test_map_components import normal_logs

from us_anomaly.onnx_model import recorded
from us_anomaly.scoring.map_components import find_components
from us_anomaly.scoring.picture_level import PictureLevel

pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")


class OfOneTensor(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, values):
        return self.function(values)


def by_onnx(function, example):
    """Return a function of a tensor as onnxruntime computes it."""
    model = recorded(OfOneTensor(function), example, inputs=["values"], outputs=["result"])
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda values: session.run(None, {"values": values.numpy()})[0]


def test_components_explain_the_same(monkeypatch):
    components = find_components(normal_logs(), max_components=3)
    assert len(components.directions) > 1
    explained = by_onnx(components.explained, normal_logs(1)[0])
    for number, logs in enumerate(normal_logs(3, seed=1)):
        logs[2 : 3 + number, 3:9] += 2.0  # a defect, which the robust fit must doubt
        np.testing.assert_allclose(explained(logs), components.explained(logs).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("low", [-2.0, -0.1])
def test_levels_are_evened_out_the_same(low):
    level = PictureLevel(typical=0.0, low=low, high=0.5, slope=0.7)
    values = torch.rand(12, 17, generator=torch.Generator().manual_seed(0)) + 0.01
    even_out = by_onnx(level.even_out, values)
    for factor in (0.2, 1.0, 5.0):
        np.testing.assert_allclose(even_out(values * factor), level.even_out(values * factor).numpy(), rtol=1e-5)
