"""What is known of engines, family by family, besides the runs of `ran.json`: one table, as data.

run    by hand on tiny random models of the family with peaked attention, 300 tokens, against the logits of the model
read   in the engine's source

The first fact of an engine that names the family (or none, which means every one) and the kind holds. What no fact
names is not known.
"""

from __future__ import annotations

from dataclasses import dataclass

# Families whose attention is Llama's to every engine.
LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "granite", "seed_oss")
NAMED = ("linear", "llama3", "yarn", "yarn: another factor")
TURNS = ("yarn: own turns",)
YARNS = ("yarn: own attention", "yarn: mscale", "yarn: untruncated", *TURNS)
REPEATED = ("longrope: rounded attention", "longrope: own attention")  # factors that are said by two names
LISTS = ("longrope", *REPEATED, "longrope: no mscale")
SCALED = ("proportional", *NAMED, *YARNS, *LISTS)
BASES = ("base", "part")
SLIDING = ("sliding base", "sliding scaled")


@dataclass(frozen=True)
class Fact:
    """What an engine does with some kinds on some families; empty means every kind, or family.

    result: right, refuses or wrong, as in `whorl.runtimes.ran`. why: in words that go on with a colon.
    """

    engine: str
    result: str
    how: str
    families: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    why: str = ""


def _of(engine: str, *rows: tuple[str, str, tuple[str, ...], tuple[str, ...], str]) -> tuple[Fact, ...]:
    return tuple(Fact(engine, *row) for row in rows)


TRANSFORMERS = _of(
    "transformers",
    ("right", "run", (), (), "every export is loaded and compared before it is kept"),
)

_FOUR = (
    *(*LIKE_LLAMA, "gemma2", "phi", "phi3", "gpt_neox", "cohere", "cohere2", "glm", "stablelm", "starcoder2"),
    *("gpt_oss", "falcon", "persimmon", "exaone4", "nemotron", "helium", "ernie4_5", "lfm2", "apertus"),
    "hunyuan_v1_dense",
)
TRANSFORMERS_4 = _of(
    "transformers4",
    ("refuses", "read", ("gemma4_text",), (), "it does not know the family"),
    ("refuses", "run", ("qwen3_moe",), (), "transformers 5 names its sizes otherwise"),
    ("wrong", "run", ("modernbert-decoder",), (), "the stock model itself comes out otherwise"),
    ("refuses", "run", ("gemma3_text", "olmo3"), ("proportional", "sliding scaled"), "words in the place of the base"),
    ("refuses", "run", _FOUR, ("proportional",), "KeyError: 'proportional', or words in the place of the base"),
    ("refuses", "run", ("olmo3",), ("sliding base",), "words in the place of the base"),
    ("refuses", "run", ("nemotron",), SCALED, "words in the place of the base, since it drops scalings there"),
    ("refuses", "run", ("phi3", "olmo2"), SCALED, "its config class knows other fields for it"),
    ("refuses", "run", ("gpt_neox",), ("longrope: own attention",), "shapes do not fit"),
    ("right", "read", _FOUR, TURNS, ""),
    ("right", "run", _FOUR, (*BASES, *NAMED, *YARNS, *LISTS), ""),
    ("right", "run", ("gemma3_text", "olmo3"), ("base", "linear", "sliding base"), ""),
    ("right", "run", ("gpt2", "opt"), ("table",), ""),
)

_MLX_BASES = ("gemma2", "cohere", "cohere2", "helium", "starcoder2", "ernie4_5")
MLX = _of(
    "mlx",
    ("refuses", "run", ("falcon", "persimmon", "opt", "modernbert-decoder"), (), "it does not know the family"),
    ("refuses", "run", ("qwen3_moe", "lfm2", "apertus", "gpt2"), (), "transformers 5 names its sizes otherwise"),
    ("wrong", "run", LIKE_LLAMA, ("yarn: own attention", "yarn: untruncated"), "it drops that number"),
    ("wrong", "run", LIKE_LLAMA, REPEATED, "it reckons the factor from the lengths"),
    ("right", "read", LIKE_LLAMA, TURNS, ""),
    ("right", "run", LIKE_LLAMA, (*BASES, *SCALED), ""),
    ("refuses", "run", ("gemma3_text", "olmo3"), ("sliding scaled",), "words in the place of the base"),
    ("refuses", "run", ("olmo3",), ("sliding base",), "words in the place of the base"),
    ("right", "run", ("gemma3_text", "olmo3"), ("base", "linear", "proportional", "sliding base"), ""),
    ("refuses", "run", _MLX_BASES, ("proportional",), "words in the place of the base, since it drops the rest"),
    ("wrong", "run", (*_MLX_BASES, "phi", "stablelm"), SCALED, "it reads a base and no scaling"),
    ("right", "run", (*_MLX_BASES, "phi", "stablelm"), BASES, ""),
    ("wrong", "run", ("glm",), ("part", *SCALED), "it turns whole heads by the base"),
    ("right", "run", ("glm",), ("base",), ""),
    ("refuses", "run", ("phi3", "hunyuan_v1_dense", "nemotron", "gpt_neox"), SCALED, "it asks for other fields"),
    ("right", "run", ("phi3", "hunyuan_v1_dense", "nemotron", "gpt_neox"), BASES, ""),
)

# vLLM's own models, which give their config's rope settings to one function; and those that it runs by transformers.
_VLLM = (
    *("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "gemma4_text", "phi3", "cohere"),
    *("cohere2", "stablelm", "granite", "falcon", "apertus", "exaone4", "nemotron", "lfm2", "llama4_text", "ernie4_5"),
)
_VLLM_BY_TRANSFORMERS = (
    *("phi", "gpt_neox", "smollm3", "olmo2", "olmo3", "glm", "starcoder2", "seed_oss", "hunyuan_v1_dense"),
)
VLLM = _of(
    "vllm",
    ("refuses", "read", ("cohere", "cohere2", "ernie4_5"), LISTS, "longrope is for pairs in halves there"),
    ("wrong", "read", _VLLM, ("longrope: no mscale",), "it takes the mscales, or reckons them from the lengths"),
    ("wrong", "read", ("gpt_oss",), ("yarn: own attention", "yarn: mscale"), "it drops that number there"),
    ("right", "read", ("gpt_oss",), ("yarn", "yarn: another factor", "yarn: untruncated"), ""),
    ("refuses", "read", ("gpt_oss",), ("base", "proportional", "linear", "llama3", *LISTS), "it asks for YaRN there"),
    ("right", "read", _VLLM, (*BASES, *SCALED, *SLIDING), ""),
    ("right", "read", _VLLM_BY_TRANSFORMERS, (*BASES, *SCALED, *SLIDING), "it runs transformers' own code"),
    ("right", "read", ("gpt2", "opt"), ("table",), ""),
)

_SGLANG_WHOLE = ("qwen2", "qwen3", "granite", "cohere", "cohere2", "lfm2", "llama4_text", "olmo2", "gpt_oss")
_SGLANG = ("llama", "mistral", "phi3", "apertus")
_SGLANG_BASES = ("gemma2", "starcoder2", "phi", "stablelm", "persimmon")
SGLANG = _of(
    "sglang",
    ("wrong", "read", _SGLANG_WHOLE, ("proportional",), "it gives whole heads to it, so that all pairs turn"),
    ("refuses", "read", ("cohere", "cohere2"), LISTS, "longrope is for pairs in halves there"),
    ("wrong", "read", (*_SGLANG, *_SGLANG_WHOLE), ("yarn: own attention",), "it drops the attention factor"),
    (
        *("wrong", "read", (*_SGLANG, *_SGLANG_WHOLE), ("longrope: no mscale",)),
        "it takes the mscales, or reckons them from the lengths",
    ),
    ("right", "read", _SGLANG, (*BASES, *SCALED), ""),
    ("right", "read", _SGLANG_WHOLE, ("base", *NAMED, *YARNS, *LISTS), ""),
    ("wrong", "read", _SGLANG_BASES, SCALED, "it reads a base and no scaling"),
    ("right", "read", _SGLANG_BASES, BASES, ""),
    ("wrong", "read", ("gemma3_text",), (*SCALED, "sliding scaled"), "it reads two bases and no scaling"),
    ("right", "read", ("gemma3_text",), ("base", "sliding base"), ""),
    ("wrong", "read", ("gemma4_text",), (*NAMED, *YARNS), "it drops the numbers of a scaling"),
    ("right", "read", ("gemma4_text",), ("base", "proportional", "sliding base"), ""),
    ("wrong", "read", ("exaone4",), (), "it looks for the base where transformers 5 does not keep it"),
    ("right", "read", ("gpt2", "opt"), ("table",), ""),
)

_EXLLAMA = (
    *("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "phi3", "cohere", "cohere2", "smollm3", "gpt_oss"),
    *("ernie4_5", "seed_oss", "exaone4", "apertus"),
)
_NOT_EXLLAMA = (
    *("phi", "gpt_neox", "olmo2", "glm", "stablelm", "starcoder2", "granite", "falcon", "persimmon", "helium"),
    *("nemotron", "hunyuan_v1_dense", "modernbert-decoder", "gpt2", "opt"),
)
EXLLAMA = _of(
    "exllama",
    ("wrong", "read", _EXLLAMA, ("yarn: another factor",), "it reckons the factor from the lengths"),
    ("wrong", "read", _EXLLAMA, ("yarn: mscale",), "it drops those numbers"),
    ("wrong", "read", (*_EXLLAMA, "gemma3_text", "olmo3"), REPEATED, "it reckons the factor from the lengths"),
    ("right", "read", _EXLLAMA, (*BASES, *SCALED), ""),
    ("wrong", "read", ("gemma3_text",), ("sliding base", "sliding scaled"), "its sliding layers have the base 10,000"),
    ("right", "read", ("gemma3_text",), ("base", "linear", "llama3", "yarn", "proportional", "longrope"), ""),
    ("wrong", "read", ("olmo3",), ("sliding base", "sliding scaled"), "it takes 10,000 for what is no number"),
    ("right", "read", ("olmo3",), ("base", "linear", "llama3", "yarn", "proportional", "longrope"), ""),
    ("refuses", "read", _NOT_EXLLAMA, (), "it does not know the family"),
)

_CTRANSLATE2 = ("llama", "mistral", "qwen2", "qwen3")
_NOT_CTRANSLATE2 = (
    *("qwen3_moe", "smollm3", "olmo2", "olmo3", "cohere", "cohere2", "glm", "stablelm", "starcoder2", "granite"),
    *("gpt_oss", "persimmon", "exaone4", "nemotron", "helium", "ernie4_5", "lfm2", "apertus", "seed_oss"),
    *("hunyuan_v1_dense", "llama4_text", "modernbert-decoder"),
)
CTRANSLATE2 = _of(
    "ctranslate2",
    ("wrong", "run", ("gemma2", "gemma3_text"), (), "the stock model itself comes out otherwise"),
    ("refuses", "run", _CTRANSLATE2, ("proportional", "yarn"), "its converter says that it has no such type"),
    ("wrong", "read", ("gpt_neox",), SCALED, "its converter reads no scaling of it"),
    ("refuses", "run", _CTRANSLATE2, LISTS, "it asks for fields that its converter lacks"),
    ("wrong", "run", ("llama",), ("llama3",), "its converter keeps no factor of it, and plain RoPE runs"),
    ("refuses", "run", ("mistral", "qwen2", "qwen3"), ("llama3",), "it asks for fields that its converter lacks"),
    ("refuses", "read", ("phi3",), (), "it looks for a key that transformers 5 does not write"),
    ("right", "run", _CTRANSLATE2, ("base", "linear"), ""),
    ("refuses", "read", _NOT_CTRANSLATE2, (), "it does not know the family"),
)

LLAMA_CPP = _of(
    "llama.cpp",
    ("refuses", "read", (), ("by length",), "it has one list of factors"),
    ("refuses", "read", (), ("table",), "of the families that have one whorl writes no GGUF"),
    ("right", "run", ("llama",), ("base", "proportional"), "as factors of a base, which are read back and compared"),
    ("right", "read", (), (), "as factors of a base, which are read back and compared"),
)

# Of a folder of `--runtime hf`.
CONVERT_HF_TO_GGUF = _of(
    "convert_hf_to_gguf",
    ("wrong", "run", ("llama",), ("proportional",), "it warns of an unknown type, and llama.cpp runs plain RoPE"),
    ("wrong", "run", ("llama",), LISTS, "it writes no factors, and llama.cpp runs plain RoPE"),
    ("wrong", "run", ("llama",), YARNS, "llama.cpp reads none of those numbers from what it writes"),
    ("right", "run", ("llama",), ("base", *NAMED), ""),
    ("wrong", "read", LIKE_LLAMA, ("proportional", *LISTS), "it writes no factors"),
    ("wrong", "read", LIKE_LLAMA, YARNS, "llama.cpp reads none of those numbers from what it writes"),
)

DROPPED = tuple(kind for fact in CONVERT_HF_TO_GGUF if fact.result == "wrong" for kind in fact.kinds)
"""Kinds that llama.cpp does not run after its own converter."""

FACTS: tuple[Fact, ...] = (
    *(*TRANSFORMERS, *TRANSFORMERS_4, *VLLM, *SGLANG, *LLAMA_CPP, *CONVERT_HF_TO_GGUF, *MLX, *EXLLAMA, *CTRANSLATE2),
)
