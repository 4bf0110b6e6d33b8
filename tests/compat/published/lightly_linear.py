# ruff: noqa
# fmt: off
import json, logging, warnings
warnings.filterwarnings("ignore"); logging.disable(logging.WARNING)
import pytorch_lightning as pl
import torch
from lightly.utils.benchmarking import LinearClassifier, MetricCallback

class Losses(pl.Callback):
    def __init__(self): self.losses = []
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())

pl.seed_everything(5)
images, targets = torch.randn(96, 3, 8, 8), torch.randint(0, 4, (96,))
data = torch.utils.data.TensorDataset(images, targets)
backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 16), torch.nn.ReLU())
classifier = LinearClassifier(backbone, batch_size_per_device=16, lr=3.0, feature_dim=16, num_classes=4, topk=(1, 2))
losses, metrics = Losses(), MetricCallback()
trainer = pl.Trainer(max_epochs=3, accelerator="cpu", devices=1, logger=False, callbacks=[losses, metrics],
                     enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(classifier, torch.utils.data.DataLoader(data, 16, shuffle=True), torch.utils.data.DataLoader(data, 32))
print("RESULT", json.dumps({"from": pl.Trainer.__module__.split(".")[0], "losses": losses.losses,
                            "metrics": {k: list(map(float, v)) for k, v in sorted(metrics.val_metrics.items())}}))
