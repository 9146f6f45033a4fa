"""Configuration: its schema, loading from YAML, and checks of values."""

from mlip_train.config.data import BatchConfig, DataConfig, SourceConfig, StatisticsConfig
from mlip_train.config.load import from_plain, load_config, override, parse_yaml, to_plain
from mlip_train.config.machine import CompileConfig, HardwareConfig, LoggingConfig
from mlip_train.config.schema import ModelConfig, TrainConfig
from mlip_train.config.training import LossConfig, OptimizerConfig, ScheduleConfig, StageConfig, StopConfig

__all__ = [
    "BatchConfig",
    "CompileConfig",
    "DataConfig",
    "HardwareConfig",
    "LoggingConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "SourceConfig",
    "StageConfig",
    "StatisticsConfig",
    "StopConfig",
    "TrainConfig",
    "from_plain",
    "load_config",
    "override",
    "parse_yaml",
    "to_plain",
]
