from __future__ import annotations

import pytest
import torch
from compat.programs import lines
from torch import nn

PROGRAM = """
    import sys, torch
    from pytorch_lightning.lite import LightningLite
    from torch.utils.data import DataLoader

    class Lite(LightningLite):
        def run(self, name):
            model = torch.nn.Linear(3, 1)
            model, optimizer = self.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
            loader = self.setup_dataloaders(DataLoader(torch.arange(24.0).reshape(8, 3) / 24, batch_size=2))
            first = {name: value.clone() for name, value in model.state_dict().items()}
            for batch in loader:
                optimizer.zero_grad()
                with self.no_backward_sync(model):
                    self.backward(model(batch).sum())
                alone = self.all_gather(model.weight.grad)
                self.backward(model(batch).square().mean())
                optimizer.step()
            everyones = self.all_gather(model.weight)
            mixed = self.setup_dataloaders(DataLoader(range(8), shuffle=True))
            orders = []
            for epoch in range(2):
                mixed.sampler.set_epoch(epoch)
                orders.append(self.all_gather(torch.cat(list(mixed))).flatten())
            norm = self.setup(torch.nn.BatchNorm1d(3))
            if self.is_global_zero:
                with torch.no_grad():
                    norm(loader.dataset)
                self.save({"first": first, "last": model.state_dict()}, name)
            self.print(torch.equal(*everyones), torch.equal(*alone), flush=True)
            whole = [sorted(order.tolist()) == list(range(8)) for order in orders]
            self.print(*whole, torch.equal(*orders), flush=True)
            said = self.broadcast(("rank", self.global_rank), src=1)
            self.barrier()
            return (*said, self.world_size, self.reduce_decision(True), self.reduce_decision(self.is_global_zero))

    if __name__ == "__main__":
        torch.manual_seed(3)
        lite = Lite(accelerator="cpu", devices=2, strategy=sys.argv[1])
        found = lite.run("weights.pt")
        if lite.is_global_zero:
            print(*found)
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_two_processes_train_as_by_averaging_their_gradients(strategy):
    said = lines(PROGRAM, strategy)

    assert said == ["True False", "True True False", "rank 1 2 True False"]
    kept, model = torch.load("weights.pt"), nn.Linear(3, 1)
    model.load_state_dict(kept["first"])
    torch.manual_seed(3)
    assert torch.equal(nn.Linear(3, 1).weight, model.weight)  # processes go on with the program's random numbers
    data = torch.arange(24.0).reshape(8, 3) / 24
    for step in range(2):
        gradients = []
        for rank in range(2):
            batch = data[rank::2][2 * step : 2 * step + 2]
            loss = [model(batch).sum(), model(batch).square().mean()]
            alone, shared = (torch.autograd.grad(one, list(model.parameters())) for one in loss)
            gradients.append([a + b for a, b in zip(alone, shared, strict=True)])
        with torch.no_grad():
            for parameter, one, other in zip(model.parameters(), *gradients, strict=True):
                parameter -= 0.1 * (one / 2 + other / 2)
    torch.testing.assert_close(dict(model.state_dict()), dict(kept["last"]), rtol=0, atol=1e-7)
