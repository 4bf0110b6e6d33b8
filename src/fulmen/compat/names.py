"""The table of old names: where each name is now, on which paths it stood, since when and until when.

`HOMES` says where a name lives in Fulmen. `PATHS` has a row for each old module, with the releases that brought and
removed it ("-": it still exists) and the names that it held; `Old=New` is a name that has changed. Paths are those
below `pytorch_lightning`, also spelt `lightning` and `lightning.pytorch`; a path below `lightning.fabric` or
`lightning.lite`, also spelt `lightning_fabric` and `lightning_lite`, has the row of the same path here. `DUE` and
`GONE` hold what is missing.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

ROOTS = ("pytorch_lightning", "lightning", "lightning_fabric", "lightning_lite")

VERSION = "2.6.6"
"""The release whose public interface Fulmen has, for programs that look at versions."""

HOMES = """
fulmen                    Trainer LightningModule LightningDataModule
fulmen.callbacks          Callback Checkpoint EarlyStopping GradientAccumulationScheduler LambdaCallback
                          LearningRateMonitor ModelCheckpoint ModelSummary OnExceptionCheckpoint ProgressBar
                          RichModelSummary RichProgressBar TQDMProgressBar Timer
fulmen.checkpoint.hparams AttributeDict HyperparametersMixin
fulmen.checkpoint.sidefiles load_hparams_from_yaml save_hparams_to_yaml
fulmen.collection         apply_to_collection convert_tensors_to_scalars convert_to_tensors move_data_to_device
                          recursive_detach
fulmen.combined           CombinedLoader
fulmen.compiled           from_compiled to_uncompiled
fulmen.compat.constructors DDPSpawnStrategy
fulmen.compat.functions   auto_move_data data_loader load get_filesystem _module_available rank_prefixed_message
                          _convert_params _flatten_dict _sanitize_params _get_default_scheduler_config
                          is_param_in_hook_signature
fulmen.compat.lite        LightningLite
fulmen.compat.loggers     LoggerCollection TestTubeLogger
fulmen.compat.names       VERSION
fulmen.compat.results     EvalResult TrainResult
fulmen.demos              BoringModel ManualOptimBoringModel BoringDataModule BoringDataModuleNoLen DemoModel
                          IterableBoringDataModule RandomDataset RandomDictDataset RandomIterableDataset
                          RandomIterableDatasetWithLen
fulmen.data               UnrepeatedDistributedSampler
fulmen.device             Accelerator CPUAccelerator CUDAAccelerator MPSAccelerator AcceleratorRegistry
                          find_usable_cuda_devices
fulmen.errors             MisconfigurationException SIGTERMException
fulmen.flops              measure_flops get_available_flops
fulmen.introspection      is_overridden is_picklable clean_namespace parse_class_init_keys get_init_args
                          collect_init_args save_hyperparameters lightning_hasattr lightning_getattr lightning_setattr
fulmen.lifecycle          ModelHooks DataHooks CheckpointHooks
fulmen.loaders            extract_batch_size has_len has_len_all_ranks has_iterable_dataset sized_len
                          suggested_max_num_workers
fulmen.loggers            Logger DummyLogger CSVLogger TensorBoardLogger WandbLogger
fulmen.callbacks.progress  RichProgressBarTheme
fulmen.loggers.base       DummyExperiment rank_zero_experiment merge_dicts prefixed
fulmen.memory             garbage_collection_cuda is_oom_error is_cuda_out_of_memory is_cudnn_snafu is_out_of_cpu_memory
fulmen.optim              LightningOptimizer LRSchedulerConfig
fulmen.parameters         grad_norm find_shared_parameters set_shared_parameters
fulmen.precision          Precision MixedPrecision HalfPrecision DoublePrecision
fulmen.seed               seed_everything reset_seed isolate_rng pl_worker_init_function
fulmen.states             TrainerFn RunningStage TrainerState TrainerStatus
fulmen.strategy           Strategy SingleDeviceStrategy ParallelStrategy DDPStrategy StrategyRegistry
fulmen.strategy.checkpoint_io  CheckpointIO TorchCheckpointIO AsyncCheckpointIO
fulmen.strategy.layer_sync  LayerSync TorchSyncBatchNorm
fulmen.strategy.environment  ClusterEnvironment LightningEnvironment TorchElasticEnvironment KubeflowEnvironment
                          SLURMEnvironment
fulmen.summary            summarize LayerSummary get_human_readable_count get_formatted_model_size parse_batch_shape
fulmen.types              STEP_OUTPUT TRAIN_DATALOADERS EVAL_DATALOADERS EPOCH_OUTPUT OptimizerLRScheduler
                          OptimizerConfig OptimizerLRSchedulerConfig LRSchedulerConfigType LRSchedulerTypeUnion
                          LRSchedulerTypeTuple LRSchedulerType LightningEnum GradClipAlgorithmType
fulmen.compat.types       _PATH _DEVICE _MAP_LOCATION_TYPE _PARAMETERS _METRIC _NUMBER _EVALUATE_OUTPUT _PREDICT_OUTPUT
                          _LRScheduler AMPType LightningDeprecationWarning _IS_WINDOWS FLOAT16_EPSILON FLOAT32_EPSILON
                          FLOAT64_EPSILON ArgsType OptimizerCallable LRSchedulerCallable
fulmen.warn               rank_zero_only rank_zero_info rank_zero_warn rank_zero_debug rank_zero_deprecation log
                          PossibleUserWarning disable_possible_user_warnings
"""

PATHS = """
.  0.5  -  Trainer LightningModule LightningDataModule Callback seed_everything __version__=VERSION _logger=log
           data_loader EvalResult TrainResult
__about__  0.5  -  __version__=VERSION
accelerators  1.0  -  Accelerator CPUAccelerator CUDAAccelerator MPSAccelerator AcceleratorRegistry
              find_usable_cuda_devices GPUAccelerator=CUDAAccelerator ACCELERATOR_REGISTRY=AcceleratorRegistry
accelerators.accelerator  1.0  -  Accelerator
accelerators.cpu  1.2  -  CPUAccelerator
accelerators.cuda  1.9  -  CUDAAccelerator find_usable_cuda_devices
accelerators.gpu  1.2  1.9  GPUAccelerator=CUDAAccelerator
accelerators.mps  1.7  -  MPSAccelerator
accelerators.registry  1.7  2.0  AcceleratorRegistry
callbacks  0.5  -  Callback Checkpoint EarlyStopping GradientAccumulationScheduler LambdaCallback LearningRateMonitor
           ModelCheckpoint ModelSummary OnExceptionCheckpoint ProgressBar RichModelSummary RichProgressBar
           TQDMProgressBar Timer LearningRateLogger=LearningRateMonitor ProgressBarBase=ProgressBar
callbacks.base  0.7  1.9  Callback
callbacks.callback  1.9  -  Callback
callbacks.checkpoint  1.5  -  Checkpoint
callbacks.early_stopping  0.7  -  EarlyStopping
callbacks.gradient_accumulation_scheduler  0.7  -  GradientAccumulationScheduler
callbacks.lambda_function  0.9  -  LambdaCallback
callbacks.lr_logger  0.8  1.0  LearningRateLogger=LearningRateMonitor
callbacks.lr_monitor  0.10  -  LearningRateMonitor
callbacks.model_checkpoint  0.7  -  ModelCheckpoint
callbacks.model_summary  1.5  -  ModelSummary
callbacks.on_exception_checkpoint  1.8  -  OnExceptionCheckpoint
callbacks.progress  0.8  -  ProgressBar RichProgressBar TQDMProgressBar ProgressBarBase=ProgressBar
callbacks.progress.base  1.5  2.0  ProgressBarBase=ProgressBar
callbacks.progress.progress  1.5  1.7  ProgressBar=TQDMProgressBar
callbacks.progress.progress_bar  2.0  -  ProgressBar
callbacks.progress.rich_progress  1.5  -  RichProgressBar RichProgressBarTheme
callbacks.progress.tqdm_progress  1.5  -  TQDMProgressBar
callbacks.pt_callbacks  0.5  0.7  Callback EarlyStopping ModelCheckpoint GradientAccumulationScheduler
callbacks.rich_model_summary  1.5  -  RichModelSummary
callbacks.timer  1.3  -  Timer
cli  1.7  -  ArgsType OptimizerCallable LRSchedulerCallable
core  0.7  -  LightningModule LightningDataModule data_loader
core.datamodule  0.9  -  LightningDataModule
core.decorators  0.7  1.7  auto_move_data data_loader
core.hooks  0.6  -  ModelHooks DataHooks CheckpointHooks
core.lightning  0.6  1.9  LightningModule
core.memory  0.6  1.7  ModelSummary=fulmen.compat.attributes:_summary LayerSummary
core.mixins  1.3  -  HyperparametersMixin
core.mixins.hparams_mixin  1.3  -  HyperparametersMixin
core.module  1.7  -  LightningModule
core.optimizer  1.1  -  LightningOptimizer
core.root_module  0.6  0.8  LightningModule
core.saving  0.7  -  load_hparams_from_yaml save_hparams_to_yaml get_filesystem
core.step_result  0.9  1.4  EvalResult TrainResult
demos  1.5  -  BoringModel BoringDataModule DemoModel
demos.boring_classes  1.7  -  BoringModel ManualOptimBoringModel BoringDataModule BoringDataModuleNoLen DemoModel
                     IterableBoringDataModule RandomDataset RandomDictDataset RandomIterableDataset
                     RandomIterableDatasetWithLen
loggers  0.7  -  Logger CSVLogger TensorBoardLogger WandbLogger LightningLoggerBase=Logger LoggerCollection
         TestTubeLogger rank_zero_only
loggers.base  0.7  1.9  LightningLoggerBase=Logger rank_zero_experiment rank_zero_only DummyLogger DummyExperiment
              merge_dicts LoggerCollection
loggers.csv_logs  1.0  -  CSVLogger
loggers.logger  1.7  -  Logger DummyLogger DummyExperiment rank_zero_experiment merge_dicts LoggerCollection
loggers.tensorboard  0.7  -  TensorBoardLogger
loggers.test_tube  0.7  1.7  TestTubeLogger
loggers.wandb  0.7  -  WandbLogger
logging  0.5  0.9  LightningLoggerBase=Logger TensorBoardLogger WandbLogger TestTubeLogger rank_zero_only
logging.tensorboard  0.6  0.9  TensorBoardLogger
logging.test_tube  0.5  0.9  TestTubeLogger
logging.wandb  0.6  0.9  WandbLogger
metrics  0.8  1.5
metrics.classification  0.8  1.5
metrics.functional  0.8  1.5
metrics.functional.classification  0.8  1.5
metrics.metric  0.8  1.5  Metric=fulmen.compat.metrics:Metric MetricCollection=torchmetrics:MetricCollection
metrics.regression  0.8  1.5
metrics.utils  0.10  1.5  dim_zero_cat=torchmetrics.utilities.data:dim_zero_cat
               select_topk=torchmetrics.utilities.data:select_topk to_onehot=fulmen.compat.metrics:to_onehot
overrides  0.6  -
overrides.distributed  1.0  -  UnrepeatedDistributedSampler
overrides.data_parallel  0.6  2.0  LightningDistributedDataParallel=torch.nn.parallel:DistributedDataParallel
plugins  1.0  -  Precision MixedPrecision HalfPrecision DoublePrecision PrecisionPlugin=Precision
         MixedPrecisionPlugin=MixedPrecision NativeMixedPrecisionPlugin=MixedPrecision
         DoublePrecisionPlugin=DoublePrecision DDPPlugin=DDPStrategy DDPSpawnPlugin=DDPSpawnStrategy
         TrainingTypePlugin=Strategy SingleDevicePlugin=SingleDeviceStrategy
         CheckpointIO TorchCheckpointIO AsyncCheckpointIO LayerSync TorchSyncBatchNorm
plugins.ddp_plugin  1.0  1.2  DDPPlugin=DDPStrategy
plugins.environments  1.2  -  ClusterEnvironment LightningEnvironment TorchElasticEnvironment KubeflowEnvironment
                      SLURMEnvironment
plugins.environments.cluster_environment  1.2  -  ClusterEnvironment
plugins.environments.kubeflow  1.9  -  KubeflowEnvironment
plugins.environments.kubeflow_environment  1.5  1.8  KubeflowEnvironment
plugins.environments.lightning  1.9  -  LightningEnvironment
plugins.environments.lightning_environment  1.2  1.8  LightningEnvironment
plugins.environments.slurm  1.9  -  SLURMEnvironment
plugins.environments.slurm_environment  1.2  1.8  SLURMEnvironment
plugins.environments.torchelastic  1.9  -  TorchElasticEnvironment
plugins.environments.torchelastic_environment  1.2  1.8  TorchElasticEnvironment
plugins.io  1.5  -  CheckpointIO TorchCheckpointIO AsyncCheckpointIO
plugins.io.async_plugin  1.7  -  AsyncCheckpointIO CheckpointIO
plugins.io.checkpoint_io  2.0  -  CheckpointIO
plugins.io.checkpoint_plugin  1.5  -  CheckpointIO
plugins.io.torch_io  2.0  -  TorchCheckpointIO
plugins.io.torch_plugin  1.5  -  TorchCheckpointIO
plugins.layer_sync  1.8  -  LayerSync TorchSyncBatchNorm
plugins.precision  1.2  -  Precision MixedPrecision HalfPrecision DoublePrecision PrecisionPlugin=Precision
                   MixedPrecisionPlugin=MixedPrecision NativeMixedPrecisionPlugin=MixedPrecision
                   DoublePrecisionPlugin=DoublePrecision
plugins.precision.amp  1.7  -  MixedPrecision MixedPrecisionPlugin=MixedPrecision
plugins.precision.double  1.3  -  DoublePrecision DoublePrecisionPlugin=DoublePrecision
plugins.precision.half  2.1  -  HalfPrecision
plugins.precision.native_amp  1.2  2.0  NativeMixedPrecisionPlugin=MixedPrecision MixedPrecisionPlugin=MixedPrecision
plugins.precision.precision  2.0  -  Precision
plugins.precision.precision_plugin  1.2  2.0  PrecisionPlugin=Precision
plugins.training_type  1.2  1.8  DDPPlugin=DDPStrategy DDPSpawnPlugin=DDPSpawnStrategy TrainingTypePlugin=Strategy
                       SingleDevicePlugin=SingleDeviceStrategy
plugins.training_type.ddp  1.2  1.8  DDPPlugin=DDPStrategy
plugins.training_type.ddp_spawn  1.2  1.8  DDPSpawnPlugin=DDPSpawnStrategy
root_module  0.5  0.8
root_module.decorators  0.5  0.8  data_loader
root_module.root_module  0.5  0.8  LightningModule
strategies  1.6  -  Strategy SingleDeviceStrategy ParallelStrategy DDPStrategy DDPSpawnStrategy
            StrategyRegistry STRATEGY_REGISTRY=StrategyRegistry
strategies.ddp  1.6  -  DDPStrategy
strategies.ddp_spawn  1.6  2.0  DDPSpawnStrategy
strategies.parallel  1.6  -  ParallelStrategy
strategies.single_device  1.6  -  SingleDeviceStrategy
strategies.strategy  1.6  -  Strategy
trainer  0.5  -  Trainer seed_everything
trainer.connectors  0.9  -
trainer.connectors.accelerator_connector  0.9  -  _AcceleratorConnector=fulmen.compat.devices:AskedDevices
trainer.seed  0.8  0.9  seed_everything
trainer.states  0.9  -  TrainerFn RunningStage TrainerState TrainerStatus
trainer.supporters  0.7  2.0  CombinedLoader
trainer.optimizers  0.7  1.6  _get_default_scheduler_config
trainer.trainer  0.5  -  Trainer
utilities  0.6  -  AttributeDict CombinedLoader GradClipAlgorithmType LightningEnum disable_possible_user_warnings
           find_shared_parameters grad_norm is_picklable measure_flops move_data_to_device rank_zero_deprecation
           rank_zero_info rank_zero_only rank_zero_warn set_shared_parameters suggested_max_num_workers
           apply_to_collection AMPType _module_available _IS_WINDOWS FLOAT16_EPSILON FLOAT32_EPSILON FLOAT64_EPSILON
utilities.argparse  1.3  2.0  add_argparse_args=fulmen.compat.argparse:add_argparse_args
                    from_argparse_args=fulmen.compat.argparse:from_argparse_args
                    parse_argparser=fulmen.compat.argparse:parse_argparser
utilities.argparse_utils  0.9  1.4  from_argparse_args=fulmen.compat.argparse:from_argparse_args
utilities.apply_func  0.8  -  apply_to_collection move_data_to_device convert_to_tensors
                      convert_tensors_to_scalars
utilities.cloud_io  0.8  -  load get_filesystem _load=load
utilities.combined_loader  2.0  -  CombinedLoader
utilities.compile  2.0  -  from_compiled to_uncompiled
utilities.data  0.8  -  extract_batch_size has_len_all_ranks has_iterable_dataset has_len sized_len
                suggested_max_num_workers
utilities.distributed  0.7  2.0  rank_zero_only rank_zero_info rank_zero_warn rank_zero_debug rank_zero_deprecation
                       distributed_available=fulmen.strategy.collectives:active
                       gather_all_tensors=torchmetrics.utilities.distributed:gather_all_tensors
utilities.enums  1.2  -  GradClipAlgorithmType LightningEnum AMPType
utilities.exceptions  0.8  -  MisconfigurationException SIGTERMException
utilities.grads  1.5  -  grad_norm
utilities.imports  1.1  -  _module_available _IS_WINDOWS _TORCH_GREATER_EQUAL_2_0=fulmen.compat.types:TRUE
                   _TORCH_GREATER_EQUAL_2_1=fulmen.compat.types:TRUE _TORCH_GREATER_EQUAL_2_2=fulmen.compat.types:TRUE
utilities.logger  1.6  2.0  _convert_params _flatten_dict _sanitize_params _add_prefix=prefixed
utilities.memory  0.8  -  garbage_collection_cuda is_oom_error is_cuda_out_of_memory is_cudnn_snafu is_out_of_cpu_memory
                  recursive_detach
utilities.model_helpers  1.3  -  is_overridden
utilities.model_summary  1.4  -  ModelSummary=fulmen.summary:ModelSummary LayerSummary summarize
                         get_human_readable_count get_formatted_model_size parse_batch_shape
utilities.model_utils  0.9  1.4  is_overridden
utilities.parameter_tying  1.8  -  find_shared_parameters set_shared_parameters
utilities.parsing  0.7  -  AttributeDict clean_namespace collect_init_args get_init_args is_picklable lightning_getattr
                   lightning_hasattr lightning_setattr parse_class_init_keys save_hyperparameters
utilities.rank_zero  1.6  -  rank_zero_only rank_zero_info rank_zero_warn rank_zero_debug rank_zero_deprecation
                     LightningDeprecationWarning rank_prefixed_message
utilities.seed  0.9  -  seed_everything reset_seed isolate_rng pl_worker_init_function
utilities.signature_utils  1.6  -  is_param_in_hook_signature
utilities.types  1.2  -  STEP_OUTPUT TRAIN_DATALOADERS EVAL_DATALOADERS EPOCH_OUTPUT OptimizerLRScheduler
                 OptimizerConfig OptimizerLRSchedulerConfig LRSchedulerConfig LRSchedulerConfigType LRSchedulerTypeUnion
                 LRSchedulerTypeTuple _METRIC _PATH _EVALUATE_OUTPUT _PREDICT_OUTPUT _NUMBER _DEVICE _LRScheduler
                 _MAP_LOCATION_TYPE _PARAMETERS ReduceOp=torch.distributed:ReduceOp
utilities.throughput  2.1  -  measure_flops get_available_flops
utilities.warning_utils  0.10  1.4  rank_zero_warn
utilities.warnings  1.3  -  PossibleUserWarning disable_possible_user_warnings rank_zero_warn rank_zero_deprecation
fabric  1.9  -  seed_everything
lite  1.5  2.0  LightningLite seed_everything
lite.lite  1.5  2.0  LightningLite
"""

STARRED = {
    "metrics": "fulmen.compat.metrics",
    "metrics.classification": "fulmen.compat.metrics",
    "metrics.regression": "fulmen.compat.metrics",
    "metrics.functional": "fulmen.compat.functional",
    "metrics.functional.classification": "fulmen.compat.functional",
}
"""Old modules that hold all public names of one of Fulmen's."""

COMPLETED = {
    "fulmen:Trainer": "argparse",
    "fulmen:LightningModule": "bases",
    "fulmen:LightningDataModule": "bases",
    "fulmen.callbacks:Callback": "bases",
    "fulmen.callbacks:LambdaCallback": "bases",
    "fulmen.callbacks:ModelCheckpoint": "constructors",
    "fulmen.callbacks:EarlyStopping": "constructors",
    "fulmen.callbacks:ProgressBar": "bars",
    "fulmen.callbacks:TQDMProgressBar": "bars",
    "fulmen.loggers:Logger": "loggers",
    "fulmen.compat.loggers:LoggerCollection": "loggers",
    "fulmen.strategy:DDPStrategy": "constructors",
    "fulmen.compat.constructors:DDPSpawnStrategy": "constructors",
}
"""Classes of which old code expects more than they have today, with the module here that adds it at first use."""

DUE = """
the command line: utilities.cli LightningCLI LightningArgumentParser SaveConfigCallback instantiate_class
    instantiate_module
the tuner: tuner tuner.tuning tuner.lr_finder tuner.batch_size_scaling Tuner LearningRateFinder
    BatchSizeFinder callbacks.lr_finder callbacks.batch_size_finder
profilers: profiler profilers SimpleProfiler AdvancedProfiler PyTorchProfiler PassThroughProfiler
    Profiler XLAProfiler BaseProfiler AbstractProfiler
finetuning: callbacks.finetuning BaseFinetuning BackboneFinetuning
weight averaging: callbacks.stochastic_weight_avg callbacks.swa callbacks.weight_averaging
    StochasticWeightAveraging WeightAveraging EMAWeightAveraging
pruning and quantization: callbacks.pruning callbacks.quantization ModelPruning QuantizationAwareTraining
writing of predictions: callbacks.prediction_writer BasePredictionWriter WriteInterval
statistics of devices: callbacks.device_stats_monitor callbacks.gpu_stats_monitor callbacks.gpu_usage_logger
    callbacks.xla_stats_monitor DeviceStatsMonitor GPUStatsMonitor GpuUsageLogger XLAStatsMonitor
throughput and spikes: callbacks.throughput_monitor callbacks.spike ThroughputMonitor Throughput SpikeDetection
    utilities.spike
the MLflow logger: loggers.mlflow MLFlowLogger
the Comet logger: loggers.comet CometLogger
the Neptune logger: loggers.neptune NeptuneLogger
DeepSpeed: strategies.deepspeed utilities.deepspeed DeepSpeedStrategy DeepSpeedPlugin DeepSpeedPrecision
    convert_zero_checkpoint_to_fp32_state_dict DeepSpeedSummary
FSDP and tensor parallelism: utilities.consolidate_checkpoint strategies.fsdp strategies.model_parallel
    FSDPStrategy FSDPPrecision ModelParallelStrategy DDPFullyShardedNativeStrategy
DataParallel: DataParallelPlugin DataParallelStrategy
TPUs: accelerators.tpu accelerators.xla utilities.xla_device TPUAccelerator XLAAccelerator
    XLADeviceUtils XLAStrategy TPUSpawnStrategy SingleTPUStrategy XLAPrecision
Fabric: fabric.fabric fabric.wrappers fabric.connector plugins.collectives utilities.optimizer Fabric
    is_wrapped
serving: serve ServableModule ServableModuleValidator
more cluster environments: LSFEnvironment MPIEnvironment XLAEnvironment
"""
"""What Lightning has or had and Fulmen has not yet: a topic, and the paths and names that belong to it."""

GONE = """
0.8  -                     pt_overrides core.model_saving core.properties
0.9  -                     TrainsLogger loggers.trains
0.10 -                     trainer.data_loading trainer.distrib_data_parallel trainer.distrib_parts trainer.logging
                           trainer.training_io trainer.training_tricks trainer.callback_hook trainer.lr_finder
1.0  Metric                TensorMetric NumpyMetric metrics.sklearns
1.2  strategy='ddp'        accelerators.ddp_accelerator DDPAccelerator accelerators.gpu_accelerator
1.5  torchmetrics          StatScores BLEUScore RMSE RMSLE DiceCoefficient multiclass_roc
1.4  -                     RPCPlugin RPCSequentialPlugin core.grads plugins.native_amp
1.6  -                     trainer.training_loop trainer.evaluation_loop trainer.properties
1.8  -                     utilities.registry utilities.debugging ModelIO utilities.device_dtype_mixin
1.8  DDPStrategy           DDPShardedPlugin DDPShardedStrategy DDPSpawnShardedStrategy
2.0  precision='16-mixed'  ApexMixedPrecisionPlugin plugins.precision.apex_amp
2.0  -                     HorovodStrategy BaguaStrategy ColossalAIStrategy HivemindStrategy DDP2Strategy DDP2Plugin
2.0  -                     HPUAccelerator IPUAccelerator HPUParallelStrategy SingleHPUStrategy IPUStrategy
2.0  convert_tensors_to_scalars  utilities.metrics
2.0  -                     overrides.base overrides.fairscale overrides.torch_distributed trainer.progress
2.0  -                     utilities.auto_restart utilities.device_parser utilities.fetching utilities.finite_checks
2.0  -                     DistributedType NATIVE_AMP_AVAILABLE AllGatherGrad flatten_dict
2.1  configure_model       utilities.meta
2.4  -                     app store
-    the_package_litdata   data
-    the_Trainer's_own_attributes  trainer.call strategies.launchers trainer.connectors.data_connector
                                trainer.connectors.logger_connector trainer.connectors.checkpoint_connector
                                trainer.connectors.callback_connector trainer.connectors.signal_connector
-    the_file_itself,_which_Fulmen_reads_as_it_is  utilities.migration utilities.upgrade_checkpoint
2.0  plain_Python_loops    Loop FitLoop EvaluationLoop TrainingEpochLoop PredictionLoop loops loops.base loops.fit_loop
"""
"""What Lightning itself dropped without a counterpart: the release ("-": it is there), what to use, and the names."""


class Row(NamedTuple):
    """One old module: the releases that brought and removed it, and its names with where they are now."""

    since: str
    gone: str
    homes: dict[str, str]


def table_path(module: str) -> str | None:
    """The row that a module's full name means, such as "callbacks.base"; None where the table has none.

    `lightning.pytorch.callbacks` is "callbacks", `lightning_fabric.utilities` is "utilities".
    """
    root, *parts = module.split(".")
    if root in ("lightning_fabric", "lightning_lite"):
        parts = [root.removeprefix("lightning_"), *parts]
    below = parts[:1] == ["pytorch"] or (parts[:1] in (["fabric"], ["lite"]) and len(parts) > 1)
    paths = [".".join(parts), ".".join(parts[1:])] if below else [".".join(parts)]
    return next((path for path in paths if path in rows()), None)


def home(path: str, name: str) -> str | None:
    """Where `name` of the old module `path` is now, as "module:name"."""
    if path in STARRED and name in public(path):
        return f"{STARRED[path]}:{name}"
    return rows()[path].homes.get(name)


def is_path(path: str, name: str) -> bool:
    """Whether the old module `path` has a submodule called `name`."""
    return _below(path, name) in rows() or (path, name) == ("", "pytorch")


def public(path: str) -> list[str]:
    """The names that `from path import *` brings."""
    if path in STARRED:
        return list(import_module(STARRED[path]).__all__)
    return [name for name in rows()[path].homes if not name.startswith("_")]


def load(where: str) -> Any:
    """The object that "module:name" means."""
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def missing(path: str, name: str) -> str:
    """What there is to say of a name or submodule that Fulmen has not, "" if the table does not know it."""
    for word in (_below(path, name), name):
        if word in _due():
            return f"is not part of Fulmen yet: {_due()[word]} will come with a later release than 0.1."
        if word in _gone():
            version, instead = _gone()[word]
            fate = "has no counterpart here." if version == "-" else f"left Lightning in {version}."
            return fate + (f" Use {instead.replace('_', ' ')}." if instead != "-" else "")
    return ""


def newest_import() -> tuple[int, ...]:
    """The release that brought the newest of the old modules imported so far, (0,) if there are none."""
    imported = [name for name in sys.modules if name.partition(".")[0] in ROOTS]
    known = [rows()[path].since for name in imported if (path := table_path(name))]
    roots = ["1.8" if name == "lightning" else "0.5" for name in imported if name in ROOTS]
    return max((tuple(map(int, since.split("."))) for since in [*known, *roots]), default=(0,))


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _words(table: str) -> list[list[str]]:
    """The words of each row; a line that starts with a space goes on with the row before."""
    return [row.split() for row in table.strip().replace("\n ", " ").splitlines()]


@cache
def rows() -> dict[str, Row]:
    """The table of paths."""
    homes = {name: f"{module}:{name}" for module, *names in _words(HOMES) for name in names}
    found = {}
    for path, since, gone, *names in _words(PATHS):
        pairs = [name.partition("=") for name in names]
        here = {old: new if ":" in new else homes[new or old] for old, _, new in pairs}
        found["" if path == "." else path] = Row(since, gone, here)
    return found


@cache
def _due() -> dict[str, str]:
    topics = (row.partition(": ") for row in DUE.strip().replace("\n ", " ").splitlines())
    return {word: topic for topic, _, words in topics for word in words.split()}


@cache
def _gone() -> dict[str, tuple[str, str]]:
    return {word: (version, instead) for version, instead, *words in _words(GONE) for word in words}
