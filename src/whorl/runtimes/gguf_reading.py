"""What a GGUF says, as plain data: a config, the frequencies of each layer, and weights in the file's dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from whorl.checking import check_path
from whorl.extras import require
from whorl.gguf_files.header import read_header
from whorl.gguf_files.keys import config_arguments
from whorl.gguf_files.opening import described, weights_of
from whorl.gguf_files.positions import layer_spectra
from whorl.gguf_files.tensors import factors_of


class ReadGGUF(NamedTuple):
    """What a GGUF says. See `read_gguf`."""

    config: dict[str, Any]
    frequencies: tuple[tuple[float, ...], ...]
    weights: dict[str, torch.Tensor]


def read_gguf(path: str | Path) -> ReadGGUF:
    """What a GGUF says: a config, for each layer one frequency per pair of a head (radians per token), and weights in
    half layout. `whorl.load` makes a model of it.

    config: the arguments of the config of transformers' class, but for its rotation; `architecture`, llama.cpp's name;
    `attention_factor`, which multiplies cos and sin; `encoding`, in whorl's notation; `tokenizer`, the kind of it.
    Weights go by transformers' names, in the file's dtype, and in float32 where the file has them quantized. Where
    heads turn in part and the pairs that turn are not the first, channels come back in another order than they had, and
    give the same logits.

    Raises ValueError, naming them, for an architecture and for keys that are not read.
    """
    path = Path(check_path("path", path, "the path of a GGUF file"))
    if not path.is_file():
        raise ValueError(f"there is no file {path}; whorl export --runtime gguf writes one")
    require("read_gguf", "gguf")
    header = read_header(path)
    factors, (_, empty, _) = factors_of(header), described(header)
    config = config_arguments(header, factors)
    del config["rope_parameters"]
    layer_types = config.get("layer_types", [""] * config["num_hidden_layers"])
    spectra = layer_spectra(header, layer_types, config["head_dim"], factors)
    config |= {
        "architecture": header.architecture,
        "attention_factor": spectra[0].amplitude,
        "encoding": header.said.get("whorl.encoding"),
        "tokenizer": header.said.get("tokenizer.ggml.model"),
    }
    return ReadGGUF(config, tuple(one.frequencies for one in spectra), dict(weights_of(header, empty)))
