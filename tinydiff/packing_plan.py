"""How a network uses each of its weights, and in which order: read off a planned forward pass.

A packed file holds a weight as its use needs it: values and gates interleaved where a GEGLU follows, four pre-summed
2x2 classes where nearest-2x upsampling comes before a 3x3 convolution, plain panels elsewhere; and it holds them in the
order of their use, so that reading the file from front to back is running the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tinydiff.layers import Context
from tinydiff.loading import Model
from tinydiff.unet import Added
from tinydiff_kernels import operations as op
from tinydiff_kernels.handles import EmbeddingWeight, MatmulWeight, NormWeight, Weight
from tinydiff_kernels.plan import Plan
from tinydiff_kernels.rows import Grid, Rows
from tinydiff_weights.packed_tensors import AnyTensor
from tinydiff_weights.safetensors import StoredTensor
from tinydiff_weights.source import Component

ORDER = ("text_encoder", "text_encoder_2", "unet", "vae")  # of a picture; "taesd" comes last


@dataclass(frozen=True)
class LayerUse:
    """A matmul's weight: its tensors in the source, and how it is multiplied."""

    component: str
    handle: MatmulWeight
    weight: AnyTensor
    bias: AnyTensor | None
    use: str  # packed_format.USES
    written: int  # numbers that it writes in one picture's pass: its share of what the network computes

    @property
    def name(self) -> str:
        return self.handle.name

    @property
    def key(self) -> str:
        """Its name in the file."""
        return f"{self.component}/{self.name}"


@dataclass(frozen=True)
class ComponentPlan:
    """A network's layers in order of use, its tables of vectors, and its small vectors."""

    component: Component
    layers: tuple[LayerUse, ...]
    tables: tuple[AnyTensor, ...]
    vectors: tuple[AnyTensor, ...]


def plan_packing(model: Model) -> list[ComponentPlan]:
    """All networks of a model, in the order in which a picture needs them."""
    source = model.source
    return [plan_component(source.components[name], model) for name in ORDER if name in source.components]


def plan_component(component: Component, model: Model) -> ComponentPlan:
    """One network. "taesd": of a model in which it is the autoencoder."""
    plan = Plan()
    weights: dict[str, Weight] = dict(_run(component.name, model, plan).items())
    uses: dict[str, str] = {}
    written: dict[str, int] = {}
    order: dict[str, Weight] = {}
    for step in plan.steps:
        for weight in step.weights:
            order.setdefault(weight.name, weight)
            written[weight.name] = written.get(weight.name, 0) + step.shape[0] * step.shape[1]
        operation = step.operation
        if isinstance(operation, op.Geglu):
            uses[operation.weight.name] = "gated"
        elif isinstance(operation, op.Conv) and operation.upsample_to is not None and operation.doubles:
            uses[operation.weight.name] = "upsampled"
    ordered = {**order, **weights}  # what no pass used comes last
    layers, tables, vectors = list[LayerUse](), list[AnyTensor](), list[AnyTensor]()
    tensors = {n: t.renamed(n) if isinstance(t, StoredTensor) else t for n, t in component.tensors.items()}
    for name, weight in ordered.items():
        if isinstance(weight, MatmulWeight):
            found, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias") if weight.bias is not None else None
            use = uses.get(name, "plain")
            layers.append(LayerUse(component.name, weight, found, bias, use, written.get(name, 0)))
        elif isinstance(weight, EmbeddingWeight):
            tables.append(tensors[f"{name}.weight"])
        else:
            assert isinstance(weight, NormWeight)
            vectors += [tensors[f"{name}.weight"], tensors[f"{name}.bias"]]
    return ComponentPlan(component, tuple(layers), tuple(tables), tuple(vectors))


def _run(name: str, model: Model, plan: Plan) -> dict[str, Weight]:
    """A picture of the model's own size on shapes alone; the network's weights by name."""
    height, width = (side // model.vae.config.factor for side in (model.defaults.height, model.defaults.width))
    latents = model.vae.config.latent_channels
    if name in ("vae", "taesd"):
        model.vae.forward_decode(plan, _rows(height, width, latents))
        factor = model.vae.config.factor
        model.vae.forward_encode(plan, _rows(factor * height, factor * width, model.vae.config.in_channels))
        return model.vae.weights
    if name == "unet":
        c = model.unet.config
        added = None
        if c.text_time is not None:
            pooled = c.text_time[1] - 6 * c.text_time[0]
            added = Added(np.zeros((1, pooled), np.float32), np.zeros((1, 6), np.float32))
        condition = np.zeros((1, c.time_cond_proj_dim), np.float32) if c.time_cond_proj_dim else None
        context = Context(_rows(1, 77, c.cross_attention_dim[0]))
        sample, steps = _rows(height, width, c.in_channels), np.zeros(1, np.float32)
        model.unet.forward(plan, sample, steps, context, added=added, timestep_cond=condition)
        return model.unet.weights
    encoder = model.text.pairs[0 if name == "text_encoder" else 1][1]
    encoder.forward(plan, np.zeros((1, encoder.config.positions), np.int64))
    return encoder.weights


def _rows(height: int, width: int, channels: int) -> Rows:
    return Rows(Grid(1, height, width), channels)


def all_layers(plans: list[ComponentPlan]) -> Iterator[LayerUse]:
    for plan in plans:
        yield from plan.layers
