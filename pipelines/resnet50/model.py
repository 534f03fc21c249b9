"""ResNet-50 under torchvision's state-dict names, so that its weight files fit; torchvision itself is not needed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

LAYERS = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut; the stride sits in the 3x3 one (known as v1.5)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, h, w] to [n, 4 * width, h / stride, w / stride]."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet50(nn.Module):
    """Maps normalised pictures, float32 [n, 3, 224, 224], to logits, float32 [n, classes]. Source: arXiv 1512.03385."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        channels = 64
        for number, (blocks, width, stride) in enumerate(LAYERS, 1):
            layer = nn.Sequential()
            for block in range(blocks):
                layer.append(Bottleneck(channels, width, stride if block == 0 else 1))
                channels = width * EXPANSION
            self.add_module(f"layer{number}", layer)
        self.fc = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Give the logits of a batch."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(image))))
        for number in range(1, len(LAYERS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(x.mean((2, 3)))


def load(weights: str | None = None, classes: int = 1000, seed: int = 0) -> nn.Module:
    """Give ResNet-50 in eval mode, with the weights of a state-dict file, else with random ones.

    `weights` is relative to this file. Raises RuntimeError if the file's names or shapes do not fit.
    """
    if weights is not None:
        model = ResNet50(classes)
        path = Path(__file__).parent / weights
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return model.eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = ResNet50(classes)
        return randomized(model).eval()


def randomized(model: nn.Module) -> nn.Module:
    """Give convolutions He's initial weights, and BatchNorm the statistics that smooth noise makes with them.

    With the default statistics of mean 0 and variance 1 the values would double from block to block. Small gains
    on the branches keep the last blocks as calm as training does. Sums are taken in float64 and then rounded,
    so that the number of threads does not show in the weights.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, 0.3)
    for norm in norms:
        norm.momentum = None  # one batch alone makes the statistics
    noise = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    model.double().train()(nn.functional.interpolate(noise, size=64, mode="bilinear"))
    for norm in norms:
        for statistic in (norm.running_mean, norm.running_var):
            statistic.copy_(statistic.half())
    return model.float()
