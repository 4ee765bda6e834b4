"""What an inspection says of the model, before anything is measured."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import torch

import whorl
from whorl.attaching.reading import told
from whorl.hosts import OpenHost
from whorl.hosts.transformers.rope_settings import rope_parameters
from whorl.inspection import analysis
from whorl.provenance import machine, versions
from whorl.results.inspection import Model, Settings, Spectrum, Summary
from whorl.results.plan import Plan
from whorl.watching import Layer


def about(host: OpenHost, facts: list[Layer], inputs: torch.Tensor, limit: int, plan: Plan, seed: int) -> Summary:
    model, config = host.model, host.model.config.get_text_config()
    heads, random = config.num_attention_heads, plan.stage("random")
    return Summary(
        whorl=whorl.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=Model(
            name=getattr(model, "name_or_path", "") or type(model).__name__,
            type=model.config.model_type,
            layers=len(facts),
            heads=heads,
            key_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=max(shape.head_dim for shape in host.shapes),
            parameters=sum(p.numel() for p in model.parameters()),
            encoding=told(model),
            windows=tuple(layer.window for layer in facts),
        ),
        settings=Settings(inputs.shape[1], inputs.shape[0], limit, random.windows if random else 0, seed),
        spectrum=Spectrum(
            base=_base(config),
            layout=None if host.rotation is None else host.rotation.layout,
            layers=analysis.spectrum(facts, limit),
        ),
        absent={},
        seconds={},
        machine=machine(model.device),
        versions=versions("torch", "transformers", "numpy"),
    )


def _base(config: Any) -> float | None:
    value = rope_parameters(config).get("rope_theta")
    return float(value) if isinstance(value, int | float) else None
