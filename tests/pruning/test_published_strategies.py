"""The strategies that EagleEye published, replayed: their widths, and the cost that follows from them.

Reference: Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", 2020, and its code
``anonymous47823493/EagleEye``; 224x224 pixels, 1000 classes.
"""

from __future__ import annotations

import numpy as np
import pytest

from qcaps.evaluation.cost_model import cost_model
from qcaps.models.mobilenetv1 import MobileNetV1Spec
from qcaps.models.resnet50 import ResNet50Spec
from qcaps.pruning.strategy import width_rules

# Stem | conv1 and conv2 of every block : output of the layer | …
RESNET50_75 = (
    "62 | 57 56 46 46 50 60 : 210 | 124 124 98 105 115 117 94 91 : 471"
    " | 237 201 241 217 223 225 205 255 227 215 212 185 : 914 | 476 412 410 387 408 491 : 1970"
)
RESNET50_50 = (
    "58 | 46 35 35 39 34 36 : 200 | 111 78 123 89 89 71 79 79 : 361"
    " | 225 197 217 160 208 179 173 161 246 180 153 150 : 568 | 407 309 382 299 356 440 : 1947"
)
RESNET50_25 = (
    "52 | 51 35 22 19 13 46 : 92 | 111 86 33 55 37 79 31 58 : 272"
    " | 229 183 114 119 197 57 138 130 56 96 199 78 : 324 | 158 415 140 246 425 362 : 944"
)
MOBILENETV1_50 = "21 48 85 82 167 167 440 364 356 311 348 432 889 619"
RESNET50_FULL = "64 " + "64 " * 6 + "256" + " 128" * 8 + " 512" + " 256" * 12 + " 1024" + " 512" * 6 + " 2048"
MOBILENETV1_FULL = "32 64 128 128 256 256 512 512 512 512 512 512 1024 1024"

# Network, widths, MACs, parameters as EagleEye counts them, and all trainable values.
PUBLISHED = {
    "ResNet-50": (ResNet50Spec(), RESNET50_FULL, 4_089_184_256, 25_502_912, 25_557_032),
    "ResNet-50 75 %": (ResNet50Spec(), RESNET50_75, 3_079_920_974, 19_768_349, 19_817_239),
    "ResNet-50 50 %": (ResNet50Spec(), RESNET50_50, 2_056_517_539, 14_368_906, 14_409_532),
    "ResNet-50 25 %": (ResNet50Spec(), RESNET50_25, 1_033_610_180, 6_963_815, 6_988_499),
    "MobileNetV1": (MobileNetV1Spec(), MOBILENETV1_FULL, 568_740_352, 4_209_088, 4_231_976),
    "MobileNetV1 50 %": (MobileNetV1Spec(), MOBILENETV1_50, 288_950_484, 2_373_441, 2_390_519),
}


def strategy(model, text):
    widths = [int(word) for word in text.split() if word.isdigit()]
    return dict(zip(model.units, widths, strict=True))


@pytest.fixture(scope="module")
def models():
    """Derive every model once: network and convention → model."""
    specs = {spec.architecture: spec for spec, *_ in PUBLISHED.values()}
    return {(name, c): cost_model(spec, c) for name, spec in specs.items() for c in ("qcaps", "eagleeye")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_strategy_costs_what_was_published(name, models):
    spec, text, macs, parameters, trainable = PUBLISHED[name]
    model = models[spec.architecture, "eagleeye"]
    cost = model.at(strategy(model, text))
    assert (cost.macs, cost.parameters) == (macs, parameters)
    ours = models[spec.architecture, "qcaps"].at(strategy(model, text))
    assert (ours.macs, ours.parameters) == (macs, trainable)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_strategy_follows_from_ratios_by_the_floor_rule(name, models):
    spec, text, *_ = PUBLISHED[name]
    model = models[spec.architecture, "eagleeye"]
    counts, widths = np.array(list(model.units.values())), model.vector(strategy(model, text))
    rules = width_rules(model.units, caps={"*": 1.0})
    # Any share between two steps, just above the one and just below the other.
    for inside in (0.001, 0.5, 0.999):
        assert rules.widths((counts - widths + inside) / counts).tolist() == widths.tolist()
