"""Train the digits network: `python pipelines/digits/train.py` writes weights.npz and all data files beside it.

Seeded, on one thread, and with deterministic algorithms: the same machine and versions give the same bytes.
The held-out part is chosen before training by a seed of its own, and nothing is tuned or stopped by it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from model import Digits
from sklearn.datasets import load_digits

HELD_OUT = 360
BATCH = 64
CALIBRATION = 128


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Move each picture by up to one pixel each way, so that 1437 pictures say more."""
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    moved = [padded[i, :, y : y + 8, x : x + 8] for i, (y, x) in enumerate(torch.randint(0, 3, (len(images), 2)))]
    return torch.stack(moved)


def main() -> None:
    """Split, train, write, and print the accuracy on the held-out part."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--epochs", type=int, default=60)
    options.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the files are written")
    args = options.parse_args()
    torch.manual_seed(7)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)

    data = load_digits()
    images = data.images.astype(np.float32)[:, None]
    labels = data.target.astype(np.int64)
    order = np.random.default_rng(2).permutation(len(images))
    test, train = np.sort(order[:HELD_OUT]), np.sort(order[HELD_OUT:])

    model = Digits()
    x, y = torch.from_numpy(images[train]), torch.from_numpy(labels[train])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = args.epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(args.epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(shifted(x[rows])), y[rows], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()

    np.savez(args.folder / "weights.npz", **{name: value.numpy() for name, value in model.state_dict().items()})
    np.savez(args.folder / "test.npz", image=images[test])
    np.save(args.folder / "labels.npy", labels[test])
    np.savez(args.folder / "calibration.npz", image=images[train[:CALIBRATION]])
    with torch.inference_mode():
        right = (model.eval()(torch.from_numpy(images[test])).argmax(1).numpy() == labels[test]).mean()
    print(f"held-out accuracy {right:.4f} on {len(test)} digits")


if __name__ == "__main__":
    main()
