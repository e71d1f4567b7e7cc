"""The plans of a member of a model folder, as stock nnU-Net reads them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.trained.nnunet_folder import ModelFolder
from monai_prox.trained.nnunet_plans import member_configuration

EXPORTED = "-prox-"  # in the names of exported plans


def member_plans(model: ModelFolder, supernet: SuperNet, name: str, subnet: Subnet) -> dict[str, Any]:
    """The plans file of a member of ``supernet``, one of ``model``'s, under a name of its own."""
    plans = deepcopy(model.plans)
    plans["plans_name"] = f"{plans['plans_name']}{EXPORTED}{name}"
    configuration = model.configuration_name
    plans["configurations"] = {
        configuration: member_configuration(
            model.configuration,
            supernet.family,
            subnet,
            data_identifier=f"{plans['plans_name']}_{configuration}",
        )
    }
    return plans
