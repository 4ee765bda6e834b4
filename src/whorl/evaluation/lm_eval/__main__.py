"""`python -m whorl.evaluation.lm_eval ...`: lm-eval's own command, with `--model whorl`.

For versions of lm-eval that do not look for entry points, where `lm_eval --model whorl` finds no such model.
"""

from __future__ import annotations

import sys

from whorl.extras import require


def main() -> None:
    try:
        require("lm-eval's model whorl", "lm-eval")
    except ValueError as error:
        print(f"whorl: {error}", file=sys.stderr)
        sys.exit(2)
    import lm_eval.models  # noqa: F401 (registers lm-eval's own)
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import model_registry

    if "whorl" not in model_registry:
        model_registry.register("whorl", target="whorl.evaluation.lm_eval.model:WhorlLM")
    cli_evaluate()


if __name__ == "__main__":
    main()
