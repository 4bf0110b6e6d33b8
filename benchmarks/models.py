"""The models and batches of `make bench-gpu`."""

from __future__ import annotations

import torch
from torch import nn

VOCABULARY, WIDTH, LENGTH, LAYERS = 50_257, 768, 512, 12


class GPT(nn.Module):
    """GPT-2's smallest: 124 million parameters, the output layer shared with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(1024, WIDTH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 12, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, self.mask, is_causal=True)
        return (self.norm(x) @ self.tokens.weight.T).transpose(1, 2)  # classes second, as the loss wants them


def build(name: str) -> nn.Module:
    if name == "gpt":
        return GPT()
    if name == "mlp":
        return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 10))


def batch(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    if name == "gpt":
        tokens = torch.randint(0, VOCABULARY, (8, LENGTH + 1))
        return tokens[:, :-1], tokens[:, 1:]
    if name == "mlp":
        return torch.randn(8, 32), torch.randint(0, 2, (8,))
    return torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))
