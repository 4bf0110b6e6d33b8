"""Run works on two ranks, each of which writes the results into rank<N>.json: ranks.py STRATEGY WORK[,WORK...]."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from fulmen import device, precision
from fulmen.strategy import DDPStrategy, Strategy, choose
from fulmen.warn import rank_zero_only

BATCHES = [[[float(rank + step), 1.0] for rank in range(2)] for step in range(4)]


class Net(nn.Module):
    """Two layers, one of which a step may leave out."""

    automatic_optimization = True

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2, momentum=1.0) if batch_norm else nn.Identity()
        self.second = nn.Linear(2, 1)

    def training_step(self, batch):
        return self.second(self.norm(self.first(batch))).square().mean()

    def validation_step(self, batch):
        return self.first(batch)


def mine(strategy: Strategy, step: int) -> torch.Tensor:
    return torch.tensor([BATCHES[step][strategy.global_rank]])


def weights(module: nn.Module) -> list[float]:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).tolist()


def prepared(strategy: Strategy, module: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    strategy.setup(module, precision.choose(None, "cpu"))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    strategy.setup_optimizers([optimizer])
    return module, optimizer


def train(strategy: Strategy) -> list[float]:
    module, optimizer = prepared(strategy, Net())
    step = strategy.wrap_step("training_step")
    for i in range(4):
        strategy.backward(step(mine(strategy, i)))
        optimizer.step()
        optimizer.zero_grad()
    return weights(module)


def start_different(strategy: Strategy) -> list[float]:
    """Rank zero's first weights count, in training and without."""
    found = []
    for training in (True, False):
        module = Net()
        with torch.no_grad():
            module.second.bias.fill_(float(strategy.global_rank))
        strategy.setup(module, precision.choose(None, "cpu"), training)
        found.append(module.second.bias.item())
    return found


def accumulate(strategy: Strategy) -> list[float]:
    module, optimizer = prepared(strategy, Net())
    step = strategy.wrap_step("training_step")
    with strategy.no_sync():
        strategy.backward(step(mine(strategy, 0)))
    before = module.second.bias.grad.item()
    strategy.backward(step(mine(strategy, 1)))
    optimizer.step()
    return [before, *weights(module)]


def skip(strategy: Strategy) -> list[float]:
    """Rank one has no loss in the second step."""
    module, optimizer = prepared(strategy, Net())
    step = strategy.wrap_step("training_step")
    plain, module.training_step = module.training_step, lambda batch: None
    for i in range(3):
        skipped = i == 1 and strategy.global_rank == 1
        module.training_step = (lambda batch: None) if skipped else plain
        loss = step(mine(strategy, i))
        strategy.skip_backward() if loss is None else strategy.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return weights(module)


def manual(strategy: Strategy) -> list[float]:
    """Two backward passes within the step, each for one half of the module."""
    module = Net(batch_norm=True)
    module.automatic_optimization = False
    module, _ = prepared(strategy, module)
    first = torch.optim.SGD(module.first.parameters(), lr=0.1)
    second = torch.optim.SGD(module.second.parameters(), lr=0.1)

    def training_step(batch):
        strategy.backward(module.first(batch).square().mean())
        first.step()
        with strategy.no_sync():
            strategy.backward(
                module.second(module.norm(module.first(torch.cat([batch, -batch]))).detach()).square().mean()
            )
        strategy.backward(module.second(batch).square().mean())
        second.step()
        module.zero_grad()

    module.training_step = training_step
    step = strategy.wrap_step("training_step")
    for i in range(3):
        step(mine(strategy, i))
    return weights(module)


def unused(strategy: Strategy) -> list[float]:
    module, optimizer = prepared(strategy, Net())
    module.training_step = lambda batch: {"loss": module.second(batch).mean(), "other": 1}
    step = strategy.wrap_step("training_step")
    for i in range(2):
        strategy.backward(step(mine(strategy, i))["loss"])
        optimizer.step()
    return weights(module)


def buffers(strategy: Strategy) -> list[float]:
    """Batch statistics of rank zero count; each rank begins its step with them."""
    module, _ = prepared(strategy, Net(batch_norm=True))
    seen, plain = [], module.training_step

    def training_step(batch):
        seen.append(module.norm.running_mean.tolist())
        return plain(batch)

    module.training_step = training_step
    step = strategy.wrap_step("training_step")
    for i in range(2):
        strategy.backward(step(torch.cat([mine(strategy, i), torch.zeros(1, 2)])))
    return [*seen[1], *module.norm.running_mean.tolist()]


def frozen(strategy: Strategy) -> list[bool]:
    module = Net().requires_grad_(False)
    strategy.setup(module, precision.choose(None, "cpu"))
    return [strategy.wraps, strategy.model is module]


def unwrapped(strategy: Strategy) -> dict[str, object]:
    module, _ = prepared(strategy, Net())
    found = {
        "wraps": strategy.wraps,
        "keys": sorted(module.state_dict()),
        "validation": strategy.wrap_step("validation_step") == module.validation_step,
    }
    strategy.teardown()
    return {**found, "after": strategy.model is module and not strategy.wraps}


def collectives(strategy: Strategy) -> dict[str, object]:
    rank = strategy.global_rank
    value = torch.tensor(float(rank + 1))
    parameter = torch.tensor([rank + 1.0], requires_grad=True)
    gathered = strategy.gather({"a": torch.tensor([rank, 7]), "b": (torch.ones(1) * rank, "text")})
    (strategy.gather(parameter, sync_grads=True) * torch.tensor([[1.0], [10.0]])).sum().backward()
    return {
        "reduce": {op: strategy.reduce(value, reduce_op=op).item() for op in ("mean", "sum", "min", "max")},
        "reduce_op": strategy.reduce(value, None, torch.distributed.ReduceOp.MAX).item(),
        "whole": strategy.reduce(torch.tensor(rank)).item(),
        "untouched": value.item(),
        "gather": [gathered["a"].tolist(), gathered["b"][0].tolist(), gathered["b"][1]],
        "number": strategy.all_gather(rank).tolist(),
        "grad": parameter.grad.tolist(),
        "objects": strategy.gather_object({"rank": rank}),
        "broadcast": [strategy.broadcast({"rank": rank}), strategy.broadcast("of one" if rank else "", src=1)],
        "all": strategy.reduce_boolean_decision(rank == 0),
        "any": strategy.reduce_boolean_decision(rank == 0, all=False),
    }


def uneven(strategy: Strategy) -> str:
    try:
        strategy.gather(torch.zeros(2 + strategy.global_rank, 3))
    except ValueError as error:
        return str(error)
    return "nothing was raised"


def place(strategy: Strategy) -> dict[str, object]:
    strategy.barrier("here")
    return {
        "ranks": [strategy.global_rank, strategy.local_rank, strategy.node_rank, strategy.world_size],
        "zero": strategy.is_global_zero,
        "sampler": strategy.distributed_sampler_kwargs,
        "quiet": rank_zero_only.rank,
        "variables": [os.environ.get(name) for name in ("WORLD_SIZE", "LOCAL_RANK", "RANK")],
        "pid": os.getpid(),
    }


def save(strategy: Strategy) -> object:
    strategy.save({"rank": strategy.global_rank}, "new/a.ckpt")
    found = strategy.load("new/a.ckpt")
    try:
        strategy.save({"rank": strategy.global_rank}, "/dev/null/a.ckpt")
    except Exception as error:
        return [found["rank"], str(error)]
    return found


def run(strategy: Strategy, works: list[str]) -> dict[str, object]:
    results = {work: globals()[work](strategy) for work in works}
    Path(f"rank{strategy.global_rank}.json").write_text(json.dumps(results))
    return results


def main(name: str, works: str) -> None:
    if name == "comm_hook":
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_wrapper

        name = DDPStrategy(ddp_comm_hook=bf16_compress_hook, ddp_comm_wrapper=fp16_compress_wrapper)
    strategy = choose(name, *device.choose("cpu", 2))
    result = strategy.launch(partial(run, strategy, works.split(",")))
    if strategy.is_global_zero:
        Path("result.json").write_text(json.dumps(result))
        again = choose(name, *device.choose("cpu", 2))
        Path("again.json").write_text(json.dumps(again.launch(partial(place, again))))
    elif "LOCAL_RANK" in os.environ:
        again = choose(name, *device.choose("cpu", 2))
        again.launch(partial(place, again))


if __name__ == "__main__":
    main(*sys.argv[1:])
