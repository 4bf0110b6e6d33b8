"""Keras 3 on torch, with Keras' own layers and optimizers."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch
from keras import layers

PACKAGE = "keras"
torch.set_default_device("cpu")


class Net(keras.Model):
    def __init__(self, task):
        super().__init__()
        self.clock_of_task = task.clock
        if task.adam:
            stack = [layers.Flatten(), layers.Dense(128, "relu"), layers.Dense(256, "relu"), layers.Dense(10)]
        else:
            stack = [layers.Dense(32, "relu"), layers.Dense(2)]
        self.net = keras.Sequential(stack)

    def call(self, x):
        clock = self.clock_of_task
        clock.n += 1
        if clock.n == clock.next:
            clock.mark()
        return self.net(x)


def make(task, **options):
    model = Net(task)
    optimizer = keras.optimizers.Adam(1e-3, **options) if task.adam else keras.optimizers.SGD(0.01, **options)
    model.compile(optimizer=optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def data(task):
    return (batch for batch in task.loader) if task.case.data == "ready" else task.loader


def train(task, **options):
    make(task, **options).fit(data(task), epochs=1, verbose=0)


def default(task):
    make(task).fit(data(task), epochs=1)


def log(task):
    make(task).fit(data(task), epochs=1, callbacks=[keras.callbacks.CSVLogger("metrics.csv")])


def accumulate(task):
    train(task, gradient_accumulation_steps=task.accumulate)


def clip(task):
    train(task, global_clipnorm=task.clip)


def bf16(task):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    train(task)


def validate(task):
    return make(task).evaluate(data(task), verbose=0)


def predict(task):
    return make(task).predict(data(task), verbose=0)
