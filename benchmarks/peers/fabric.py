"""Lightning Fabric: the loop stays the user's."""

from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger
from torch.utils.data import DataLoader
from tqdm import tqdm

PACKAGE = "lightning"


def parts(task, **options):
    fabric = Fabric(accelerator="cpu", **{"devices": 1, **options})
    fabric.launch()
    model = task.model()
    model, optimizer = fabric.setup(model, task.optimizer(model.parameters()))
    model.train()
    loader = task.loader
    return fabric, model, optimizer, fabric.setup_dataloaders(loader) if isinstance(loader, DataLoader) else loader


def train(task, **options):
    fabric, model, optimizer, loader = parts(task, **options)
    for x, y in loader:
        optimizer.zero_grad()
        loss = task.loss(model(x), y)
        fabric.backward(loss)
        optimizer.step()


def log(task):
    fabric, model, optimizer, loader = parts(task, loggers=CSVLogger("."))
    bar = tqdm(loader, total=task.steps)
    for step, (x, y) in enumerate(bar):
        optimizer.zero_grad()
        loss = task.loss(model(x), y)
        fabric.backward(loss)
        optimizer.step()
        value = loss.item()
        bar.set_postfix(train_loss=value, refresh=False)
        if step % 50 == 49:
            fabric.log("train_loss", value, step)


def accumulate(task):
    fabric, model, optimizer, loader = parts(task)
    for step, (x, y) in enumerate(loader):
        accumulating = (step + 1) % task.accumulate != 0
        with fabric.no_backward_sync(model, enabled=accumulating):
            fabric.backward(task.loss(model(x), y) / task.accumulate)
        if not accumulating:
            optimizer.step()
            optimizer.zero_grad()


def clip(task):
    fabric, model, optimizer, loader = parts(task)
    for x, y in loader:
        optimizer.zero_grad()
        fabric.backward(task.loss(model(x), y))
        fabric.clip_gradients(model, optimizer, max_norm=task.clip)
        optimizer.step()


def bf16(task):
    train(task, precision="bf16-mixed")


def ddp(task):
    train(task, devices=2, strategy="ddp")
