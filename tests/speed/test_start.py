"""What `import fulmen` loads, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import json, sys, torch
before = set(sys.modules)
from fulmen import LightningModule, Trainer
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_import_loads_at_most_60_modules_beyond_torch_and_no_optional_package():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)

    assert len(loaded) <= 60, loaded
    roots = {name.split(".")[0] for name in loaded}
    assert roots - set(sys.stdlib_module_names) == {"fulmen"}
