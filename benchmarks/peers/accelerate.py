"""Hugging Face Accelerate: the loop stays the user's."""

import csv

import torch
from accelerate import Accelerator
from tqdm import tqdm

PACKAGE = "accelerate"


def parts(task, **options):
    accelerator = Accelerator(cpu=True, **options)
    model = task.model()
    model, optimizer, loader = accelerator.prepare(model, task.optimizer(model.parameters()), task.loader)
    model.train()
    return accelerator, model, optimizer, loader


def train(task, max_norm=None, **options):
    accelerator, model, optimizer, loader = parts(task, **options)
    for x, y in loader:
        optimizer.zero_grad()
        loss = task.loss(model(x), y)
        accelerator.backward(loss)
        if max_norm is not None:
            accelerator.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()


ddp = train  # the launcher's environment decides


def clip(task):
    train(task, task.clip)


def bf16(task):
    accelerator, model, optimizer, loader = parts(task, mixed_precision="bf16")
    for x, y in loader:
        optimizer.zero_grad()
        with accelerator.autocast():
            loss = task.loss(model(x), y)
        accelerator.backward(loss)
        optimizer.step()


def log(task):
    accelerator, model, optimizer, loader = parts(task)
    with open("metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        bar = tqdm(loader, total=task.steps)
        for step, (x, y) in enumerate(bar):
            optimizer.zero_grad()
            loss = task.loss(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            value = loss.item()
            bar.set_postfix(train_loss=value, refresh=False)
            if step % 50 == 49:
                writer.writerow([step, value])


def accumulate(task):
    accelerator, model, optimizer, loader = parts(task, gradient_accumulation_steps=task.accumulate)
    for x, y in loader:
        with accelerator.accumulate(model):
            loss = task.loss(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()


def evaluate(task, seen):
    accelerator = Accelerator(cpu=True)
    model, loader = accelerator.prepare(task.model(), task.loader)
    model.eval()
    with torch.no_grad():
        for x, y in loader:
            seen(*accelerator.gather_for_metrics((model(x), y)))


def validate(task):
    total = torch.zeros(())
    evaluate(task, lambda output, y: total.add_(task.loss(output, y)))
    return total.item() / task.steps


def predict(task):
    outputs = []
    evaluate(task, lambda output, _: outputs.append(output))
    return outputs
