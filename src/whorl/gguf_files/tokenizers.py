"""The tokenizer that a GGUF file describes, as llama.cpp runs it.

`tokenizer.ggml.model` is the kind: "gpt2" is byte-level BPE, whose text is first split by a rule that
`tokenizer.ggml.pre` names (src/llama-vocab.cpp has the rules); "llama" is SentencePiece's BPE, which joins the pair of
the best score first. Any other kind or rule is refused: split otherwise, a text would reach the model as other tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from whorl.gguf_files.header import read_header

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # kinds of tokens
SPACE = "▁"  # SentencePiece's
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


class Rule(NamedTuple):
    """How a text is split before its bytes are merged.

    pattern  each match is a piece; None: GPT-2's
    digits   every digit is a piece of its own, before GPT-2's pattern
    whole    a piece that is a token is taken whole, whatever its merges say
    bos      a text begins with bos, where the file does not say
    """

    pattern: str | None = None
    digits: bool = False
    whole: bool = False
    bos: bool = False


GPT_2, DIGITS = Rule(), Rule(digits=True)
LLAMA_3, QWEN_2 = Rule(WORDS, whole=True, bos=True), Rule(WORDS.replace("{1,3}", ""))
RULES = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion"), GPT_2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), LLAMA_3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "hunyuan", "stablelm2"), QWEN_2),
}


def tokenizer_of(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a GGUF file, as one of transformers. Raises ValueError, with the reason, where it has none that
    can be run as llama.cpp runs it."""
    from transformers import PreTrainedTokenizerFast

    header = read_header(path)
    said = {k.removeprefix("tokenizer.ggml."): v for k, v in header.said.items() if k.startswith("tokenizer.ggml.")}
    kind = said.get("model", "none")
    if kind not in ("gpt2", "llama") or not said.get("tokens"):
        why = header.said.get("whorl.no_tokenizer", f"its kind is {kind!r}; gpt2 and llama are read")
        raise ValueError(f"{path} has no tokenizer that can be read: {why}")
    tokens = said["tokens"]
    if len(set(tokens)) < len(tokens):
        raise ValueError(f"{path} lists {len(tokens) - len(set(tokens))} tokens twice")
    rule = _rule(path, said) if kind == "gpt2" else Rule(bos=True)
    built = _byte_level(said, rule) if kind == "gpt2" else _sentencepiece(said)
    roles = {role: _role(path, said, role) for role in ("bos", "eos", "unknown", "padding")}
    _add_whole_tokens(built, said)
    _begin_and_end(built, said, roles, rule)
    found = PreTrainedTokenizerFast(
        tokenizer_object=built,
        bos_token=roles["bos"],
        eos_token=roles["eos"],
        unk_token=roles["unknown"],
        pad_token=roles["padding"],
        clean_up_tokenization_spaces=False,
        name_or_path=str(path),
        **({} if (longest := header.get("context_length")) is None else {"model_max_length": longest}),
    )
    found.chat_template = header.said.get("tokenizer.chat_template")
    return found


def _rule(path: Path, said: dict[str, Any]) -> Rule:
    name = said.get("pre", "default")
    if name not in RULES:
        raise ValueError(
            f"{path} splits text by the rule {name!r}, which whorl does not know; it knows {', '.join(RULES)}. Give "
            "the tokenizer of the model that it was converted from"
        )
    return RULES[name]


def _role(path: Path, said: dict[str, Any], role: str) -> str | None:
    number = said.get(f"{role}_token_id")
    if number is None:
        return None
    if not 0 <= number < len(said["tokens"]):
        raise ValueError(f"{path} has {len(said['tokens'])} tokens, and its {role} token is number {number}")
    return str(said["tokens"][number])


def _byte_level(said: dict[str, Any], rule: Rule) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    merges = [tuple(merge.split(" ", 1)) for merge in said.get("merges", ())]
    vocabulary = {token: i for i, token in enumerate(said["tokens"])}
    built = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=rule.whole))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if rule.digits else []
    if rule.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(rule.pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule.pattern is None))
    built.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    built.decoder = decoders.ByteLevel()
    return built


def _sentencepiece(said: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens, prefix = said["tokens"], said.get("add_space_prefix", True)
    unknown = said.get("unknown_token_id")
    built = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(tokens)},
            _merges(said),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", SPACE)
    # llama.cpp puts the space before every stretch of text between special tokens, and so does a normalizer.
    built.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    built.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return built


def _merges(said: dict[str, Any]) -> list[tuple[str, str]]:
    """Every way in which two tokens make a third, by the third's score, the best first: SentencePiece's order.

    Tokens of one score, which SentencePiece joins from left to right, come in the order of the file.
    """
    tokens, scores = said["tokens"], said.get("scores") or [0.0] * len(said["tokens"])
    kinds = said.get("token_type") or [NORMAL] * len(tokens)
    known = {token for token, kind in zip(tokens, kinds, strict=True) if kind == NORMAL}
    order = sorted((i for i, kind in enumerate(kinds) if kind == NORMAL), key=lambda i: (-scores[i], i))
    pairs = ((tokens[i][:cut], tokens[i][cut:]) for i in order for cut in range(1, len(tokens[i])))
    return [(left, right) for left, right in pairs if left in known and right in known]


def _add_whole_tokens(built: Any, said: dict[str, Any]) -> None:
    """Tokens that are found in a text before anything else: those for control, and those that a user has defined."""
    from tokenizers import AddedToken

    kinds = said.get("token_type") or []
    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        added = [
            AddedToken(token, normalized=False, special=special)
            for token, own in zip(said["tokens"], kinds, strict=False)
            if own == kind
        ]
        (built.add_special_tokens if special else built.add_tokens)(added)


def _begin_and_end(built: Any, said: dict[str, Any], roles: dict[str, str | None], rule: Rule) -> None:
    from tokenizers import processors

    ends = []
    for role, by_default in (("bos", rule.bos), ("eos", False)):
        asked = said.get(f"add_{role}_token", by_default) and roles[role] is not None
        ends.append([roles[role]] if asked else [])
    (begin, end), ids = ends, {role: said.get(f"{role}_token_id") for role in ("bos", "eos")}
    if begin or end:
        built.post_processor = processors.TemplateProcessing(
            single=[*begin, "$A", *end],
            pair=[*begin, "$A", *end, *(f"{t}:1" for t in begin), "$B:1", *(f"{t}:1" for t in end)],
            special_tokens=[(roles[r], ids[r]) for r, used in (("bos", begin), ("eos", end)) if used],
        )
