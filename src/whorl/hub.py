"""A name that is no folder here: said at once to be taken for a name of the hub, which is asked for it once.

Stock code asks for file after file, five times each, and takes a minute to find that nobody answers.
"""

from __future__ import annotations

import difflib
import logging
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

SECONDS = 10  # to connect, and for an answer
CONFIG, ADAPTER = "config.json", "adapter_config.json"  # of a model, and of one of PEFT's adapters
FILES = (CONFIG, ADAPTER)


def check_on_hub(
    name: str, revision: str | None = None, token: bool | str | None = None, cache_dir: str | None = None
) -> None:
    """Says that there is no such folder and asks the hub for a model of this name, where its cache has none.

    Raises ValueError where the hub has none, or cannot be asked. What else is wrong (a file that lacks, a licence that
    nobody has agreed to) is told by what loads it.
    """
    if not Path(name).exists():
        _asked(name, revision, token, cache_dir)


@cache
def _asked(name: str, revision: str | None, token: bool | str | None, cache_dir: str | None) -> None:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    nothing = f"there is no folder {name} here{_like(name)}"
    try:
        if any(isinstance(try_to_load_from_cache(name, f, cache_dir, revision), str) for f in FILES):
            return
        log.warning("%s; the hub is asked for a model of that name (%d seconds at most)", nothing, SECONDS)
        HfApi().model_info(name, revision=revision, timeout=SECONDS, token=token)
    except HFValidationError:
        raise ValueError(f"{nothing}, and it is no hub name") from None
    except RepositoryNotFoundError:
        raise ValueError(f"{nothing}, and the hub has no model of that name, or not for you (hf auth login)") from None
    except HfHubHTTPError:  # of a server that has other troubles, or of a revision
        return
    except (OfflineModeIsEnabled, OSError) as error:
        raise _unreached(nothing, error) from None
    except Exception as error:
        # The hub's client says nowhere which of httpx's versions it has.
        if not type(error).__module__.startswith("httpx"):
            raise
        raise _unreached(nothing, error) from None


def _unreached(nothing: str, error: Exception) -> ValueError:
    why = (str(error) or type(error).__name__).splitlines()[0]
    return ValueError(f"{nothing}, and the hub cannot be asked for a model of that name ({why})")


def _like(name: str) -> str:
    """A folder beside it that may have been meant."""
    path = Path(name)
    try:
        beside = [other.name for other in path.parent.iterdir() if other.is_dir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.7)
    return f" (did you mean {path.parent / close[0]}?)" if close else ""
