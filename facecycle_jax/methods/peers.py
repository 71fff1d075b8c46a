"""Builds the methods that FaceCycle is compared with from configurations."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from facecycle_jax.methods.base import Method, Tree
from facecycle_jax.methods.fab_net import FabNetOptions, fab_net
from facecycle_jax.methods.pcl import PclOptions, pcl
from facecycle_jax.methods.peer_options import network_options
from facecycle_jax.methods.simclr import SimclrOptions, simclr
from facecycle_jax.methods.tcae import TcaeOptions, tcae
from facecycle_jax.methods.temporal_consistency import TemporalOptions, temporal_consistency
from facecycle_jax.models import (
    TemporalEncoder,
    build_fab_net,
    build_pcl,
    build_tcae,
    read_resnet18_npz,
)
from facecycle_jax.models.batch_norm import Projector
from facecycle_jax.models.blocks import scaled
from facecycle_jax.models.encoder import EncoderFeatures

Config = Mapping[str, Any]


def _options(kind: Any, config: Config) -> Any:
    """Takes the fields of an options record from `config.loss`; others keep their defaults."""
    loss = config["loss"]
    fields: type[NamedTuple] = kind
    return kind(**{name: loss[name] for name in fields._fields if name in loss})


def _fab_net(config: Config, *, weights: bool) -> Method:
    del weights
    options = network_options(config["model"], "image_size", "code_dim", "align_corners")
    return fab_net(build_fab_net(**options), _options(FabNetOptions, config))


def _tcae(config: Config, *, weights: bool) -> Method:
    del weights
    options = network_options(config["model"], "image_size", "code_dim", "align_corners")
    return tcae(build_tcae(**options), _options(TcaeOptions, config))


def _temporal_consistency(config: Config, *, weights: bool) -> Method:
    encoder = TemporalEncoder(**network_options(config["model"], "code_dim"))
    path = config["loss"].get("resnet", "random")

    def trunk() -> tuple[Tree, Tree]:
        return read_resnet18_npz(path)

    from_file = weights and path != "random"
    return temporal_consistency(
        encoder, _options(TemporalOptions, config), trunk=trunk if from_file else None
    )


def _pcl(config: Config, *, weights: bool) -> Method:
    del weights
    return pcl(build_pcl(**network_options(config["model"])), _options(PclOptions, config))


def _simclr(config: Config, *, weights: bool) -> Method:
    del weights
    options = network_options(config["model"], "image_size")
    encoder = EncoderFeatures(**options)
    width = options["width"]
    projector = Projector(scaled(2048, width), scaled(512, width), options["dtype"])
    return simclr(encoder, projector, _options(SimclrOptions, config))


# Each builds a method from a configuration; without `weights` no file is read.
PEERS: dict[str, Callable[..., Method]] = {
    "fab_net": _fab_net,
    "pcl": _pcl,
    "simclr": _simclr,
    "tcae": _tcae,
    "temporal_consistency": _temporal_consistency,
}
