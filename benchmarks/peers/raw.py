"""The loop that people write by hand: the yardstick."""

import csv
import os

import torch
from cases import WHOLE
from tqdm import tqdm

PACKAGE = "torch"


def parts(task):
    model = task.model()
    return model, task.optimizer(model.parameters()), task.loss


def train(task):
    model, optimizer, loss_fn = parts(task)
    model.train()
    for x, y in task.loader:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()


manual = train


def log(task):
    model, optimizer, loss_fn = parts(task)
    model.train()
    with open("metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "train_loss"])
        bar = tqdm(task.loader, total=task.steps)
        for step, (x, y) in enumerate(bar):
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            value = loss.item()
            bar.set_postfix(train_loss=value, refresh=False)
            if step % 50 == 49:
                writer.writerow([step, value])


default = log


def validate(task):
    model = task.model().eval()
    total = torch.zeros(())
    with torch.no_grad():
        for x, y in task.loader:
            total += task.loss(model(x), y)
    return total.item() / task.steps


def predict(task):
    model, outputs = task.model().eval(), []
    with torch.no_grad():
        for x, _ in task.loader:
            outputs.append(model(x))
    return outputs


def accumulate(task):
    model, optimizer, loss_fn = parts(task)
    model.train()
    for step, (x, y) in enumerate(task.loader):
        loss = loss_fn(model(x), y) / task.accumulate
        loss.backward()
        if (step + 1) % task.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()


def clip(task):
    model, optimizer, loss_fn = parts(task)
    model.train()
    for x, y in task.loader:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), task.clip)
        optimizer.step()


def bf16(task):
    model, optimizer, loss_fn = parts(task)
    model.train()
    for x, y in task.loader:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()


def ddp(task):
    torch.distributed.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(task.model())
    optimizer = task.optimizer(model.parameters())
    model.train()
    for x, y in task.loader:
        optimizer.zero_grad()
        loss = task.loss(model(x), y)
        loss.backward()
        optimizer.step()
    del model, loss  # what still holds the group when it is destroyed may hang the process
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def accelerated(task):
    torch.set_float32_matmul_precision("high")
    model = task.model().to(task.device)
    optimizer = task.optimizer(model.parameters())
    if task.case.compile not in ("", WHOLE):
        model = torch.compile(model, mode=task.case.compile)
    model.train()
    for x, y in task.loader:
        x, y = x.to(task.device, non_blocking=True), y.to(task.device, non_blocking=True)
        optimizer.zero_grad()
        loss = task.loss(model(x), y)
        loss.backward()
        optimizer.step()


def checkpoint(task):
    model, optimizer, loss_fn = parts(task)
    x, y = next(iter(task.loader))
    loss_fn(model(x), y).backward()
    optimizer.step()
    with task.timed("save"), open("file.pt", "wb") as file:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    with task.timed("load"):
        model.load_state_dict(torch.load("file.pt", weights_only=True)["model"])
