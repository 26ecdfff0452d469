"""Frozen networks whose features say how alike two pictures look: VGG16 of ImageNet, or fixed random filters by that name."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from theseus_core.errors import TheseusError

VGG16 = "timm/vgg16.tv_in1k"  # torchvision's weights of VGG16 as safetensors, on the Hugging Face hub
TAPS = (3, 8, 15, 22)  # relu1_2, relu2_2, relu3_3, relu4_3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which VGG16 was trained on


class Features(nn.Module):
    """A stack of layers, read after some of them.

    Args:
        layers: from (B, 3, H, W) in [-1, 1], each picture's channels normalised as ImageNet's.
        taps: the numbers of the layers that are read.
    """

    def __init__(self, layers: nn.Sequential, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = layers[: max(taps) + 1]
        self.taps = taps
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    mean: Tensor
    std: Tensor

    def forward(self, pictures: Tensor) -> list[Tensor]:
        x = ((pictures + 1) / 2 - self.mean) / self.std
        found = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.taps:
                found.append(x)
        return found


def unlikeness(net: Features, a: Tensor, b: Tensor) -> Tensor:
    """How different two batches of pictures (B, 3, H, W) in [-1, 1] look to a network: a scalar, 0 for equal ones.

    The mean squared distance of the features of a place, normalised over the channels, over all layers that are read.
    """
    apart = [(F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean() for x, y in zip(net(a), net(b), strict=True)]
    return torch.stack(apart).mean()


@lru_cache(maxsize=2)
def feature_net(name: str, device: torch.device) -> Features:
    """The network of this name.

    Args:
        name: "vgg16", whose weights are downloaded from the hub once; the path of a `.safetensors` file with them, under
            torchvision's names; or "random", a small network of fixed random filters, which needs no weights and knows nothing.

    Raises:
        TheseusError: the weights cannot be had, or are not those of VGG16.
    """
    net = random_features() if name == "random" else _vgg16(_downloaded() if name == "vgg16" else _given(name))
    return net.to(device)


def random_features(seed: int = 0) -> Features:
    """Orthogonal filters of four sizes; they compare textures, and nothing that a picture shows."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    widths = (3, 32, 64, 96, 128)
    for number, (before, after) in enumerate(pairwise(widths)):
        conv = nn.Conv2d(before, after, 3, stride=1 if number == 0 else 2, padding=1)
        nn.init.orthogonal_(conv.weight, gain=2**0.5, generator=generator)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        layers += [conv, nn.ReLU()]
    return Features(nn.Sequential(*layers), taps=(1, 3, 5, 7))


def _vgg16(path: Path) -> Features:
    from torchvision.models.vgg import cfgs, make_layers

    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise TheseusError(f"not a file of weights: {path}", hint="a .safetensors file with torchvision's VGG16") from error
    layers = make_layers(cfgs["D"])
    wanted = {key for key in layers.state_dict() if int(key.split(".")[0]) <= max(TAPS)}
    found = {key.removeprefix("features."): tensor for key, tensor in weights.items()}
    if lacking := sorted(wanted - found.keys()):
        raise TheseusError(f"not the weights of VGG16, features.{lacking[0]} is missing: {path}")
    kept = nn.Sequential(*list(layers)[: max(TAPS) + 1])
    for layer in kept:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # what is read stays as it was
    try:
        kept.load_state_dict({key: found[key].float() for key in wanted})
    except RuntimeError as error:
        raise TheseusError(
            f"not the weights of VGG16, of another shape: {path}", hint=str(error).splitlines()[-1].strip()
        ) from error
    return Features(kept, TAPS)


_WAYS = "download it elsewhere and name the file with perceptual_net=PATH, take perceptual_net=random, or perceptual_weight=0"


def _downloaded() -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(VGG16, "model.safetensors"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise TheseusError(f"cannot download the weights of the perceptual loss: {VGG16}/model.safetensors", hint=_WAYS) from error


def _given(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise TheseusError(f"no such network for the perceptual loss: {name}", hint=f"vgg16, random, or a file; {_WAYS}")
    if path.suffix != ".safetensors":
        raise TheseusError(
            f"weights are read from .safetensors files alone, not from: {name}",
            hint="safetensors.torch.save_file(torchvision.models.vgg16(weights='DEFAULT').state_dict(), 'vgg16.safetensors')",
        )
    return path
