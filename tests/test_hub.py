"""What is no folder is asked for once, before a model is loaded, and an answer is not waited for for long."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from whorl import hub


def refusing(error: type[HfHubHTTPError], status: int) -> Exception:
    return error("no", response=SimpleNamespace(headers={}, request=None, status_code=status))  # type: ignore[arg-type]


class ConnectTimeout(Exception):
    __module__ = "httpx2"  # of whichever version the hub's client has


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refusing(RepositoryNotFoundError, 404), "the hub has no model of that name"),
        (ConnectTimeout("Name not known"), r"the hub cannot be asked for a model of that name \(Name not known\)"),
        (ConnectTimeout(""), r"cannot be asked for a model of that name \(ConnectTimeout\)"),
        (OSError("no network"), r"\(no network\)"),
    ],
)
def test_what_is_nowhere_is_refused_after_one_question(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    asked = []

    def model_info(self, name: str, timeout: float, **of: object) -> None:
        asked.append((name, timeout, caplog.text))
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"no folder runs/frst here \(did you mean runs/first\?\), and .*{said}"):
        hub.check_on_hub("runs/frst")
    ((name, timeout, before),) = asked
    assert (name, timeout) == ("runs/frst", 10)
    assert "there is no folder runs/frst here (did you mean runs/first?); the hub is asked" in before
    hub.check_on_hub("runs/first")
    assert len(asked) == 1, "a folder is not asked for"


def test_what_the_hub_has_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, **of: asked.append(name))
    for _ in range(2):
        hub.check_on_hub("some/one-that-is-there")
    assert asked == ["some/one-that-is-there"]


def test_other_troubles_are_left_to_what_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: Exception) -> None:
        def model_info(self, name: str, **of: object) -> None:
            raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)

    raising(refusing(HfHubHTTPError, 503))
    hub.check_on_hub("some/other-one")
    raising(KeyError("a fault of ours"))
    with pytest.raises(KeyError):
        hub.check_on_hub("some/third-one")
    with pytest.raises(ValueError, match="is no hub name"):
        hub.check_on_hub("a name")


def test_what_is_in_the_cache_is_not_asked_for(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "/somewhere/config.json")
    hub.check_on_hub("some/fourth-one")
    assert not caplog.text
