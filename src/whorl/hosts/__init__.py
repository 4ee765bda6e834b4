"""WHERE: how a model family is opened. `families` says where its seams are, as data; `opening` finds and reads them."""

from whorl.hosts.families import ENCODERS, FAMILIES, Host
from whorl.hosts.opening import OpenHost, Rotation, bases_of, head_dim_of, open_host, stock_spectrum, unwrapped

__all__ = [
    "ENCODERS",
    "FAMILIES",
    "Host",
    "OpenHost",
    "Rotation",
    "bases_of",
    "head_dim_of",
    "open_host",
    "stock_spectrum",
    "unwrapped",
]
