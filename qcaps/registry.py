"""Every name a user may type, with its one-line doc and the place of its code.

Targets are strings, so that listing names imports nothing.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass

from qcaps.errors import UsageError, quoted


@dataclass(frozen=True)
class Entry:
    """One registered name; `target` is ``package.module:attribute``."""

    name: str
    doc: str
    target: str


class Registry:
    """Names of one kind, in the order in which they are listed.

    Parameters
    ----------
    kind
        The noun used in messages, for example ``model``.
    entries
        Must have distinct names.
    """

    def __init__(self, kind: str, *entries: Entry) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            if entry.name in self._entries:
                raise ValueError(f"{kind} {entry.name!r} is registered twice")
            self._entries[entry.name] = entry

    @property
    def plural(self) -> str:
        """Give the name of the list, as `qcaps list` knows it."""
        return f"{self.kind}es" if self.kind.endswith("ch") else f"{self.kind}s"

    def __iter__(self) -> Iterator[Entry]:
        """Go through the entries in listing order."""
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        """Tell whether `name` is registered."""
        return name in self._entries

    def names(self) -> tuple[str, ...]:
        """Give every name in listing order."""
        return tuple(self._entries)

    def entry(self, name: str, *, where: str = "") -> Entry:
        """Find the entry of a name.

        Raises
        ------
        UsageError
            If the name is unknown; the message lists near matches.
        """
        if name not in self._entries:
            raise UsageError(
                f"unknown {self.kind} {quoted(name)}",
                where=where,
                do=f"{near_matches(name, self.names())}`qcaps list {self.plural}` shows all",
            )
        return self._entries[name]

    def load(self, name: str, *, where: str = "") -> object:
        """Import and return what a name stands for."""
        module, attribute = self.entry(name, where=where).target.split(":")
        return getattr(importlib.import_module(module), attribute)


def near_matches(name: str, known: tuple[str, ...]) -> str:
    """Say ``did you mean 'x'? `` for the closest known names, or nothing."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}? " if close else ""


MODELS = Registry(
    "model",
    Entry(
        "shallow-capsnet",
        "ShallowCapsNet, the original CapsNet in the flavour of Q-CapsNets.",
        "qcaps.models.shallow_capsnet:SHALLOW_CAPSNET",
    ),
    Entry(
        "capsnet-sabour", "The original CapsNet as Sabour et al. describe it.", "qcaps.models.capsnet_flavours:SABOUR"
    ),
    Entry(
        "capsnet-tf-original",
        "The original CapsNet as its authors released it.",
        "qcaps.models.capsnet_flavours:TF_ORIGINAL",
    ),
    Entry(
        "capsnet-efficientcn",
        "The original CapsNet of EfficientCN: logits start from a learned table.",
        "qcaps.models.capsnet_flavours:EFFICIENTCN",
    ),
    Entry(
        "capsnet-ethanleet",
        "The original CapsNet of ethanleet/CapsNet, to read its checkpoints.",
        "qcaps.models.capsnet_flavours:ETHANLEET",
    ),
    Entry("q7-capsnet-mnist", "Q7-CapsNets' small CapsNet for MNIST.", "qcaps.models.capsnet_flavours:Q7_MNIST"),
    Entry(
        "q7-capsnet-smallnorb",
        "Q7-CapsNets' small CapsNet for smallNORB.",
        "qcaps.models.capsnet_flavours:Q7_SMALLNORB",
    ),
    Entry("q7-capsnet-cifar10", "Q7-CapsNets' small CapsNet for CIFAR-10.", "qcaps.models.capsnet_flavours:Q7_CIFAR10"),
    Entry(
        "efficient-capsnet",
        "Efficient-CapsNet: 16 primary capsules, self-attention routing.",
        "qcaps.models.efficient_capsnet:EFFICIENT_CAPSNET",
    ),
    Entry(
        "efficient-capsnet-smallnorb",
        "Efficient-CapsNet for pairs of smallNORB, with instance norms.",
        "qcaps.models.efficient_capsnet:SMALLNORB",
    ),
    Entry(
        "efficient-capsnet-multimnist",
        "Efficient-CapsNet for two overlapping digits.",
        "qcaps.models.efficient_capsnet:MULTIMNIST",
    ),
    Entry(
        "efficient-capsnet-affnist",
        "Efficient-CapsNet for digits in 40x40 pixels.",
        "qcaps.models.efficient_capsnet:AFFNIST",
    ),
    Entry(
        "deepcaps", "DeepCaps: residual capsule blocks, 3-D convolutional routing.", "qcaps.models.deepcaps:DEEPCAPS"
    ),
    Entry("deepcaps-64", "DeepCaps for 64x64 colour images.", "qcaps.models.deepcaps:DEEPCAPS_64"),
    Entry("em-capsnet", "Matrix capsules with EM routing, for smallNORB.", "qcaps.models.em_capsnet:EM_CAPSNET"),
    Entry("resnet50-capsnet", "ResNet-50 with a capsule head.", "qcaps.models.resnet50_capsnet:RESNET50_CAPSNET"),
    Entry(
        "mobilenetv1-capsnet",
        "MobileNetV1 with a capsule head.",
        "qcaps.models.mobilenetv1_capsnet:MOBILENETV1_CAPSNET",
    ),
    Entry("resnet50", "ResNet-50, the plain classifier.", "qcaps.models.resnet50:RESNET50"),
    Entry("mobilenetv1", "MobileNetV1, the plain classifier.", "qcaps.models.mobilenetv1:MOBILENETV1"),
    Entry("cnn-r", "The CapsNet's convolutions and two dense layers, a baseline.", "qcaps.models.cnn_baselines:CNN_R"),
    Entry("cnn-cr", "The same with the length of ten dense vectors.", "qcaps.models.cnn_baselines:CNN_CR"),
    Entry("cnn-cr-sf", "The same with squash and no routing.", "qcaps.models.cnn_baselines:CNN_CR_SF"),
    Entry("cnn-small", "Two convolutions and a dense layer, a baseline.", "qcaps.models.cnn_small:CNN_SMALL"),
)

ROUTINGS = Registry(
    "routing",
    Entry("dynamic", "Routing by agreement, one to many iterations.", "qcaps.capsules.routing:DynamicRouting"),
    Entry(
        "attention",
        "Self-attention: one pass, by the agreement with the sum of all votes.",
        "qcaps.capsules.routing:SelfAttentionRouting",
    ),
    Entry("em", "EM: matrix capsules as clusters of votes.", "qcaps.capsules.em_routing:EMRouting"),
    Entry("uniform", "All couplings equal, the ablation of every other.", "qcaps.capsules.routing:UniformRouting"),
)

DECODERS = Registry(
    "decoder",
    Entry("none", "No decoder: no reconstruction loss.", "qcaps.capsules.decoders:no_decoder"),
    Entry("fc", "Three fully connected layers, any image size.", "qcaps.capsules.decoders:FC"),
    Entry(
        "deconv28",
        "Transposed convolutions to 28x28 pixels, 250,121 parameters for ten classes.",
        "qcaps.capsules.conv_decoders:DECONV28",
    ),
    Entry("deconv32", "The same to 32x32 pixels.", "qcaps.capsules.conv_decoders:DECONV32"),
    Entry(
        "convdecoder28",
        "DeepCaps' small transposed convolutions to 28x28 pixels.",
        "qcaps.capsules.conv_decoders:CONVDECODER28",
    ),
    Entry("convdecoder64", "The same to 64x64 pixels.", "qcaps.capsules.conv_decoders:CONVDECODER64"),
    Entry(
        "upsample48",
        "Efficient-CapsNet's bilinear upsampling to 48x48 pixels.",
        "qcaps.capsules.conv_decoders:UPSAMPLE48",
    ),
    Entry(
        "upsample48-aligned",
        "The same with aligned corners, as EfficientCN has it.",
        "qcaps.capsules.conv_decoders:UPSAMPLE48_ALIGNED",
    ),
)

DATASETS = Registry(
    "dataset",
    Entry(
        "digits",
        "1,797 handwritten digits that ship inside scikit-learn, resized to 28x28; needs no network.",
        "qcaps.data.digits:DIGITS",
    ),
    Entry("mnist", "MNIST: 60,000 + 10,000 handwritten digits, 28x28 grey.", "qcaps.data.idx:MNIST"),
    Entry(
        "fashion-mnist",
        "Fashion-MNIST: 60,000 + 10,000 pieces of clothing, 28x28 grey.",
        "qcaps.data.idx:FASHION_MNIST",
    ),
    Entry("cifar10", "CIFAR-10: 50,000 + 10,000 pictures, 32x32 in colours.", "qcaps.data.cifar10:CIFAR10"),
    Entry("svhn", "SVHN: 73,257 + 26,032 house numbers, 32x32 in colours.", "qcaps.data.svhn:SVHN"),
    Entry(
        "smallnorb",
        "24,300 + 24,300 pairs of pictures of toys, 2x 96x96 grey.",
        "qcaps.data.smallnorb:SMALLNORB",
    ),
    Entry(
        "tiny-imagenet",
        "Tiny-ImageNet: 500 + 50 pictures of each of 200 classes or 50 of them, 64x64 in colours.",
        "qcaps.data.tiny_imagenet:TINY_IMAGENET",
    ),
    Entry(
        "images",
        "Your own pictures in class folders, packed or not, in the folder that --data-dir names.",
        "qcaps.data.own_images:OWN_IMAGES",
    ),
)

PREPARATIONS = Registry(
    "preparation",
    Entry("plain", "Pixels divided by 255.", "qcaps.data.named_preparation:PLAIN"),
    Entry(
        "plain-256", "Divided by 256, as Efficient-CapsNet does for MNIST.", "qcaps.data.named_preparation:PLAIN_256"
    ),
    Entry(
        "cifar-64",
        "Resized to 64x64, as Q-CapsNets does for CIFAR-10 and SVHN.",
        "qcaps.data.named_preparation:CIFAR_64",
    ),
    Entry("imagenet", "Mean and deviation of ImageNet.", "qcaps.data.named_preparation:IMAGENET"),
    Entry("imagenet-64", "The same, resized to 64x64 before.", "qcaps.data.named_preparation:IMAGENET_64"),
    Entry("imagenet-224", "The same, resized to 224x224 before.", "qcaps.data.named_preparation:IMAGENET_224"),
    Entry(
        "norb-efficient",
        "SmallNORB as in Efficient-CapsNet, but with mean and deviation of training images alone.",
        "qcaps.data.named_preparation:NORB_EFFICIENT",
    ),
    Entry(
        "norb-efficient-split",
        "The published protocol: the same, but test images have their own mean and deviation.",
        "qcaps.data.named_preparation:NORB_EFFICIENT_SPLIT",
    ),
    Entry(
        "norb-32-q7",
        "SmallNORB as in Q7-CapsNets: 32x32, every value less its mean over its deviation.",
        "qcaps.data.named_preparation:NORB_32_Q7",
    ),
    Entry(
        "ethanleet-mnist",
        "MNIST as in ethanleet/CapsNet: mean and deviation of its pixels.",
        "qcaps.data.named_preparation:ETHANLEET_MNIST",
    ),
    Entry(
        "ethanleet-norb",
        "One eye of smallNORB as in ethanleet/CapsNet: 48x48, of which the centre of 32x32.",
        "qcaps.data.named_preparation:ETHANLEET_NORB",
    ),
    Entry(
        "ethanleet-cifar",
        "CIFAR-10 as in ethanleet/CapsNet: a deviation of 0.5.",
        "qcaps.data.named_preparation:ETHANLEET_CIFAR",
    ),
)

AUGMENTATIONS = Registry(
    "augmentation",
    Entry("none", "Images as they are.", "qcaps.data.augment:NO_AUGMENTATION"),
    Entry(
        "efficient-capsnet",
        "Rotate, shift, squish and erase, as Efficient-CapsNet does for MNIST.",
        "qcaps.data.augmentation.efficient_capsnet:EFFICIENT_CAPSNET",
    ),
    Entry(
        "shift",
        "Shift by up to two pixels per axis, as Q-CapsNets and ethanleet/CapsNet do for MNIST.",
        "qcaps.data.augmentation.published:SHIFT",
    ),
    Entry(
        "shift-flip",
        "Shift by up to two pixels per axis, horizontal flip with probability 0.2.",
        "qcaps.data.augmentation.published:SHIFT_FLIP",
    ),
    Entry(
        "cifar-q-capsnets",
        "Rotate by up to 2 degrees, shift by up to 5/64 of the side, flip, as Q-CapsNets does for CIFAR-10.",
        "qcaps.data.augmentation.published:Q_CAPSNETS_CIFAR",
    ),
    Entry(
        "cifar-q7",
        "Shift by up to a tenth of the side, flip, as Q7-CapsNets does for CIFAR-10.",
        "qcaps.data.augmentation.published:Q7_CIFAR",
    ),
    Entry(
        "cifar-towards-efficient",
        "Flip, brightness, contrast, as Towards Efficient Capsule Networks does for CIFAR-10.",
        "qcaps.data.augmentation.published:TOWARDS_EFFICIENT_CIFAR",
    ),
    Entry(
        "tiny-towards-efficient",
        "Rotate by up to 20 degrees, flip, as the same does for Tiny-ImageNet.",
        "qcaps.data.augmentation.published:TOWARDS_EFFICIENT_TINY",
    ),
    Entry(
        "norb-efficient",
        "Crop to 48x48, brightness, contrast, as Efficient-CapsNet does for smallNORB.",
        "qcaps.data.augmentation.published:NORB_EFFICIENT",
    ),
    Entry(
        "ethanleet-norb",
        "Crop to 32x32, brightness, contrast, as ethanleet/CapsNet does for smallNORB.",
        "qcaps.data.augmentation.published:ETHANLEET_NORB",
    ),
    Entry(
        "ethanleet-cifar",
        "Flip, brightness, contrast, as ethanleet/CapsNet does for CIFAR-10.",
        "qcaps.data.augmentation.published:ETHANLEET_CIFAR",
    ),
    Entry(
        "efficientcn-mnist",
        "Rotate and shear by up to 30 degrees, enlarge, as EfficientCN does for MNIST.",
        "qcaps.data.augmentation.published:EFFICIENTCN_MNIST",
    ),
)

ROUNDINGS = Registry(
    "rounding",
    Entry("round_to_nearest", "Nearest code, ties to even.", "qcaps.quantization.rounding:round_to_nearest"),
    Entry(
        "stochastic_rounding",
        "Up or down at random, unbiased; every draw is keyed by seed, site and image.",
        "qcaps.quantization.rounding:stochastic_rounding",
    ),
    Entry("truncation", "Floor: cheapest hardware, biased.", "qcaps.quantization.rounding:truncation"),
    Entry(
        "logarithmic",
        "Sign and power of two, nearest in the log domain; 2 to 8 bits.",
        "qcaps.quantization.rounding:logarithmic",
    ),
)

SEARCHES = Registry(
    "search",
    Entry(
        "pareto",
        "Sensitivity, the exact Pareto front of all sites, and the cheapest point of it that holds.",
        "qcaps.quantization.search.pareto:search_pareto",
    ),
    Entry(
        "qcapsnets",
        "The sequential search of Q-CapsNets, block by block.",
        "qcaps.quantization.search.qcapsnets_task:search_sequentially",
    ),
    Entry(
        "common-width",
        "The smallest width common to all sites that holds the tolerance, by bisection.",
        "qcaps.quantization.search.common_width:search_common_width",
    ),
)

IMPORTANCES = Registry(
    "importance",
    Entry("l1", "Sum of the absolute weights of a unit, as in EagleEye.", "qcaps.pruning.magnitude:magnitude"),
    Entry("l2", "Sum of the squared weights of a unit.", "qcaps.pruning.magnitude:magnitude"),
    Entry("taylor", "How much the loss would change if the unit fell silent.", "qcaps.pruning.taylor:taylor"),
    Entry(
        "coupling",
        "How much the true class listens to a capsule; l1 for what is no capsule.",
        "qcaps.pruning.coupling:coupling",
    ),
    Entry("random", "Drawn from a seed, the baseline of all others.", "qcaps.pruning.importance:importance"),
)

IMPORTERS = Registry(
    "importer",
    Entry(
        "q-capsnets",
        "ShallowCapsNet and DeepCaps of bbussolino/Q-CapsNets (.pt).",
        "qcaps.importers.q_capsnets:q_capsnets",
    ),
    Entry(
        "efficient-capsnet",
        "Efficient-CapsNet and the original CapsNet of EscVM/Efficient-CapsNet (.h5).",
        "qcaps.importers.efficient_capsnet:efficient_capsnet",
    ),
    Entry(
        "q7-capsnets",
        "Small CapsNets of MiguelCosta94/Q7-CapsNets (.h5).",
        "qcaps.importers.q7_capsnets:q7_capsnets",
    ),
    Entry(
        "efficientcn",
        "Efficient-CapsNet and CapsNet of matthiasware/EfficientCN (.pt).",
        "qcaps.importers.efficientcn:efficientcn",
    ),
    Entry("ethanleet", "CapsNet of ethanleet/CapsNet (.pt).", "qcaps.importers.ethanleet:ethanleet"),
    Entry(
        "eagleeye",
        "Pruned ResNet-50 and MobileNetV1 classifiers of EagleEye (.pth).",
        "qcaps.importers.eagleeye:eagleeye",
    ),
    Entry(
        "towards-efficient",
        "Backbones with a capsule head of Towards Efficient Capsule Networks (.pth).",
        "qcaps.importers.towards_efficient:towards_efficient",
    ),
)
