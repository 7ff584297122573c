"""The detector as one function of tensors, which `usad export` records for programs without torch.

It takes the same way as `Detector`, by the same functions. Where one of these looks at numbers, or needs what ONNX does not
know (a solver, a median), it has a second form for `torch.onnx.is_in_onnx_export()`, right beside the first.

Shapes: h w pixels of the network's input.
"""

import torch
from torch import Tensor, nn

from us_anomaly.data.augmentation import Pipeline
from us_anomaly.detector import Detector
from us_anomaly.errors import DataError, SettingsError
from us_anomaly.scoring.anomaly_map import combine, image_score_tensor

INPUT = "image"
OUTPUTS = ("anomaly_score", "normalized_score", "is_anomalous", "anomaly_map", "uncertainty_map")
MAX_ROUNDING = 1e-5
"""Most by which scaling and shifting may miss what the end of the transform list gives."""


class DetectorGraph(nn.Module):
    """Turn a picture of bytes into maps, score and decision."""

    scale: Tensor
    shift: Tensor

    def __init__(self, detector: Detector) -> None:
        """Take over a calibrated detector that computes on the processor in float32.

        Raises:
            MissingArtifactError: It is not calibrated.
            SettingsError: The end of its transform list does more than scale and shift each channel.
        """
        super().__init__()
        self._detector = detector
        self._calibration = detector.require_calibration()
        self.networks = nn.ModuleList(
            network for model in detector.scales.values() for network in (model.teacher, model.ensemble)
        )
        scale, shift = _scale_and_shift(detector.pipeline)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return what `OUTPUTS` names, each with a first dimension of one.

        Args:
            image: (1, 3, h, w) uint8, RGB, what the head of the transform list makes of a picture.
        """
        detector = self._detector
        maps = {}
        for size, model in detector.scales.items():
            raw = model.raw_maps(image[0], scoring=detector.scoring, compute=detector.compute, finish=self._finish)
            maps[size] = raw if model.positions is None else model.positions.relate(raw)
        anomaly_map, uncertainty = combine(maps, statistics=self._calibration.statistics, settings=detector.scoring)
        score = image_score_tensor(anomaly_map, settings=detector.scoring)
        above = score - self._calibration.image_threshold
        normalized = 0.5 + 0.5 * torch.tanh(0.5 * above / self._calibration.score_scale)
        return score[None], normalized[None], (above >= 0)[None], anomaly_map[None], uncertainty[None]

    def _finish(self, part: Tensor) -> Tensor:
        """Return the networks' input for a part of a picture of bytes."""
        return part.to(torch.float32) * self.scale + self.shift


def _scale_and_shift(pipeline: Pipeline) -> tuple[Tensor, Tensor]:
    """Return the factors (3, 1, 1) and summands by which bytes become what the transform list ends with.

    Raises:
        SettingsError: It does something else.
    """
    refusal = SettingsError(
        "`augmentation.evaluation` must end with transforms that scale and shift each channel (ToDtype, Normalize), which is all "
        "that an exported detector can do: move others before ToDtype"
    )
    coloured = torch.arange(3 * 32 * 32).mul(193).remainder(251).reshape(3, 32, 32).to(torch.uint8)
    every_byte = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, 16, 16).contiguous()
    try:
        values, others = pipeline.suffix(every_byte), pipeline.suffix(coloured)
    except DataError as error:
        raise refusal from error
    if values.shape != every_byte.shape or others.shape != coloured.shape:
        raise refusal
    shift = values[:, :1, :1]
    scale = (values[:, -1:, -1:] - shift) / 255
    for given, wanted in ((every_byte, values), (coloured, others)):
        if not torch.allclose(given * scale + shift, wanted, rtol=0, atol=MAX_ROUNDING):
            raise refusal
    return scale, shift
