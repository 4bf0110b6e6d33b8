# ruff: noqa
# fmt: off
import json, logging, warnings
warnings.filterwarnings("ignore"); logging.disable(logging.WARNING)
import lightning.pytorch as pl
import numpy as np
import pandas as pd
from gluonts.dataset.pandas import PandasDataset
from gluonts.torch import SimpleFeedForwardEstimator

class Losses(pl.Callback):
    def __init__(self): self.losses = []
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())

pl.seed_everything(7)
when = pd.date_range("2024-01-01", periods=200, freq="D")
values = np.sin(np.arange(200) / 7) + 0.1 * np.random.RandomState(0).randn(200)
values = values.astype(np.float32)
data = PandasDataset(pd.DataFrame({"target": values}, index=when))
losses = Losses()
estimator = SimpleFeedForwardEstimator(
    prediction_length=10, context_length=30, hidden_dimensions=[16, 16], batch_size=16, num_batches_per_epoch=10,
    trainer_kwargs={"max_epochs": 2, "accelerator": "cpu", "callbacks": [losses], "logger": False,
                    "enable_progress_bar": False, "enable_model_summary": False})
predictor = estimator.train(data)
(forecast,) = predictor.predict(data, num_samples=20)
print("RESULT", json.dumps({"from": pl.Trainer.__module__.split(".")[0], "losses": losses.losses, "forecast": float(forecast.mean.sum())}))
