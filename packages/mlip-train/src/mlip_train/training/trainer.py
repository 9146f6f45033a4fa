"""Construction of the Lightning Trainer and its loggers."""

from __future__ import annotations

import logging
import os
import secrets
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException

from localgraph import atomic_write
from mlip_train.config.schema import TrainConfig
from mlip_train.training.callbacks import Progress
from mlip_train.training.ddp import SyncAfterBackward
from mlip_train.training.processes import cluster


def make_trainer(config: TrainConfig, epochs: int, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Build a Lightning Trainer for :class:`~mlip_train.training.module.TrainingModule` with the settings of a run.

    Raises
    ------
    ValueError
        For hardware that the machine does not have, and for another number of processes than asked for.
    ImportError
        For a logger whose package is absent.
    """
    h = config.hardware
    strategy: Any = "auto"
    if h.devices * h.nodes > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        strategy = (
            SyncAfterBackward(bucket_mib=h.bucket_mib, overlap=h.overlap) if h.strategy == "sync" else "ddp"
        )
    if config.logging.progress:
        callbacks = [*callbacks, Progress()]
    plugins: list[Any] = list(cluster(h))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        try:
            trainer = pl.Trainer(
                accelerator=h.accelerator,
                devices=h.devices,
                num_nodes=h.nodes,
                strategy=strategy,
                plugins=plugins,
                max_epochs=epochs,
                min_epochs=0,
                accumulate_grad_batches=config.batch.accumulate,
                gradient_clip_val=config.optimizer.clip,
                callbacks=callbacks,
                logger=_loggers(config),
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=config.logging.progress,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                reload_dataloaders_every_n_epochs=1,
                inference_mode=False,
                log_every_n_steps=1,
                default_root_dir=config.output,
            )
        except MisconfigurationException as e:
            raise ValueError(
                f"hardware must be available on this machine, got accelerator {h.accelerator!r}, "
                f"devices {h.devices}: {e}"
            ) from None
    if trainer.world_size != h.devices * h.nodes:
        raise ValueError(
            f"hardware.devices * hardware.nodes must be the number of processes started ({trainer.world_size}), got "
            f"{h.devices} * {h.nodes}"
        )
    return trainer


def _loggers(config: TrainConfig) -> list[Any] | bool:
    made: list[Any] = []
    for name in config.logging.loggers:
        try:
            if name == "tensorboard":
                from lightning.pytorch.loggers import TensorBoardLogger

                made.append(TensorBoardLogger(config.output, name="tensorboard", version=""))
            else:
                from lightning.pytorch.loggers import WandbLogger

                made.append(
                    WandbLogger(
                        save_dir=config.output,
                        name=Path(config.output).name,
                        project=config.logging.wandb_project,
                        entity=config.logging.wandb_entity,
                        id=_wandb_id(Path(config.output)),
                        resume="allow",
                    )
                )
        except ImportError as e:
            raise ImportError(
                f"logging.loggers must name installed packages (pip install {name}), got {name!r}: {e}"
            ) from None
    return made or False


def _wandb_id(folder: Path) -> str:
    """Return the id of the wandb run of an output folder, chosen once: a resumed run continues the same."""
    path = folder / "wandb-id.txt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(secrets.token_hex(8).encode())
    return path.read_text()
