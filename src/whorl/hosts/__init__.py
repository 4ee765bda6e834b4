"""WHERE: how a model is opened. `protocol` is what every host answers. In `transformers`, `families` says where its
families' seams are, as data; `opening` finds and reads them; `stating` reads what a config says of its own encoding;
`closed` says why a model has none of them."""

from whorl.hosts.protocol import Host, Rotation
from whorl.hosts.transformers.closed import turns_latent_keys
from whorl.hosts.transformers.families import ENCODERS, FAMILIES, Family
from whorl.hosts.transformers.opening import (
    KNOWN,
    OpenHost,
    bases_of,
    head_dim_of,
    open_host,
    unwrapped,
)
from whorl.hosts.transformers.rotary_module import stock_spectrum
from whorl.hosts.transformers.stating import known_of, scaling_of, settings_of, trained_length

__all__ = [
    "ENCODERS",
    "FAMILIES",
    "KNOWN",
    "Family",
    "Host",
    "OpenHost",
    "Rotation",
    "bases_of",
    "head_dim_of",
    "known_of",
    "open_host",
    "scaling_of",
    "settings_of",
    "stock_spectrum",
    "trained_length",
    "turns_latent_keys",
    "unwrapped",
]
