"""A stock network of which a part is open: it computes, saves and loads that part, and is stock where nothing is closed."""

import copy
import json
from typing import Any

import pytest
import torch
from helpers.architectures import KINDS, batch, randomise_norms, unet_family
from torch import Tensor

from monai_prox.core.supernet import SuperNet
from monai_prox.errors import ProXError
from monai_prox.trained.open_part import ENTRY, OpenPart

CLOSED = {"levels": 1, "kernel": 1, "width": 2, "resolution": 1}


def network_of(kind: str = KINDS[0], *, seed: int = 0) -> tuple[SuperNet, OpenPart]:
    torch.manual_seed(seed)
    family = unet_family(kind, features=(4, 8, 12), patch=(32, 32))
    network = randomise_norms(family.build(family.space.largest()))
    network.decoder.deep_supervision = False
    supernet = SuperNet(family, network)
    return supernet, OpenPart(supernet)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("deep_supervision", [False, True], ids=["plain", "deep supervision"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_the_largest_open_member_does(kind: str, deep_supervision: bool) -> None:
    supernet, part = network_of(kind)
    network, (x, _) = supernet.network, batch(0, patch=(32, 32))
    network.decoder.deep_supervision = deep_supervision
    whole = network(x)
    for closed in (CLOSED, {"decoder_depth": 1}, CLOSED | {"depth": 1}):
        part.close(closed)
        member = supernet.member(supernet.family.space.narrow(closed).largest())
        assert equal(network(x), member(x)) and not equal(network(x)[0], whole[0])
    part.close({})
    assert equal(network(x), whole)


def test_it_is_in_the_network_s_own_mode() -> None:
    torch.manual_seed(0)
    family = unet_family(dropout=0.5)
    network = family.build(family.space.largest())
    OpenPart(SuperNet(family, network)).close({"kernel": 1})
    x, _ = batch(0)
    assert equal(network.eval()(x), network(x)) and not equal(network.train()(x), network(x))


def test_gradients_reach_the_open_part_alone() -> None:
    supernet, part = network_of()
    part.close({"kernel": 1})
    supernet.network(batch(0, patch=(32, 32))[0]).square().mean().backward()
    gradient = supernet.network.encoder.stages[0][0].convs[0].conv.weight.grad
    assert gradient[:, :, 1:-1, 1:-1].any() and not gradient[:, :, 0].any() and not gradient[:, :, :, -1].any()


def test_where_nothing_is_closed_everything_is_stock() -> None:
    supernet, part = network_of()
    stock = supernet.family.build(supernet.family.space.largest())
    for _ in range(2):
        assert list(supernet.network.state_dict()) == list(stock.state_dict())
        assert supernet.network.forward.__func__ is type(stock).forward
        part.close(CLOSED)  # and opened again
        part.close({})
    stock.load_state_dict(supernet.network.state_dict())


def test_weights_say_what_is_open_and_are_asked() -> None:
    (supernet, part), (other, of_other) = network_of(), network_of(seed=1)
    x, _ = batch(0, patch=(32, 32))
    part.close(CLOSED)
    weights = supernet.network.state_dict()
    assert weights[ENTRY].dtype == torch.uint8 and json.loads(bytes(weights[ENTRY].tolist())) == CLOSED
    before = list(weights)
    other.network.load_state_dict(weights)
    assert of_other.closed == CLOSED and equal(other.network(x), supernet.network(x))
    assert list(weights) == before  # what was loaded is not changed
    del weights[ENTRY]  # as of a fold that has closed nothing
    other.network.load_state_dict(weights)
    part.close({})
    assert of_other.closed == {} and equal(other.network(x), supernet.network(x))


def test_a_network_within_another_says_so_too() -> None:
    supernet, part = network_of()
    part.close(CLOSED)
    weights = supernet.state_dict()
    assert f"network.{ENTRY}" in weights
    other, of_other = network_of(seed=1)
    other.load_state_dict(weights)
    assert of_other.closed == CLOSED


def test_a_copy_is_a_network_of_its_own() -> None:
    supernet, part = network_of()
    part.close(CLOSED)
    x, _ = batch(0, patch=(32, 32))
    twin, expected = copy.deepcopy(supernet.network), supernet.network(x)
    part.close({})
    with torch.no_grad():
        for parameter in supernet.network.parameters():
            parameter.zero_()
    assert equal(twin(x), expected) and ENTRY in twin.state_dict()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (b"{", f"entry '{ENTRY}' does not say what is closed"),
        (b"\xff", f"entry '{ENTRY}' does not say what is closed"),
        (b"[1]", f"entry '{ENTRY}' does not say what is closed"),
        (b'{"breadth": 1}', "there is no dimension 'breadth'"),
        (b'{"kernel": 3}', "of kernel, 1 to 2 choices can remain open, got 3"),
    ],
)
def test_an_entry_that_says_nothing_is_refused(entry: bytes, message: str) -> None:
    supernet, _ = network_of()
    weights = supernet.network.state_dict() | {ENTRY: torch.tensor(list(entry), dtype=torch.uint8)}
    with pytest.raises(ProXError, match=message):
        supernet.network.load_state_dict(weights)
    with pytest.raises(ProXError, match="does not say what is closed"):
        supernet.network.load_state_dict(weights | {ENTRY: torch.zeros(2)})
