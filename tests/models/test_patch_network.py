import pytest
import torch

from us_anomaly.errors import SettingsError
from us_anomaly.models.dense import dense_descriptors
from us_anomaly.models.patch_network import LEAKY_SLOPE, PatchNetwork, at_reduced_resolution
from us_anomaly.models.windows import reflect_pad

# REFERENCE: p -> (side, channels) after each layer, d = 512
TABLE = {
    17: [(12, 128), (8, 256), (4, 256), (1, 512)],
    33: [(29, 128), (14, 128), (10, 256), (5, 256), (4, 256), (1, 512)],
    65: [(61, 128), (30, 128), (26, 128), (13, 128), (9, 256), (4, 256), (1, 256), (1, 512)],
}
# (kernel, channels in, channels out) of each convolution, d = 512
CONVOLUTIONS = {
    17: [(6, 3, 128), (5, 128, 256), (5, 256, 256), (4, 256, 512)],
    33: [(5, 3, 128), (5, 128, 256), (2, 256, 256), (4, 256, 512)],
    65: [(5, 3, 128), (5, 128, 128), (5, 128, 256), (4, 256, 256), (1, 256, 512)],
}


@pytest.mark.parametrize("patch_size", TABLE)
def test_every_layer_has_the_side_and_channels_of_the_published_table(patch_size):
    network = PatchNetwork(patch_size, descriptor_dim=512)
    features = torch.zeros(1, 3, patch_size, patch_size)
    shapes = []
    with torch.inference_mode():
        for index in range(len(network.layers)):
            features = network.apply_layer(index, features)
            assert features.shape[2] == features.shape[3]
            shapes.append((features.shape[2], features.shape[1]))
    assert shapes == TABLE[patch_size]


@pytest.mark.parametrize("patch_size", CONVOLUTIONS)
def test_the_number_of_parameters_is_that_of_the_convolutions_counted_by_hand(patch_size):
    by_hand = sum(kernel**2 * inputs * outputs + outputs for kernel, inputs, outputs in CONVOLUTIONS[patch_size])
    network = PatchNetwork(patch_size, descriptor_dim=512)
    assert sum(parameter.numel() for parameter in network.parameters()) == by_hand


@pytest.mark.parametrize("patch_size", TABLE)
def test_forward_is_convolutions_leaky_relu_and_pooling_without_activation_at_the_end(patch_size):
    network = PatchNetwork(patch_size, descriptor_dim=12, width=0.1)
    plain = torch.nn.Sequential()
    for layer in network.layers:
        plain.append(layer)
        if isinstance(layer, torch.nn.Conv2d):
            plain.append(torch.nn.LeakyReLU(5e-3))
    del plain[-1]
    patches = torch.randn(3, 3, patch_size, patch_size)
    with torch.inference_mode():
        torch.testing.assert_close(network(patches), plain(patches).flatten(1))
    assert LEAKY_SLOPE == 5e-3


def test_width_multiplies_hidden_channels_in_steps_of_eight_and_leaves_the_descriptor():
    network = PatchNetwork(33, descriptor_dim=10, width=0.1)  # 12.8 and 25.6 channels
    channels = [layer.out_channels for layer in network.layers if isinstance(layer, torch.nn.Conv2d)]
    assert channels == [16, 24, 24, 10]
    narrowest = PatchNetwork(33, descriptor_dim=10, width=0.01)
    assert [layer.out_channels for layer in narrowest.layers if isinstance(layer, torch.nn.Conv2d)] == [8, 8, 8, 10]


@pytest.mark.parametrize("patch_size", TABLE)
def test_initial_weights_keep_the_size_of_the_signal(patch_size):
    torch.manual_seed(0)
    network = PatchNetwork(patch_size, descriptor_dim=256, width=0.5)
    with torch.inference_mode():
        descriptors = network(torch.randn(16, 3, patch_size, patch_size))
    assert 0.3 < descriptors.std() < 6


def test_a_patch_size_without_architecture_is_refused_with_those_that_have_one():
    with pytest.raises(
        SettingsError, match=r"there is no patch network for 32 pixels: choose from \[17, 33, 65, 66, 132\]"
    ):
        PatchNetwork(32, descriptor_dim=8)


@pytest.mark.parametrize(("patch_size", "factor"), [(66, 2), (132, 4)])
def test_a_reduced_network_is_the_small_one_on_the_mean_of_pixels(patch_size, factor):
    torch.manual_seed(0)
    small = PatchNetwork(33, descriptor_dim=16, width=0.25)
    patches = torch.randn(3, 3, patch_size, patch_size)
    means = patches.reshape(3, 3, 33, factor, 33, factor).mean(dim=(3, 5))
    with torch.inference_mode():
        answer = at_reduced_resolution(small, patch_size)(patches)
        torch.testing.assert_close(answer, small(means), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("patch_size", [17, 33, 65])
def test_extra_layers_are_convolutions_of_one_pixel_before_the_descriptor(patch_size):
    def kernels(network):
        convolutions = [layer for layer in network.layers if isinstance(layer, torch.nn.Conv2d)]
        return [(layer.kernel_size[0], layer.out_channels) for layer in convolutions]

    plain = kernels(PatchNetwork(patch_size, descriptor_dim=10, width=0.1))
    deeper = PatchNetwork(patch_size, descriptor_dim=10, width=0.1, extra_layers=2)
    channels = plain[-2][1]
    assert kernels(deeper) == [*plain[:-1], (1, channels), (1, channels), plain[-1]]
    with torch.inference_mode():
        assert deeper(torch.randn(2, 3, patch_size, patch_size)).shape == (2, 10)


@pytest.mark.parametrize("extra_layers", [-1, 9])
def test_a_number_of_extra_layers_that_makes_no_sense_is_refused(extra_layers):
    with pytest.raises(SettingsError, match=rf"`extra_layers` must be between 0 and 8, got {extra_layers}"):
        PatchNetwork(33, descriptor_dim=10, extra_layers=extra_layers)


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("patch_size", [17, 33, 65])
def test_the_dense_form_of_a_deeper_network_equals_it_crop_by_crop(patch_size, stride):
    torch.manual_seed(3)
    network = PatchNetwork(patch_size, descriptor_dim=6, width=0.1, extra_layers=1)
    image, margin = torch.randn(1, 3, 24, 26), patch_size // 2
    with torch.inference_mode():
        dense = dense_descriptors(network, image, stride=stride)
        padded = reflect_pad(image, margin)
        for row, col in ((0, 0), (2, 5), (dense.shape[2] - 1, dense.shape[3] - 1)):
            top, left = stride // 2 + row * stride, stride // 2 + col * stride
            crop = padded[..., top : top + patch_size, left : left + patch_size]
            torch.testing.assert_close(dense[0, :, row, col], network(crop)[0], rtol=1e-4, atol=1e-5)
