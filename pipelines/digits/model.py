"""The digits network: three small convolutions over the 8x8 counts that scikit-learn's data set holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("weights.npz")


class Digits(nn.Module):
    """Maps counts from 0 to 16, float32 [batch, 1, 8, 8], to logits, float32 [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(64 * 2 * 2, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Give the logits of a batch. The scaling is part of the model, so that data needs no preparation."""
        x = image * (1 / 16)
        x = torch.relu(self.conv1(x))
        x = self.pool(torch.relu(self.conv2(x)))
        x = self.pool(torch.relu(self.conv3(x)))
        return self.fc(x.flatten(1))


def load() -> nn.Module:
    """Give the trained network in eval mode. Raises FileNotFoundError without `weights.npz`: run `train.py`."""
    model = Digits()
    with np.load(WEIGHTS) as weights:
        model.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
    return model.eval()
