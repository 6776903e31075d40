"""Every option and default of qcaps, once; no torch here, so that help is instant."""

from qcaps.config.compare import CompareConfig
from qcaps.config.evaluate import EvaluateConfig
from qcaps.config.importing import ImportConfig
from qcaps.config.inspect import InspectConfig
from qcaps.config.model_numbers import model_numbers
from qcaps.config.option import configure, shell_name
from qcaps.config.prune import PruneConfig
from qcaps.config.quantize import QuantizeConfig
from qcaps.config.run import RunConfig
from qcaps.config.sizes import format_size, parse_size
from qcaps.config.train import TrainConfig

__all__ = [
    "CompareConfig",
    "EvaluateConfig",
    "ImportConfig",
    "InspectConfig",
    "PruneConfig",
    "QuantizeConfig",
    "RunConfig",
    "TrainConfig",
    "configure",
    "format_size",
    "model_numbers",
    "parse_size",
    "shell_name",
]
