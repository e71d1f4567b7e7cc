"""Statistics of batch norms are the same on a GPU as on the CPU."""

import pytest
import torch
from helpers.mobilenet_engines import CHOICES, images

from monai_prox.core.supernet import SuperNet
from monai_prox.families.mobilenet import MobileNetFamily
from monai_prox.training.calibrated_members import CalibratedMembers, statistics_of


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_a_calibrated_member_is_that_of_the_cpu(which: str, device: torch.device) -> None:
    family = MobileNetFamily(input_channels=1, num_classes=3, choices=CHOICES)
    subnet = getattr(family.space, which)()
    torch.manual_seed(0)
    supernet = SuperNet(family)
    data = [{"image": image} for image in images(1, 24)]
    members = []
    for place in (torch.device("cpu"), device):
        member = CalibratedMembers(supernet.to(place), data, dict, count=16).member(subnet).eval()
        with torch.inference_mode():
            members.append({**statistics_of(member.network), "output": member(images(2).to(place)).cpu()})
    assert {buffer.device.type for buffer in member.network.buffers()} == {device.type}
    torch.testing.assert_close(members[1], members[0], rtol=1e-3, atol=1e-4)
