"""Statistics of batch norms."""

import pytest
import torch
from helpers import mobilenet_engines
from torch import Tensor, nn

from monai_prox.training.calibrate import calibrate
from monai_prox.training.calibrated_members import CalibratedMembers


def network_of() -> nn.Sequential:
    torch.manual_seed(0)
    first, last = nn.BatchNorm2d(4, momentum=0.3), nn.BatchNorm2d(3)
    return nn.Sequential(nn.Conv2d(2, 4, 3), first, nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 3, 3), last)


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 2, 9, 9, generator=torch.Generator().manual_seed(1)) * 3 + 1


def test_statistics_are_those_of_the_images_layer_by_layer() -> None:
    network, x = network_of(), images()
    assert calibrate(network, x) is network
    seen = network[0](x)
    torch.testing.assert_close(network[1].running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(network[1].running_var, seen.var((0, 2, 3)))
    normed = network.train()[:3](x)  # by its own batch, and no dropout
    seen = network[4](normed)
    torch.testing.assert_close(network[5].running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(network[5].running_var, seen.var((0, 2, 3)))


def test_the_order_of_images_and_what_was_before_do_not_matter() -> None:
    one, other = network_of(), network_of()
    for norm in (other[1], other[5]):
        norm.running_mean.fill_(torch.nan)  # of a batch that was not finite
        norm.running_var.fill_(0.1)
    calibrate(one, images())
    calibrate(other, images().flip(0))
    for norms in ((one[1], other[1]), (one[5], other[5])):
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(*(getattr(norm, name) for norm in norms))


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_changes(training: bool) -> None:
    network = network_of().train(training)
    network[3].train(not training)
    modes = [layer.training for layer in network]
    weights = [p.detach().clone() for p in network.parameters()]
    calibrate(network, images())
    assert [layer.training for layer in network] == modes
    assert (network[1].momentum, network[5].momentum) == (0.3, 0.1)
    assert all(map(torch.equal, weights, network.parameters())) and all(p.grad is None for p in network.parameters())


def test_images_may_pass_another_way() -> None:
    network, x = network_of(), images()
    calibrate(network, x, lambda images: network(images[:, :, ::2, ::2]))
    torch.testing.assert_close(network[1].running_mean, network[0](x[:, :, ::2, ::2]).mean((0, 2, 3)))


def test_a_failure_leaves_modes_as_they_were() -> None:
    network = network_of().eval()
    with pytest.raises(RuntimeError):
        calibrate(network, torch.zeros(1, 5, 9, 9))
    assert not any(layer.training for layer in network.modules()) and network[1].momentum == 0.3


def test_networks_without_running_statistics_are_not_run() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False))
    assert calibrate(network, torch.zeros(1, 99, 9, 9)) is network  # whose channels would not fit


def test_members_have_the_statistics_of_images_from_all_of_the_data() -> None:
    """Of every second of six, for three: the member extracted, and with full resolution around it."""
    supernet, data = mobilenet_engines.engine_of("prox").supernet, mobilenet_engines.images(0)
    family, subnet = supernet.family, supernet.family.space.smallest()
    assert subnet["resolution"][0] < 64
    members = CalibratedMembers(supernet, [{"image": image} for image in data], lambda item: item, count=3)
    expected = supernet.extract(subnet)
    calibrate(expected, data[::2], lambda x: family.run(expected, x, subnet))
    for found in (members.extract(subnet), members.member(subnet).network):
        for name, buffer in expected.named_buffers():
            torch.testing.assert_close(found.get_buffer(name), buffer)
