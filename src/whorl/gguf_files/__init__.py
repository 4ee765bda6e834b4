"""A `.gguf` file, read into a stock transformers model and tokenizer; and what `runtimes` knows of it as it writes one.

header.py         what the file says: its keys, and where its tensors lie; and which file a name means
architectures.py  which architectures can be read and written: what their graphs fix
keys.py           their keys as a config of transformers
positions.py      their rotary keys and factors as rope settings, or as an encoding
layout.py         which channels of a head pair up, changed in the weights
tokenizers.py     the tokenizer that the file describes
tensors.py        tensors: their names, and their values, dequantized
opening.py        the model

llama.cpp's loader (src/llama-model.cpp) and its converter (convert_hf_to_gguf.py) say what keys and tensors mean. A key
that nothing here reads is refused, never dropped.
"""
