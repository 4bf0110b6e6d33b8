"""PyTorch-Ignite: an engine of events around the step."""

import csv

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import ProgressBar
from ignite.metrics import Loss

PACKAGE = "pytorch-ignite"


def make(task, wrap=lambda model: model, **options):
    model = wrap(task.model())
    return create_supervised_trainer(model, task.optimizer(model.parameters()), task.loss, **options)


def train(task):
    make(task, output_transform=lambda x, y, y_pred, loss: loss).run(task.loader, max_epochs=1)


def log(task):
    engine = make(task)
    ProgressBar().attach(engine, output_transform=lambda loss: {"train_loss": loss})
    with open("metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)

        @engine.on(Events.ITERATION_COMPLETED(every=50))
        def row(engine):
            writer.writerow([engine.state.iteration, engine.state.output])

        engine.run(task.loader, max_epochs=1)


def default(task):
    make(task).run(task.loader, max_epochs=1)


def accumulate(task):
    make(task, gradient_accumulation_steps=task.accumulate).run(task.loader, max_epochs=1)


def own_step(clip=None, bf16=False):
    """The engine around a step of one's own, for what the ready-made trainer has no argument for."""

    def run(task):
        model = task.model()
        optimizer = task.optimizer(model.parameters())

        def step(engine, batch):
            model.train()
            x, y = batch
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = task.loss(model(x), y)
            loss.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            return loss

        Engine(step).run(task.loader, max_epochs=1)

    return run


clip, bf16 = own_step(clip=1.0), own_step(bf16=True)


def validate(task):
    evaluator = create_supervised_evaluator(task.model(), {"loss": Loss(task.loss)})
    return evaluator.run(task.loader).metrics["loss"]


def predict(task):
    outputs = []
    evaluator = create_supervised_evaluator(task.model())
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda e: outputs.append(e.state.output[0]))
    evaluator.run(task.loader)
    return outputs


def ddp(task):
    with idist.Parallel(backend="gloo") as parallel:
        parallel.run(lambda rank: make(task, idist.auto_model).run(task.loader, max_epochs=1))
