"""The CapsNet of Sabour et al. as others published it: the same graph, other numbers.

References: Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", 2017; the CapsNet shipped with
``EscVM/Efficient-CapsNet``; ``matthiasware/EfficientCN``; ``ethanleet/CapsNet``; Costa et al., "Shifting Capsule
Networks from the Cloud to the Deep Edge" (Q7-CapsNets), 2021.
"""

from __future__ import annotations

from dataclasses import replace

from qcaps.models.shallow_capsnet import ShallowCapsNetSpec
from qcaps.models.spec import Preset

_SABOUR = ShallowCapsNetSpec(
    primary_bias="conv", squash="hinton", squash_eps=1e-7, initial_values="sabour", mask_layout="zeros"
)
SABOUR = Preset(_SABOUR, any_size=True)

# The primary layer of the code that Sabour et al. released, with its bias and its factor.
TF_ORIGINAL = Preset(
    replace(_SABOUR, primary_bias="routed", reshape_order="hw_type", initial_values="keras"), any_size=True
)

# Its setting "3" counts updates of the logits, which makes four passes.
EFFICIENTCN = Preset(
    replace(_SABOUR, routing_passes=4, routing_bias="none", prior_logits=True, initial_values="efficientcn"),
    any_size=True,
)

# Eight separate convolutions make the eight dimensions; see the reshape order.
ETHANLEET = Preset(
    replace(
        _SABOUR,
        squash="hinton_sqrt",
        squash_eps=1e-16,
        reshape_order="stacked_raw",
        initial_values="ethanleet",
    ),
    any_size=True,
)

_Q7 = ShallowCapsNetSpec(
    conv_channels=(16,),
    conv_kernels=(7,),
    primary_types=16,
    primary_dim=4,
    primary_kernel=7,
    primary_bias="conv",
    reshape_order="hw_type",
    class_dim=6,
    routing_bias="none",
    initial_values="keras",
    mask_layout="zeros",
)
Q7_MNIST = Preset(_Q7)
Q7_SMALLNORB = Preset(replace(_Q7, channels=2, height=32, width=32, classes=5, conv_channels=(32,)))
Q7_CIFAR10 = Preset(
    replace(
        _Q7,
        channels=3,
        height=32,
        width=32,
        conv_channels=(32, 32, 64, 64),
        conv_kernels=(3, 3, 3, 3),
        conv_strides=(1, 1, 2, 2),
        primary_kernel=3,
        class_dim=5,
    )
)
