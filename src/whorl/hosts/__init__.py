"""WHERE: how a model is opened. `protocol` is what every host answers; `libraries` says who opens which models. In
`transformers`, `families` says where its families' seams are, as data; `opening` finds and reads them; `host` answers
the protocol; `stating` reads what a config says of its own encoding; `closed` says why a model has no seams. `timm` is
alike, and `points` is models of any library that hold an attention of ours."""

from whorl.hosts.libraries import LIBRARIES, bases_of, host_of
from whorl.hosts.protocol import Calls, Host, Patches, Rotation, StockForm, in_stock_terms, name_of
from whorl.hosts.timm.host import TimmHost
from whorl.hosts.transformers.closed import turns_latent_keys
from whorl.hosts.transformers.families import ENCODERS, FAMILIES, IMAGES, MULTIMODAL, PACKED, Family
from whorl.hosts.transformers.host import OpenHost
from whorl.hosts.transformers.opening import KNOWN, open_host, refuse_prompts, unwrapped
from whorl.hosts.transformers.rotary_module import stock_spectrum
from whorl.hosts.transformers.sizes import head_dim_of, headless, text_config, tokens_of
from whorl.hosts.transformers.stating import known_of, scaling_of, settings_of, trained_length

__all__ = [
    "ENCODERS",
    "FAMILIES",
    "IMAGES",
    "KNOWN",
    "LIBRARIES",
    "MULTIMODAL",
    "PACKED",
    "Calls",
    "Family",
    "Host",
    "OpenHost",
    "Patches",
    "Rotation",
    "StockForm",
    "TimmHost",
    "bases_of",
    "head_dim_of",
    "headless",
    "host_of",
    "in_stock_terms",
    "known_of",
    "name_of",
    "open_host",
    "refuse_prompts",
    "scaling_of",
    "settings_of",
    "stock_spectrum",
    "text_config",
    "tokens_of",
    "trained_length",
    "turns_latent_keys",
    "unwrapped",
]
