from __future__ import annotations

import re
from importlib import import_module

import pytest

from fulmen.compat import install, names


def all_names():
    return [(path, name, where) for path, row in names.rows().items() for name, where in row.homes.items()]


def test_every_name_of_the_table_is_there():
    lost = []
    for path, name, where in all_names():
        try:
            names.load(where)
        except Exception as error:
            lost.append(f"{path}: {name}: {error!r}")

    assert lost == []


def test_a_module_below_fabric_has_the_row_of_the_same_path():
    assert names.table_path("lightning.fabric.utilities.rank_zero") == "utilities.rank_zero"
    assert names.table_path("lightning_fabric.strategies") == "strategies"
    assert names.table_path("lightning.fabric") == names.table_path("lightning_fabric") == "fabric"
    assert names.table_path("lightning.pytorch") == names.table_path("pytorch_lightning") == ""


def test_nothing_is_there_and_missing_at_once():
    both = [(path, name) for path, name, _ in all_names() if names.missing(path, name)]

    assert both == []


# Paths that have come and gone, below pytorch_lightning or with their root.
PATHS = """
root_module.root_module root_module.decorators pt_overrides core.lightning core.decorators core.memory core.grads
core.step_result core.model_saving core.properties core.root_module callbacks.base callbacks.pt_callbacks callbacks.swa
callbacks.lr_logger callbacks.gpu_usage_logger callbacks.gpu_stats_monitor callbacks.xla_stats_monitor
callbacks.quantization callbacks.progress.base callbacks.progress.progress loggers.base logging logging.test_tube
metrics metrics.functional metrics.sklearns profiler utilities.cli utilities.apply_func utilities.cloud_io
utilities.device_parser utilities.distributed utilities.finite_checks utilities.fetching utilities.auto_restart
utilities.meta utilities.metrics utilities.optimizer utilities.xla_device utilities.logger utilities.argparse
utilities.argparse_utils utilities.debugging utilities.device_dtype_mixin utilities.warning_utils utilities.model_utils
utilities.registry trainer.supporters trainer.progress trainer.training_loop trainer.evaluation_loop
trainer.data_loading trainer.training_io trainer.training_tricks trainer.logging trainer.distrib_parts
trainer.distrib_data_parallel trainer.callback_hook trainer.optimizers trainer.properties trainer.lr_finder
trainer.seed plugins.training_type plugins.training_type.ddp plugins.ddp_plugin plugins.native_amp plugins.layer_sync
plugins.environments.slurm_environment plugins.environments.torchelastic_environment plugins.environments.slurm
plugins.environments.cluster_environment plugins.precision.native_amp plugins.io accelerators.gpu_accelerator
accelerators.ddp_accelerator overrides.data_parallel overrides.base overrides.fairscale overrides.torch_distributed
overrides.distributed lite loops loops.base tuner.auto_gpu_select serve strategies.launchers trainer.connectors
utilities.migration utilities.upgrade_checkpoint utilities.consolidate_checkpoint utilities.deepspeed
lightning.app lightning.store lightning.data lightning.fabric.wrappers lightning.fabric.plugins.collectives
lightning.fabric.utilities.imports lightning.fabric.plugins.environments lightning.fabric.loggers
"""
SAID = re.compile(r"is not part of Fulmen yet: .* will come|left Lightning in \d\.\d|has no counterpart here\. Use ")


@pytest.mark.parametrize("path", PATHS.split())
def test_every_path_that_there_was_is_there_or_says_why_not(path):
    install()
    module = path if path.startswith("lightning") else f"pytorch_lightning.{path}"
    said = ""
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        said = str(error)

    assert not said or SAID.search(said), said


@pytest.mark.parametrize("name", ["is_wrapped", "DistributedType", "TensorMetric", "TrainsLogger", "FitLoop"])
def test_names_that_are_missing_say_why(name):
    assert SAID.search(f"{names.missing('somewhere', name)}")


def test_the_table_knows_the_eras():
    assert names.rows()["callbacks.base"][:2] == ("0.7", "1.9")
    assert names.rows()["callbacks"][:2] == ("0.5", "-")


def test_what_did_mixed_precision_compares_with_its_name():
    kind = names.load(names.home("utilities", "AMPType"))

    assert kind.NATIVE == "native"
    assert names.load(names.home("utilities.enums", "AMPType")) is kind
