"""PyTorch Lightning."""

from peers.like import build

PACKAGE = "lightning"
globals().update(build("lightning.pytorch"))
