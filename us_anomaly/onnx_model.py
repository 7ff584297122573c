"""A detector as an ONNX file: written by torch, run by onnxruntime, which needs no torch.

Shapes: h w pixels of the network's input.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from us_anomaly.errors import ArtifactError, SettingsError
from us_anomaly.graph import INPUT, OUTPUTS, DetectorGraph
from us_anomaly.run_dir.faults import in_one_line
from us_anomaly.scoring.map_components import ONNX_SOLVER

METADATA = "us_anomaly"
"""Key of the metadata of the file under which a JSON text says what the numbers mean."""


_SOLVER = """
<domain: "{domain}", opset_import: ["" : {opset}]>
{name} (matrix, right) => (solution) {{
  one = Constant <value = int64[1] {{1}}> ()
  right_column = Unsqueeze (right, one)
  joined = Concat <axis = 1> (matrix, right_column)
  units = EyeLike (matrix)
  size = Shape (right)
  count = Squeeze (size)
  start = Constant <value = bool {{1}}> ()
  solved = Loop (count, start, joined) <body = eliminate (int64 number, bool go_on, rows) => (goes_on, less) {{
    goes_on = Identity (go_on)
    row = Gather <axis = 0> (rows, number)
    column = Gather <axis = 1> (rows, number)
    pivot = Gather <axis = 0> (column, number)
    unit = Gather <axis = 1> (units, number)
    pivot_row = Div (row, pivot)
    factors = Sub (column, unit)
    factors_column = Unsqueeze (factors, one)
    product = Mul (factors_column, pivot_row)
    less = Sub (rows, product)
  }}>
  solution = Gather <axis = 1> (solved, count)
}}
"""
"""Gauss-Jordan elimination, which positive definite matrices need no exchange of rows for."""


def require_packages() -> None:
    """Refuse at once where a package is missing that is needed in the end.

    Raises:
        SettingsError: One is not installed, or torch is too old.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        from torch.onnx.ops import symbolic  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"`usad export` needs a package that is not installed, or a newer one ({error}): pip install 'us-anomaly[export]'"
        ) from error


def to_onnx(graph: DetectorGraph, *, height: int, width: int, metadata: Mapping[str, Any]) -> bytes:
    """Return a detector for pictures of one size as the content of an ONNX file.

    Args:
        graph: The detector.
        height: Rows h of the network's input.
        width: Columns w.
        metadata: Goes into the file as JSON.

    Raises:
        ArtifactError: torch cannot record it.
    """
    example = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    model = recorded(graph, example, inputs=[INPUT], outputs=OUTPUTS)
    text = json.dumps(metadata, ensure_ascii=False, allow_nan=False)
    model.metadata_props.add(key=METADATA, value=text)
    content: bytes = model.SerializeToString()
    return content


def recorded(module: nn.Module, *examples: Tensor, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """Return what a module computes of tensors as an `onnx.ModelProto`.

    Args:
        module: Its tensors are those of the file.
        examples: Inputs of the type and shape that it is for.
        inputs: Their names.
        outputs: Names of what it returns.

    Raises:
        ArtifactError: torch cannot record it.
    """
    import onnx.inliner
    import onnx.parser

    with _quiet():
        try:
            program = torch.onnx.export(
                module.eval(),
                examples,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ArtifactError(
                f"torch {torch.__version__} cannot record this detector: {in_one_line(error)}"
            ) from error
    assert program is not None
    model = program.model_proto
    domain, _, name = ONNX_SOLVER.partition("::")
    if any(node.domain == domain for node in model.graph.node):
        opset = next(entry.version for entry in model.opset_import if entry.domain == "")
        model.functions.append(onnx.parser.parse_function(_SOLVER.format(domain=domain, name=name, opset=opset)))
        model = onnx.inliner.inline_local_functions(model)  # OpenVINO knows no functions
    for node in model.graph.node:  # where and by which lines it was recorded is nobody's business
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch and its writers say about their own work to themselves: thousands of lines."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What an exported detector says about one picture."""

    anomaly_score: float
    normalized_score: float
    is_anomalous: bool
    anomaly_map: npt.NDArray[np.float32]
    """(h, w)."""
    uncertainty_map: npt.NDArray[np.float32]
    """(h, w)."""


class OnnxDetector:
    """Run an exported detector as any program would: by onnxruntime, on the processor."""

    def __init__(self, content: bytes, *, num_threads: int) -> None:
        """Open the content of a file.

        Raises:
            ArtifactError: onnxruntime cannot run it.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class
            raise _cannot_run(error) from error

    def predict(self, prepared: npt.NDArray[np.uint8]) -> Answer:
        """Return the answer for one picture of the network's size, (3, h, w) RGB.

        Raises:
            ArtifactError: onnxruntime cannot run the file.
        """
        try:
            answers = self._session.run(list(OUTPUTS), {INPUT: prepared[None]})
        except Exception as error:
            raise _cannot_run(error) from error
        score, normalized, decision, anomaly_map, uncertainty_map = answers
        return Answer(
            anomaly_score=float(score[0]),
            normalized_score=float(normalized[0]),
            is_anomalous=bool(decision[0]),
            anomaly_map=anomaly_map[0],
            uncertainty_map=uncertainty_map[0],
        )


def _cannot_run(error: Exception) -> ArtifactError:
    return ArtifactError(f"onnxruntime cannot run the exported detector: {in_one_line(error)}")
