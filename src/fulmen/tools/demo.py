"""`fulmen demo`: a network learns to read handwritten digits, here and now.

The digits are the 1,797 real ones that scikit-learn ships. Logs and checkpoints land in the current folder.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fulmen.callbacks import ModelCheckpoint
from fulmen.datamodule import LightningDataModule
from fulmen.module import LightningModule
from fulmen.seed import seed_everything
from fulmen.trainer import Trainer

SHADES = " .:-=+*#%@"


class Digits(LightningDataModule):
    """1,437 digits to learn from, 360 to be judged by: grey images of 8 x 8 pixels."""

    def setup(self, stage: str) -> None:
        images, labels = read_digits()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        images, labels = images[order], labels[order]
        self.train = TensorDataset(images[:1437], labels[:1437])
        self.val = TensorDataset(images[1437:], labels[1437:])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val, batch_size=120)


class DigitReader(LightningModule):
    """A small convolutional network that names the digit in an image."""

    def __init__(self, width: int = 32, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(2 * width * 16, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        scores = self(images)
        self.log("val_loss", F.cross_entropy(scores, labels))
        self.log("val_acc", (scores.argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])


def read_digits() -> tuple[Tensor, Tensor]:
    """Images (N, 1, 8, 8) between 0 and 1, and their labels."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return images, torch.as_tensor(labels)


def drawing(image: Tensor) -> list[str]:
    """An image of 8 x 8 pixels as eight lines of text."""
    levels = (image.squeeze() * (len(SHADES) - 1)).round().int().tolist()
    return ["".join(SHADES[level] * 2 for level in row) for row in levels]


def side_by_side(model: DigitReader, images: Tensor, labels: Tensor) -> str:
    """Each image over what the model reads in it."""
    with torch.inference_mode():
        read = model(images).argmax(1).tolist()
    rows = zip(*(drawing(image) for image in images), strict=True)
    said = (f"read as {guess}, is {label}".ljust(16) for guess, label in zip(read, labels.tolist(), strict=True))
    return "\n".join("    " + "     ".join(row).rstrip() for row in (*rows, said))


def tensorboard_command(folder: str) -> str:
    """What to type to see the curves, from the current folder."""
    beside = Path(sys.executable).with_name("tensorboard")
    return f"{os.path.relpath(beside) if beside.exists() else 'tensorboard'} --logdir {folder}"


def main() -> int:
    """Train, judge and show; 0 when the network reads more than 95 % of the digits that it never saw."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        print("The demo reads scikit-learn's handwritten digits: pip install scikit-learn", file=sys.stderr)
        return 1
    torch.set_num_threads(1)  # so small a network is done sooner on one core, whatever else the machine does
    seed_everything(1, verbose=False)
    data = Digits()
    best = ModelCheckpoint(monitor="val_acc", mode="max", filename="digits-{epoch}-{val_acc:.3f}")
    trainer = Trainer(max_epochs=12, callbacks=[best], log_every_n_steps=10)
    start = time.perf_counter()
    trainer.fit(DigitReader(), datamodule=data)
    seconds = time.perf_counter() - start
    if trainer.interrupted:
        return 1

    model = DigitReader.load_from_checkpoint(best.best_model_path).eval()
    images, labels = (column[:2] for column in data.val.tensors)
    assert best.best_model_score is not None
    accuracy = float(best.best_model_score)
    print(f"\n{side_by_side(model, images, labels)}\n")
    print(f"Reads {accuracy:.1%} of 360 digits that it never saw, after {seconds:.0f} s of training.")
    print(f"Checkpoint   {os.path.relpath(best.best_model_path)}")
    print(f"Curves       {tensorboard_command(os.path.relpath(trainer.logger.root_dir))}")
    return 0 if accuracy > 0.95 else 1
