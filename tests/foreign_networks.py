"""The published networks, computed step by step in their own layout: what imported ones are compared with.

Every function takes weights as they lie in a file of its source and gives class capsules ``(batch, classes, dim)``.
Those of Keras take images channels last.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, conv3d, leaky_relu, max_pool2d

from qcaps.models.network import Output

State = dict[str, Tensor]


def squash_ratio(s: Tensor) -> Tensor:
    n = s.norm(dim=-1, keepdim=True)
    return s * n / (1 + n**2)


def squash_keras(s: Tensor) -> Tensor:
    n = s.norm(dim=-1, keepdim=True)
    return n**2 / (1 + n**2) / (n + 1e-7) * s


def squash_root(s: Tensor, eps: float) -> Tensor:
    squared = (s**2).sum(-1, keepdim=True)
    return squared / (1 + squared) * s / torch.sqrt(squared + eps)


def squash_efficient(s: Tensor) -> Tensor:
    n = s.norm(dim=-1, keepdim=True)
    return (1 - 1 / (torch.exp(n) + 1e-20)) * (s / (n + 1e-20))


def routed(
    votes: Tensor,
    squash: Callable[[Tensor], Tensor],
    *,
    bias: Tensor | float = 0.0,
    start: Tensor | float = 0.0,
    passes: int = 3,
    axis: int = 2,
) -> Tensor:
    """Route votes ``(batch, lower, classes, dim)``, softmax over the classes unless another axis is given."""
    logits = torch.zeros(votes.shape[:3]) + start
    for _ in range(passes):
        coupling = torch.softmax(logits, dim=axis)
        capsules = squash((coupling.unsqueeze(3) * votes).sum(1) + bias)
        logits = logits + (votes * capsules.unsqueeze(1)).sum(3)
    return capsules


def q_capsnets_shallow(state: State, images: Tensor) -> Tensor:
    x = conv2d(images, state["conv.conv.weight"], state["conv.conv.bias"]).relu()
    votes = conv2d(x, state["primary.conv3d.weight"], stride=2)
    types, dim = state["primary.bias"].shape[:2]
    votes = votes.view(len(x), 1, types, dim, *votes.shape[2:])
    coupling = torch.full_like(votes[:, :, :, 0], 1 / types)
    s = (coupling.unsqueeze(3) * votes).sum(1) + state["primary.bias"]
    lower = squash_ratio(s.permute(0, 1, 3, 4, 2)).reshape(len(x), -1, dim)
    return _q_capsnets_class(lower, state["digit.weight"], state["digit.bias"])


def q_capsnets_deepcaps(state: State, images: Tensor) -> Tensor:
    x = conv2d(images, state["conv1.conv.weight"], state["conv1.conv.bias"], padding=1).relu()
    x = normed(x, state, "conv1.batchnorm", 1e-3)
    branches = []
    for block, dim in ((1, 4), (2, 8), (3, 8), (4, 8)):
        y = _conv_caps(x, state, f"block{block}.l1", dim, stride=2)
        z = _conv_caps(_conv_caps(y, state, f"block{block}.l2", dim), state, f"block{block}.l3", dim)
        around = _routed_conv_caps(y, state) if block == 4 else _conv_caps(y, state, f"block{block}.l_skip", dim)
        x = z + around
        branches.append(x.view(len(x), -1, dim, *x.shape[2:]).permute(0, 1, 3, 4, 2).reshape(len(x), -1, dim))
    return _q_capsnets_class(torch.cat(branches[2:], 1), state["capsLayer.weight"], state["capsLayer.bias"])


def _q_capsnets_class(lower: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    votes = (lower.unsqueeze(3) * weight).sum(2).view(len(lower), len(weight), *bias.shape)
    return routed(votes, squash_ratio, bias=bias)


def _conv_caps(x: Tensor, state: State, path: str, dim: int, stride: int = 1) -> Tensor:
    maps = conv2d(x, state[f"{path}.conv.weight"], state[f"{path}.conv.bias"], stride, padding=1)
    caps = maps.view(len(x), -1, dim, *maps.shape[2:]).movedim(2, -1)
    return squash_ratio(caps).movedim(-1, 2).reshape(maps.shape)


def _routed_conv_caps(x: Tensor, state: State) -> Tensor:
    bias = state["block4.l_skip.bias"]
    types, dim = bias.shape[:2]
    votes = conv3d(
        x.unsqueeze(1),
        state["block4.l_skip.conv.weight"],
        state["block4.l_skip.conv.bias"],
        stride=(8, 1, 1),
        padding=(0, 1, 1),
    )  # (batch, types · dim, lower types, h, w)
    batch, _, lower, h, w = votes.shape
    votes = votes.permute(0, 2, 1, 3, 4).reshape(batch, lower, types, dim, h, w)
    logits = torch.zeros(batch, lower, types, h, w)
    for _ in range(3):
        coupling = torch.softmax(logits.view(batch, lower, -1), 2).view(logits.shape)
        s = (coupling.unsqueeze(3) * votes).sum(1) + bias
        capsules = squash_ratio(s.movedim(2, -1)).movedim(-1, 2)
        logits = logits + (capsules.unsqueeze(1) * votes).sum(3)
    return capsules.reshape(batch, types * dim, h, w)


def efficientcn(state: State, images: Tensor, strides: tuple[int, ...]) -> Tensor:
    x = images
    for i, stride in enumerate(strides):
        x = conv2d(x, state[f"backbone.layers.{3 * i}.weight"], state[f"backbone.layers.{3 * i}.bias"], stride)
        if "backbone.layers.2.weight" in state:
            x = normed(x.relu(), state, f"backbone.layers.{3 * i + 2}", 1e-5)
        else:
            x = leaky_relu(x, 0.3)
            x = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    primary = state["primcaps.dw_conv2d.weight"]
    # A second step of stride 2 would not fit, so the stride does not matter.
    x = conv2d(x, primary, state["primcaps.dw_conv2d.bias"], stride=2, groups=len(primary))
    lower = squash_efficient(x.view(-1, 16, 8))
    votes = torch.einsum("bij,ikjl->bikl", lower, state["fcncaps.W"])
    agreement = torch.einsum("bikl,bhkl->bhik", votes, votes) / math.sqrt(8)
    coupling = torch.softmax(agreement.sum(1), dim=-1) + state.get("fcncaps.B", 0)
    return squash_efficient(torch.einsum("bikl,bik->bkl", votes, coupling))


def efficientcn_capsnet(state: State, images: Tensor) -> Tensor:
    x = images
    for i in range(sum(name.startswith("backbone") for name in state) // 2):
        x = conv2d(x, state[f"backbone.layers.{2 * i}.weight"], state[f"backbone.layers.{2 * i}.bias"]).relu()
    x = conv2d(x, state["primcaps.conv.weight"], state["primcaps.conv.bias"], stride=2)
    lower = x.view(len(x), -1, 8, *x.shape[2:]).permute(0, 1, 3, 4, 2).reshape(len(x), -1, 8)
    lower = squash_root(lower, 0.0)
    start = state["digitcaps.routing_module.b"]
    votes = (lower.unsqueeze(2) @ state["digitcaps.weights"]).view(len(x), *start.shape, -1)
    return routed(votes, lambda s: squash_root(s, 0.0), start=start, passes=4)


def ethanleet(state: State, images: Tensor) -> Tensor:
    x = conv2d(images, state["conv_layer.conv.0.weight"], state["conv_layer.conv.0.bias"])
    with_norm = "conv_layer.conv.1.weight" in state
    x = (normed(x, state, "conv_layer.conv.1", 1e-5) if with_norm else x).relu()
    outputs = []
    for e in range(8):
        path = f"primary_capsules.capsules.{e}"
        y = conv2d(x, state[f"{path}.0.weight"], state[f"{path}.0.bias"], stride=2)
        outputs.append(normed(y, state, f"{path}.1", 1e-5) if with_norm else y)
    weight = state["digit_caps.W"]
    lower = squash_root(torch.stack(outputs, dim=1).view(len(x), weight.shape[1], -1), 1e-16)
    votes = torch.matmul(weight, lower.unsqueeze(2).unsqueeze(4)).squeeze(4)
    return routed(votes, lambda s: squash_root(s, 1e-16), bias=state["digit_caps.bias"][0])


def resnet50_features(state: State, images: Tensor, *paths: str) -> Tensor:
    conv1, bn1, *layers = paths
    x = normed(conv2d(images, state[f"{conv1}.weight"], stride=2, padding=3), state, bn1, 1e-5).relu()
    x = max_pool2d(x, 3, 2, padding=1)
    for n, (path, blocks) in enumerate(zip(layers, (3, 4, 6, 3), strict=True)):
        for i in range(blocks):
            stride = 2 if n > 0 and i == 0 else 1
            y = x
            for k, (step, padding) in enumerate(((1, 0), (stride, 1), (1, 0)), start=1):
                y = conv2d(y, state[f"{path}.{i}.conv{k}.weight"], stride=step, padding=padding)
                y = normed(y, state, f"{path}.{i}.bn{k}", 1e-5)
                y = y.relu() if k < 3 else y
            if i == 0:
                around = conv2d(x, state[f"{path}.0.downsample.0.weight"], stride=stride)
                x = normed(around, state, f"{path}.0.downsample.1", 1e-5)
            x = (x + y).relu()
    return x


def mobilenetv1_features(state: State, images: Tensor, conv1: str, bn1: str, layers: str, *, stem_relu: bool) -> Tensor:
    x = normed(conv2d(images, state[f"{conv1}.weight"], stride=2, padding=1), state, bn1, 1e-5)
    x = x.relu() if stem_relu else x
    for i, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)):
        depthwise = state[f"{layers}.{i}.conv1.weight"]
        x = conv2d(x, depthwise, stride=stride, padding=1, groups=len(depthwise))
        x = normed(x, state, f"{layers}.{i}.bn1", 1e-5).relu()
        x = normed(conv2d(x, state[f"{layers}.{i}.conv2.weight"]), state, f"{layers}.{i}.bn2", 1e-5).relu()
    return x


def towards_efficient(state: State, images: Tensor, passes: int) -> Tensor:
    if any(name.startswith("resnet50.") for name in state):
        x = resnet50_features(state, images, *(f"resnet50.{i}" for i in (0, 1, 4, 5, 6, 7)))
    else:
        x = mobilenetv1_features(state, images, "mobilenet.0", "mobilenet.1", "mobilenet.2", stem_relu=False)
    x = conv2d(x, state["primaryCaps.caps_poses.weight"], state["primaryCaps.caps_poses.bias"])
    poses = squash_root(x.view(len(x), -1, 8), 1e-6)
    weight = state["classCaps.weight"][:, 0, 0]  # (lower, class, class_dim, dim)
    votes = torch.matmul(weight, poses[:, :, None, :, None]).squeeze(4)
    bias = state["classCaps.routing_bias"].view(weight.shape[1], -1)
    return routed(votes, lambda s: squash_root(s, 1e-6), bias=bias, passes=passes, axis=1)


def normed(x: Tensor, state: State, path: str, eps: float) -> Tensor:
    """Apply a batch norm of PyTorch."""
    mean, var, weight, bias = (state[f"{path}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    return batch_norm(x, mean, var, weight, bias, eps=eps)


# Keras: images and maps are (batch, rows, columns, channels).


def conv_last(x: Tensor, kernel: Tensor, bias: Tensor | float, stride: int = 1, *, depthwise: bool = False) -> Tensor:
    """Convolve without padding, one kernel position after the other."""
    rows, columns = ((size - k) // stride + 1 for size, k in zip(x.shape[1:3], kernel.shape[:2], strict=True))
    out = torch.zeros(len(x), rows, columns, kernel.shape[3]) + bias
    for u in range(kernel.shape[0]):
        for v in range(kernel.shape[1]):
            patch = x[:, u : u + stride * (rows - 1) + 1 : stride, v : v + stride * (columns - 1) + 1 : stride]
            out = out + (patch * kernel[u, v, 0] if depthwise else patch @ kernel[u, v])
    return out


def efficient_keras(encoder: list[Tensor], images: Tensor, strides: tuple[int, ...], primary_stride: int) -> Tensor:
    x = images
    instance = len(encoder) == 20
    for i, stride in enumerate(strides):
        kernel, bias, gamma, beta = encoder[4 * i : 4 * i + 4]
        x = conv_last(x, kernel, bias, stride)
        if instance:
            x = torch.where(x > 0, x, 0.3 * x)
            mean, variance = x.mean((1, 2), keepdim=True), x.var((1, 2), correction=0, keepdim=True)
        else:
            x = x.relu()
            mean, variance = encoder[20 + 2 * i : 22 + 2 * i]
        x = (x - mean) / (variance + 1e-3).sqrt() * gamma + beta
    x = conv_last(x, encoder[16], encoder[17], primary_stride, depthwise=True)
    lower = squash_efficient(x.reshape(len(x), 16, 8))
    votes = torch.einsum("bji,kjiz->bkjz", lower, encoder[18])  # (batch, class, lower, class_dim)
    agreement = torch.einsum("bkij,bkmj->bki", votes, votes)[..., None] / math.sqrt(encoder[18].shape[3])
    coupling = torch.softmax(agreement, dim=1) + encoder[19]
    return squash_efficient((votes * coupling).sum(2))


def original_keras(encoder: list[Tensor], images: Tensor) -> Tensor:
    first, first_bias, primary, primary_bias, weight, bias = encoder
    x = conv_last(conv_last(images, first, first_bias).relu(), primary, 0.0, 2)
    types, dim = primary_bias.shape
    x = squash_keras(x.reshape(*x.shape[:3], types, dim) / types + primary_bias)
    votes = torch.einsum("bji,jik->bjk", x.reshape(len(x), -1, dim), weight)
    return routed(votes.reshape(*votes.shape[:2], *bias.shape), squash_keras, bias=bias)


def q7(convs: list[tuple[Tensor, Tensor, int]], weight: Tensor, images: Tensor) -> Tensor:
    """Compute a Q7-CapsNet from kernel, bias and stride of every convolution, the primary one last."""
    x = images
    for kernel, bias, stride in convs[:-1]:
        x = conv_last(x, kernel, bias, stride).relu()
    lower = squash_ratio(conv_last(x, *convs[-1]).reshape(len(x), -1, 4))
    votes = torch.matmul(weight, lower[:, None, :, :, None]).squeeze(4)  # (batch, class, lower, class_dim)
    return routed(votes.transpose(1, 2), squash_ratio)


def assert_same(output: Output, capsules: Tensor) -> None:
    """Compare what a network says with expected class capsules, which must not be trivial ones."""
    lengths = capsules.norm(dim=2)
    assert 0.1 < lengths.mean() < 0.95
    assert lengths.std() > 0.01
    torch.testing.assert_close(output.capsules, capsules, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(output.scores, lengths, atol=2e-5, rtol=1e-4)
