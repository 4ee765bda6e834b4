"""What papers claim, each with what is held against it here; and what people who choose an encoding need.

A claim is one line and its evidence; `found.py` writes the page. Papers and numbers are those of the notes that this
project was given; where a paper's own text was not at hand, the page says so.
"""

from __future__ import annotations

from claiming import Claim, Need, Paper
from claims_of_places import IMAGES, POINTS, VISION
from evidence import ITSELF, LANGUAGE, Evidence, First, Versus
from readings import (
    MODELS,
    appears_early,
    costs,
    fast_layers,
    grows,
    heads_by_their_pairs,
    healed,
    leaves_its_range,
    made_by_what_hope_removes,
    near_the_bound,
    not_needed,
    read_on,
    rises,
    share_of_the_slow,
    slower,
    u_shape_of_smollm2,
)
from studies import FAR, FIVE

P_ABOVE = "p-rope:p=0.5"  # keeps wavelengths past the training length of 128: above HoPE's cut
P_BELOW = "p-rope:p=0.25"
REVERSED = "p-rope:p=0.75,keep=slowest"
HYBRID = "rope+window:size=32/nope"
OTHERS = ("xpos", "kerple", "sandwich", "fope", "pope", "selective-rope", "repo", "grape-a", "stick-breaking", "dape")
BASES = "0005-bases/results-{}.json"


def retrieval(*tasks: str) -> tuple[str, ...]:
    return tuple(f"0010-awareness/{task}" for task in tasks)


def by_task(
    first: str, second: str, *tasks: str, times: tuple[int, ...] = (4, 16), says: str = "better"
) -> tuple[Evidence, ...]:
    return tuple(Versus(first, second, retrieval(task), times, says) for task in tasks)  # type: ignore[arg-type]


WINDOWED, FADING = FAR
RECALL = ("0013-content/recall", "0018-gains/recall")
HOPE = Paper(
    "HoPE (2410.21216)",
    "A pair turns only if its full turn fits in the training length. The paper's body was not at hand: its claims are "
    "those of its abstract and of notes on it.",
    (
        Claim(
            "HoPE reads past the training length better than RoPE",
            "abstract; perplexity 13.03 at 8 times the length, where RoPE breaks",
            (Versus("hope", "rope"),),
            "Does HoPE extrapolate better than RoPE?",
        ),
        Claim("It reads on as well as in range", "not claimed: asked here", (Versus("hope", ITSELF, says="alike"),)),
        Claim(
            "In range it costs nothing against RoPE",
            "DaRoPE's Table: 18.94 beside 18.95",
            (Versus("hope", "rope", times=(1,), says="alike"),),
        ),
        Claim(
            "Models with learned positions, RoPE and KERPLE learn a U-shape over distance",
            "abstract; notes",
            (
                rises("rope", "better"),
                rises("rope", "better", "text"),
                rises("learned", "better"),
                rises("kerple", "better"),
                rises("nope", "worse", control="no positions"),
                u_shape_of_smollm2("random"),
                u_shape_of_smollm2("text"),
            ),
        ),
        Claim(
            "Pairs whose turn just does not fit make the U-shape; HoPE removes them",
            "abstract; notes",
            (made_by_what_hope_removes("rope"), u_shape_of_smollm2("random")),
            "Do the pairs that HoPE removes make the U-shape?",
        ),
        Claim("HoPE has no U-shape", "abstract", (rises("hope", "worse"), rises("hope", "worse", "text"))),
        Claim("The U-shape is learned early in training", "notes", (appears_early("rope"),)),
        Claim(
            "The pairs that make it leave their range first past the training length",
            "notes",
            (leaves_its_range("rope", True), leaves_its_range("hope", False, control="without these pairs")),
        ),
        Claim(
            "The slowest pairs are hardly used as positions",
            "notes",
            (not_needed("rope", 16),),
        ),
        Claim(
            "HoPE copies and follows better than RoPE",
            "notes: copying 23.80 % to 60.23 %",
            (
                Versus("hope", "rope", ("0002-copy",), (2, 4)),
                *by_task("hope", "rope", "segment-copy", "following", times=(2, 4, 16)),
            ),
            "Does HoPE copy and follow better?",
        ),
        Claim(
            "HoPE fails where a recent decoy stands before the answer",
            "DaRoPE's digression test: 17 % beside 78 % (RoPE, base 500,000)",
            by_task("hope", "rope", "decoy", times=(1, 4, 16), says="worse"),
            "Does it fail at decoys?",
        ),
        Claim(
            "It recalls what RoPE forgets past the training length",
            "not the paper's: asked here",
            (
                Versus("hope", "rope", RECALL),
                Versus("hope", "rope", ("0003-recall",)),
                *by_task("hope", "rope", "mqar"),
            ),
        ),
        Claim(
            "HoPE is for training from scratch: a trained model needs training to take it",
            "notes",
            tuple(healed("hope:train_length=8192", text, 2) for text in ("code", "prose")),
        ),
    ),
)

P_ROPE = Paper(
    "p-RoPE (2410.06205)",
    "The fastest fraction p of the pairs turns. Its propositions and theorems are proved, and not asked here.",
    (
        Claim(
            "p-RoPE above HoPE's cut breaks past the training length as RoPE does",
            "a prediction from MoSAR's 0.75-RoPE (2609.31261)",
            (Versus(P_ABOVE, "rope", times=(2, 4, 16), says="no better"), Versus(P_ABOVE, "hope", says="worse")),
            "Is p-RoPE above HoPE's cut as bad as RoPE?",
        ),
        Claim(
            "p-RoPE below HoPE's cut holds",
            "follows from HoPE's rule",
            (Versus(P_BELOW, "rope"), Versus(P_BELOW, "hope", says="alike")),
        ),
        Claim(
            "It is the wavelength that decides, not the fraction",
            "what HoPE's and p-RoPE's rules differ in",
            (
                Versus("p-rope:p=0.34375,base=500000", "hope", says="worse"),
                Versus("hope:base=100", "rope"),
                Versus("hope:base=100", "hope", says="alike"),
            ),
        ),
        Claim(
            "0.75-RoPE is better than RoPE in range",
            "Table 2: 4.4414 beside 4.4627, one run each",
            (Versus("p-rope:p=0.75", "rope", times=(1,)),),
        ),
        Claim(
            "Reversed, with the slowest pairs kept, it loses",
            "Table 2: 4.4592 beside 4.4414 (RoPE 4.4627)",
            (
                Versus(REVERSED, "p-rope:p=0.75", times=(1,), says="worse"),
                Versus(REVERSED, "rope", times=(1, 4, 16), says="worse"),
            ),
            "Does reversed lose?",
        ),
        Claim(
            "A trained model needs its fast pairs more than its slow ones",
            "follows from both papers",
            tuple(
                costs(model, kept, says)
                for model in MODELS
                for kept, says in ((REVERSED, "worse"), ("p-rope:p=0.75", "alike"))
            ),
        ),
        Claim(
            "It costs a trained model, too, where short windows do not show it, and training takes a part of that back",
            "rebuttal: converting worked in preliminary tests, training from scratch was better",
            tuple(healed("p-rope:p=0.75", text, 4) for text in ("code", "prose")),
        ),
        Claim(
            "Partial rotary, a quarter of the pairs, and none are worse than 0.75-RoPE",
            "Table 2: 4.4537, 4.5302, 4.8594",
            tuple(
                Versus(name, "p-rope:p=0.75", times=(1,), says="worse")
                for name in ("partial-rope:fraction=0.75", P_BELOW, "nope")
            ),
        ),
        Claim(
            "A trained model puts most of the norm of q and k in its slow pairs; values show no such pattern",
            "Gemma 7B, Llama 3.1 8B",
            (
                share_of_the_slow("norm_q", "better"),
                share_of_the_slow("norm_k", "better"),
                share_of_the_slow("norm_v", "alike"),
            ),
        ),
        Claim(
            "Fast pairs are used mainly in the first and the last layers",
            "Gemma 7B",
            (fast_layers("norm_q"), fast_layers("norm_k")),
        ),
        Claim(
            "Positional heads come near the largest logit that their norms allow",
            "Gemma 7B: 383 of 484",
            (near_the_bound(0.5),),
        ),
        Claim(
            "Positional heads go by the fastest pairs",
            "Gemma 7B",
            (heads_by_their_pairs("previous-token", "better"), heads_by_their_pairs("diagonal", "better")),
        ),
        Claim(
            "Heads that attend to the first token go by slow pairs",
            "Gemma 7B",
            (heads_by_their_pairs("first-token", "worse"),),
        ),
    ),
)

RELATED = Paper(
    "Related works",
    "Each against `rope` or against itself in range, where a study has it.",
    (
        Claim(
            "NoPE is first in length generalization",
            "2305.19466: 0.69 beside 0.55 (T5), 0.50 (ALiBi), 0.33 (RoPE) and 0.22 (sinusoidal)",
            (First("nope", "length-generalization", FIVE), First("nope", "length-generalization")),
            "Is NoPE first in length generalization once grading is right?",
        ),
        Claim(
            "Low perplexity is not retrieval",
            "2405.14591, DaRoPE",
            (
                Versus("rope:base=100", "rope:base=1000000", (BASES.format("language"),), (8,)),
                Versus("rope:base=100", "rope:base=1000000", (BASES.format("recall"),), (8,), "worse"),
                Versus("hope:cut=2.2", ITSELF, times=(16,), says="worse"),
                Versus("hope:cut=2.2", ITSELF, RECALL, (16,), "alike"),
            ),
            whole=True,
        ),
        Claim(
            "Tuned at twice the length, a larger base holds and then breaks, a smaller one loses slowly",
            "2310.05209",
            (
                Versus("rope:base=1000000", "rope", (BASES.format("language"),), (2,)),
                Versus("rope:base=1000000", "rope", (BASES.format("language"),), (8,), "worse"),
                Versus("rope:base=100", "rope", (BASES.format("language"),), (8,)),
            ),
        ),
        Claim(
            "In range a cut at 2.2 training lengths is better than HoPE's",
            "LeRoPE, 2607.10134",
            (Versus("hope:cut=2.2", "hope", times=(1,)), Versus("hope:cut=2.2", "hope", says="worse")),
        ),
        Claim(
            "Learned frequencies are better in range, and no better past it",
            "LeRoPE, 2607.10134",
            (Versus("learned-rope", "rope", times=(1,)), Versus("learned-rope", "rope", says="no better")),
        ),
        Claim(
            "Slow pairs that turn by a position of the token's choice: free in range, HoPE's reach, better recall",
            "DaRoPE",
            (
                Versus("darope", "rope", times=(1,), says="alike"),
                Versus("darope", "hope", says="alike"),
                Versus("darope", "hope", RECALL),
            ),
        ),
        Claim(
            "A gate that forgets is better than RoPE in range and reads on past it, with or without rotary pairs",
            "FoX, 2503.02130",
            (
                Versus("fox", "rope", times=(1,)),
                Versus("fox", ITSELF, says="alike"),
                Versus("rope+fox", "rope", times=(1,)),
                Versus("rope+fox", ITSELF, says="alike"),
            ),
        ),
        Claim(
            "ALiBi reads on past its length",
            "2108.12409",
            (Versus("alibi", ITSELF, says="alike"), Versus("alibi", "rope")),
        ),
        Claim(
            "Layers of FoX in turn with layers of KERPLE whose far keys fade read better past their length than at it",
            "`soft-window`, whorl's own",
            (
                Versus(FADING, ITSELF, ("0018-gains/more",)),
                Versus(FADING, "fox/kerple", ("0018-gains/language", "0018-gains/more"), (16,)),
            ),
            "Does an encoding gain from context past its training length?",
        ),
        Claim(
            "They answer from there as in range, where a window would hide the answers",
            "`soft-window`, whorl's own",
            (
                Versus(FADING, ITSELF, RECALL, says="alike"),
                Versus(FADING, WINDOWED, RECALL),
            ),
        ),
        Claim("T5's bias reads on better than RoPE", "2108.12409", (Versus("t5", "rope"),)),
        Claim(
            "FIRE reads on past its length",
            "2310.04418",
            (Versus("fire", ITSELF, says="alike"), Versus("fire", "rope")),
        ),
        Claim(
            "Layers of local rotary and global position-free attention, in turn, read on, and cost nothing in range",
            "2501.18795, iRoPE",
            (
                Versus(HYBRID, "rope", times=(1,), says="alike"),
                Versus(HYBRID, ITSELF, says="alike"),
                Versus(f"{HYBRID}+log-n", "rope", times=(1,), says="alike"),
                Versus(f"{HYBRID}+log-n", ITSELF, says="alike"),
                Versus(f"{HYBRID}+log-n", HYBRID),
            ),
        ),
        Claim(
            "A base of the training length reads on better", "Oka et al., ICLR 2026", (Versus("rope:base=128", "rope"),)
        ),
        Claim(
            "A quarter of the channels, as a smaller RoPE, is as good in range",
            "GPT-NeoX; 2603.11611",
            (Versus("partial-rope", "rope", times=(1,), says="alike"),),
        ),
        Claim(
            "Scaling logits by the logarithm of the length helps past it",
            "2501.19399",
            (Versus("ssmax+rope", "rope"),),
        ),
        Claim(
            "Positions by content are better in range",
            "CoPE, 2405.18719; PaTH, 2505.16381",
            (Versus("cope", "rope", times=(1,)), Versus("path", "rope", times=(1,))),
        ),
        Claim(
            "A step with CoPE takes over ten times another's",
            "DaRoPE's Table: 4.3 beside 61.7 k tokens a second",
            (slower("cope", 10.0),),
        ),
        Claim(
            "A step with positions by content takes longer than with RoPE",
            "asked here",
            (slower("cope", 1.0), slower("path", 1.0), slower("darope", 1.0)),
        ),
        Claim(
            "YaRN reads further with a model that is there, without training",
            "2309.00071",
            (
                Versus("rope then rope~yarn:factor=16", "rope"),
                read_on("rope~yarn:factor=2", 10240),
                read_on("rope~ntk:factor=2", 10240),
            ),
        ),
        Claim(
            "With RoPE a linear attention learns to a lower loss",
            "RoFormer, 2104.09864, section 4.4",
            (Versus("rope+linear", "linear", ("0008-roformer/decoders",), (1,)),),
        ),
        Claim(
            "An encoder without positions knows no order",
            "follows from attention",
            (Versus("rope", "nope", ("0008-roformer/encoders",), (1, 4), key="word_order"),),
        ),
        Claim(
            "What is selected by a proxy and comes back to the context grows a side effect with the rounds",
            "2402.06627, of large models",
            tuple(grows(name, "side effect") for name in ("rope", "hope", "fox", f"{HYBRID}+log-n")),
        ),
        Claim("A taper is better than a hard cut", "2602.05258", (Versus("taper", "hope"),)),
        Claim(
            "HoPE with YaRN reads further than HoPE",
            "notes on HoPE",
            (Versus("hope then hope~yarn:factor=16", "hope"),),
        ),
        Claim(
            "Others that are said to read on better than RoPE",
            "their papers",
            tuple(Versus(name, "rope") for name in OTHERS),
        ),
    ),
)


PAPERS = (HOPE, P_ROPE, RELATED, VISION, POINTS)

TEXT = {"language": LANGUAGE}
TASKS = {"recall": RECALL} | {task: retrieval(task) for task in ("mqar", "decoy", "segment-copy", "following")}

NEEDS = (
    Need("train from scratch, short contexts", TEXT, 1),
    Need("train, and read past the training length", TEXT, 16),
    Need("find things past the training length", TASKS, 16),
    Need(
        "make a trained checkpoint longer",
        TEXT,
        16,
        ("rope", "rope then rope~yarn:factor=16"),
        (read_on("rope~yarn:factor=2", 10240), read_on("hope:train_length=8192", 10240)),
    ),
    Need("read larger images than in training", {"images": IMAGES}, 1.5),
)
