"""One start of a situation of `situations.py`, as a program: name, options as JSON, kills as JSON, the rank to kill."""

import json
import sys
import warnings

import torch
from exact.situations import fit, really, remains

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    name, options, kills, rank = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
    trainer = fit(name, really([tuple(kill) for kill in kills], rank), **options)
    if trainer.is_global_zero:
        torch.save(remains(trainer), "remains.pt")
