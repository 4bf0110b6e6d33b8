"""WandbLogger: metrics, media and checkpoints go to a run of Weights & Biases."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from fulmen.errors import MisconfigurationException
from fulmen.loggers import base
from fulmen.loggers.wandb_rows import Rows
from fulmen.warn import rank_zero_only, rank_zero_warn

if TYPE_CHECKING:
    from wandb import Artifact
    from wandb.sdk.wandb_run import Run

STEP = "trainer/global_step"


class WandbLogger(base.Logger):
    """Logs to Weights & Biases; the run begins when training does, or is the one that `wandb.init` began.

        trainer = Trainer(logger=WandbLogger(project="digits"))

    The run stays open after training: `wandb.finish()` ends it.

    Args:
        name: the run's name as shown.
        save_dir: the folder for the run's files; `dir` is another word for it.
        version: the run's id, to continue an earlier run; `id` is another word for it.
        offline: keep the run on this machine, for `wandb sync` to send later.
        anonymous: log without an account, where the installed wandb still allows that.
        project: by default the environment's WANDB_PROJECT, or "lightning_logs".
        log_model: "all" uploads each checkpoint when it is saved, True at the end of training those that are left
            (each one, if save_top_k=-1), False none.
        experiment: a run to log to, from `wandb.init`.
        prefix: put before the name of each metric.
        checkpoint_name: the checkpoints' name among the artifacts; by default "model-" and the run's id.
        add_file_policy: "mutable" copies a checkpoint before its upload, "immutable" trusts it to stay as it is.
        kwargs: given to `wandb.init`, such as `job_type`, `group`, `tags`, `entity`.
    """

    LOGGER_JOIN_CHAR = "-"

    paces_itself = True

    def __init__(
        self,
        name: str | None = None,
        save_dir: str | os.PathLike[str] = ".",
        version: str | None = None,
        offline: bool = False,
        dir: str | os.PathLike[str] | None = None,
        id: str | None = None,
        anonymous: bool | None = None,
        project: str | None = None,
        log_model: Literal["all"] | bool = False,
        experiment: Run | None = None,
        prefix: str = "",
        checkpoint_name: str | None = None,
        add_file_policy: Literal["mutable", "immutable"] = "mutable",
        **kwargs: Any,
    ) -> None:
        _wandb()
        if log_model not in (True, False, "all"):
            raise MisconfigurationException(f"log_model={log_model!r} must be True, False or 'all'.")
        if offline and log_model:
            raise MisconfigurationException(
                f"log_model={log_model!r} uploads checkpoints, which offline=True forbids. Set one of them to False."
            )
        self._save_dir = os.fspath(dir if dir is not None else save_dir)
        self._project = project or os.environ.get("WANDB_PROJECT", "lightning_logs")
        self._id = version or id
        self._init = {"name": name, "project": self._project, "resume": "allow", **kwargs}
        if offline:
            self._init["mode"] = "offline"
        if anonymous is not None:
            self._init["anonymous"] = "allow" if anonymous else "never"
        self._log_model = log_model
        self._prefix = prefix
        self._checkpoint_name = checkpoint_name
        self._add_file_policy = add_file_policy
        self._experiment: Run | None = None
        self._rows = Rows()
        self._logged: dict[str, float] = {}
        self._left: list[Any] = []
        if experiment is not None:
            self._begin(experiment)

    def __getstate__(self) -> dict[str, Any]:
        """Another process continues the run by its id."""
        return {**self.__dict__, "_experiment": None}

    @property
    @base.rank_zero_experiment
    def experiment(self) -> Run:
        """The run of wandb: `logger.experiment.log({"examples": [wandb.Image(image)]})`."""
        if self._experiment is None:
            wandb = _wandb()
            if wandb.run is not None:
                rank_zero_warn(
                    "WandbLogger logs to the run of wandb that is open; after wandb.finish() it begins another."
                )
                return self._begin(wandb.run)
            base.open_folder(self._save_dir)
            # wandb's own process, which lives on from run to run, would take a relative path from its own folder
            return self._begin(wandb.init(id=self._id, dir=os.path.abspath(self._save_dir), **self._init))
        return self._experiment

    def _begin(self, run: Run) -> Run:
        self._experiment, self._id = run, run.id
        if callable(getattr(run, "define_metric", None)):
            run.define_metric(STEP)
            run.define_metric("*", step_metric=STEP, step_sync=True)
        self._rows.go_on(run)
        return run

    @property
    def save_dir(self) -> str:
        """The folder for the run's files."""
        return self._save_dir

    @property
    def name(self) -> str:
        """The project's name."""
        return self._project

    @property
    def version(self) -> str | None:
        """The run's id; None while there is no run and none was given."""
        return self._id

    def watch(
        self,
        model: nn.Module,
        log: Literal["gradients", "parameters", "all"] | None = "gradients",
        log_freq: int = 100,
        log_graph: bool = True,
    ) -> None:
        """Log histograms of gradients or parameters every `log_freq` batches, and the graph of `model`."""
        self.experiment.watch(model, log=log, log_freq=log_freq, log_graph=log_graph)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Add to the run's config."""
        self.experiment.config.update(base.hyperparameters(params), allow_val_change=True)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Log values; with a step, they stand over `trainer/global_step`."""
        row = base.prefixed(metrics, self._prefix, self.LOGGER_JOIN_CHAR)
        row = row if step is None else {**row, STEP: step}
        self._rows.note(row)
        self.experiment.log(row)

    @rank_zero_only
    def log_table(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Log a table, from `columns` and `data` or from a data frame; cells may be media."""
        self.log_metrics({key: _wandb().Table(columns=columns, data=data, dataframe=dataframe)}, step)

    log_text = log_table

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: list[Any]) -> None:
        """Log images (tensors, arrays, PIL, paths); options such as `caption` are lists with a value for each image."""
        self._log_media("Image", key, "images", images, step, kwargs)

    @rank_zero_only
    def log_audio(self, key: str, audios: list[Any], step: int | None = None, **kwargs: list[Any]) -> None:
        """Log sounds (arrays, paths); options such as `sample_rate` are lists with a value for each sound."""
        self._log_media("Audio", key, "audios", audios, step, kwargs)

    @rank_zero_only
    def log_video(self, key: str, videos: list[Any], step: int | None = None, **kwargs: list[Any]) -> None:
        """Log videos (arrays, paths); options such as `fps` are lists with a value for each video."""
        self._log_media("Video", key, "videos", videos, step, kwargs)

    def _log_media(
        self, kind: str, key: str, argument: str, items: list[Any], step: int | None, options: dict[str, list[Any]]
    ) -> None:
        if not isinstance(items, list):
            raise TypeError(f"{argument} must be a list, but is a {type(items).__name__}. Write {argument}=[...].")
        for name, values in options.items():
            if len(values) != len(items):
                raise ValueError(
                    f"{name} has {len(values)} values, but needs one for each of the {len(items)} {argument}."
                )
        media = getattr(_wandb(), kind)
        each = [{name: values[i] for name, values in options.items()} for i in range(len(items))]
        self.log_metrics({key: [media(item, **settings) for item, settings in zip(items, each, strict=True)]}, step)

    @rank_zero_only
    def use_artifact(self, artifact: str, artifact_type: str | None = None) -> Artifact:
        """Note that the run uses `artifact` ("entity/project/name:alias"), and return it."""
        return self.experiment.use_artifact(artifact, type=artifact_type)

    @staticmethod
    @rank_zero_only
    def download_artifact(
        artifact: str,
        save_dir: str | os.PathLike[str] | None = None,
        artifact_type: str | None = None,
        use_artifact: bool = True,
    ) -> str:
        """Download `artifact` ("entity/project/name:alias") and return its folder; note it in a run that is open."""
        wandb = _wandb()
        if wandb.run is not None and use_artifact:
            found = wandb.run.use_artifact(artifact, type=artifact_type)
        else:
            found = wandb.Api().artifact(artifact, type=artifact_type)
        return found.download(root=None if save_dir is None else os.fspath(save_dir))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Upload what was saved, now or at the end, as `log_model` says."""
        if self._log_model == "all" or (self._log_model and checkpoint_callback.save_top_k == -1):
            self._log_checkpoints(checkpoint_callback)
        elif self._log_model and checkpoint_callback not in self._left:
            self._left.append(checkpoint_callback)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Upload the checkpoints that wait for the end of a training that succeeded."""
        if status == "success" and self._experiment is not None:
            for checkpoint_callback in self._left:
                self._log_checkpoints(checkpoint_callback)

    @rank_zero_only
    def _log_checkpoints(self, callback: Any) -> None:
        """Upload the files of `callback` that were not uploaded as they are now, the oldest first."""
        scores = {callback.last_model_path: callback.current_score, callback.best_model_path: callback.best_model_score}
        scores.update(callback.best_k_models)
        written = {path: os.path.getmtime(path) for path in scores if path and os.path.exists(path)}
        settings = ("monitor", "mode", "save_last", "save_top_k", "save_weights_only")
        for path in sorted(written, key=written.__getitem__):
            if self._logged.get(path) == written[path]:
                continue
            metadata = {
                "score": None if scores[path] is None else float(scores[path]),
                "original_filename": Path(path).name,
                "ModelCheckpoint": {name: getattr(callback, name) for name in settings if hasattr(callback, name)},
            }
            name = self._checkpoint_name or f"model-{self.experiment.id}"
            artifact = _wandb().Artifact(name=name, type="model", metadata=metadata)
            if os.path.isdir(path):
                artifact.add_dir(path, policy=self._add_file_policy)
            else:
                artifact.add_file(path, name="model.ckpt", policy=self._add_file_policy)
            aliases = ["latest", "best"] if path == callback.best_model_path else ["latest"]
            self.experiment.log_artifact(artifact, aliases=aliases)
            self._logged[path] = written[path]

    def state_dict(self) -> dict[str, Any]:
        """Which run this is, and its rows."""
        own = {} if self._experiment is None else self._rows.state_dict(self._experiment)
        return {"id": self._id, "project": self._project, **own} if self._id else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue that run, unless another one is open or was asked for."""
        asked = self._id or os.environ.get("WANDB_RUN_ID")
        if not asked and state_dict.get("project") == self._project:
            self._id = state_dict["id"]
        if state_dict["id"] == (asked or self._id):
            self._rows.load_state_dict(state_dict)
            if self._experiment is not None:
                self._rows.go_on(self._experiment)


def _wandb() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise ModuleNotFoundError("WandbLogger needs wandb: pip install wandb") from error
    return wandb
