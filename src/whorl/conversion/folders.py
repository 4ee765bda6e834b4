"""From names to folders: what `whorl extend` and `whorl convert` do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from whorl import finite, hosts, outputs
from whorl.attaching.reading import encoding_of
from whorl.checking import check_numbers, check_path
from whorl.conversion import extending, recipes, resuming
from whorl.conversion.extending import Tried
from whorl.data.corpus import SOURCES, check_path_of_text, read_documents
from whorl.data.losses import entropy_of_counts
from whorl.encodings import Encoding
from whorl.extras import require
from whorl.files import write_atomically
from whorl.hosts import open_host
from whorl.numerics import peak_memory
from whorl.randomness import put_back
from whorl.reports.formatting import duration
from whorl.results.extension import CONVERSION, EXTENSION, TUNED, Conversion, Extension, Method
from whorl.sources import Source, declared_length, source
from whorl.stages import Stage, Update, counted, silent
from whorl.tasks.language import ShortDocuments

Say = Callable[[str], None]
FEW_STEPS = 20
STRIDE = 0.5  # of a window, between the starts of two
REACH = 4  # times the training length: where the loss of a conversion is taken too, if documents are that long


def extend(
    name: str,
    to: int,
    *,
    method: str = "auto",
    text: str | None = None,
    tokenizer: str | None = None,
    windows: int = 16,
    train_length: int | None = None,
    tolerance: float = extending.TOLERANCE,
    tune: int = 0,
    lora: int = 0,
    learning_rate: float = 2e-4,
    batch_size: int = 8,
    needle: bool = False,
    out: str | Path,
    force: bool = False,
    stage: Stage = silent,
    say: Say = lambda line: None,
) -> Extension:
    """Extends a checkpoint, by name, and writes it to the folder `out`, with extension.json and loss.png.

    tokenizer  None takes the model's own; else a folder, a GGUF file or a hub name. It is written beside the model.
    tune  tokens of training at the new length, after the method without training; with `lora`, of adapters of that rank
          (through peft), merged at the end. Its losses are then those of the method "NAME, tuned". A tuning that was
          interrupted goes on (see `resuming`).
    needle  also asks for a number stated far back (see `needle`), at the training length and the new one, in
          the result as `needle`.
    stage   told by name of what begins (the methods, the tuning, its loss, the needle); gives what is told of how much
            of it is done, and of how much there is
    Raises ValueError for what does not fit, before anything is written.
    """
    check_numbers(
        to=to, windows=windows, train_length=train_length, tolerance=tolerance, tune=tune, lora=lora,
        learning_rate=learning_rate, batch_size=batch_size,
    )  # fmt: skip
    if lora and not tune:
        raise ValueError(f"lora={lora} is of a tuning, and no tune was asked for; give --tune TOKENS, or leave it out")
    require("extend", "reports", *(["compare"] if tune else []), *(["peft"] if lora else []))
    if method != "auto":
        extending.check_method(method)
    name, out, text, found, reads = _from_and_to(name, out, text, tokenizer, force)
    model, reader = found.whole(say), found.tokenizer()
    limit = trained_length(found, model, train_length)
    if train_length is None:
        say(told_length(found, limit))
    extending.check_target(to, limit)
    longest = max(to, declared_length(model) or 0)
    if longest > to:
        say(
            f"the config says {longest:,} tokens, more than {to:,}: max_position_embeddings stays as it is, which a "
            f"scaling from {limit:,} to {to:,} does not reach (whorl doctor says so, too)"
        )
    ids = overlapping(text or found.text or "stdlib", reader, to, windows)
    if needle:
        from whorl.conversion import needle as needles

        needles.check(model, reader, ids.flatten().tolist(), (limit, to))
    new = extending.see_new_distances(open_host(model), encoding_of(model), limit)
    if tune:
        from whorl.conversion.converting import Healing, check_tokens, language

        healing, length = Healing(tune, to, batch_size, learning_rate), (to,)
        task = language(text or found.text or "stdlib", found.tokenizer_name, to, length, 4, max(1, to // 4))
        check_tokens(model, task)
        asked = {"lora": lora, **_follows_from(model, task, healing)}
        resuming.check(out, "extend", asked, force)
    say(
        f"{'the methods read' if method == 'auto' else f'the model and {method} read'} {windows} window"
        f"{'' if windows == 1 else 's'} of {to:,} tokens each; how long that takes is told after the first"
    )
    best, tried = extending.extend(
        model,
        to,
        ids,
        train_length=limit,
        method=method,
        tolerance=tolerance,
        ignored=reader.unk_token_id,
        update=stage("the methods"),
    )
    if (untouched := tried[0].in_range) > (counts := entropy_of_counts(ids)):
        say(
            f"in range the model has {untouched:.3f} nats per token on this text, more than the {counts:.3f} that the "
            "counts of its tokens alone give: it does not read it, and what the methods differ by means nothing"
        )
    if best is tried[0]:
        say(f"no method reads the last quarter of {to:,} tokens better than the model as it is, which is kept")
    elif method != "auto" and best.past >= tried[0].past:
        say(
            f"{best.method} reads the last quarter of {to:,} tokens no better than the model as it is, which --method "
            "auto would keep"
        )
    with ExitStack() as until_written:
        work = None
        if tune:
            asked = {"encoding": str(best.encoding), **asked}
            work = until_written.enter_context(resuming.working(out, "extend", asked, say, force))
            model = tuned(model, task, healing, lora, work, stage("tuning"))
            losses = extending.loss_by_position(model, ids, reader.unk_token_id, counted(stage("its loss"), len(ids)))
            finite.check_values(losses, "losses are not finite after the tuning", model, ids)
            after = extending.summed(f"{best.method}{TUNED}", best.encoding, losses, limit, to)
            best = replace(after, whole_context=best.whole_context)
            tried.append(best)
        rows = None
        if needle:
            asked_for = counted(stage(f"the needle, at {limit:,} and {to:,} tokens"), 2 * len(needles.DEPTHS))
            rows = needles.retrieval(model, reader, ids.flatten().tolist(), (limit, to), advance=lambda: asked_for(1))
        with outputs.replacing(out, "extend", force, reads) as folder:
            result = Extension(
                from_=name,
                train_length=limit,
                to=to,
                text=text or found.text or "stdlib",
                windows=tuple(ids.shape),
                method=best.method,
                encoding=str(best.encoding),
                layers_as_they_were=tuple(i for i, reaches in enumerate(new) if not reaches),
                tried=tuple(Method(t.method, str(t.encoding), t.in_range, t.past, t.whole_context) for t in tried),
                loads=extending.save(model, folder, reader, longest),
                needle=rows,
            )
            result.write(folder / EXTENSION)
            write_atomically(folder / "loss.png", figure(tried, best, limit))
            if work is not None:
                resuming.written(work)
    resuming.clear(out, finished=False)  # what was for this place under other arguments is of no use any more
    return result


def _from_and_to(
    name: Any, out: Any, text: Any, tokenizer: str | None, force: bool
) -> tuple[str, Path, str | None, Source, list[str | None]]:
    """The name, the folder and the text, what the name is of, and all that will be read.

    Raises ValueError for what is no name of a model, of a text or of a folder, and for a folder that may not be
    written.
    """
    name = check_path("the model", name, "a directory, a .gguf file, a hub name or a trial's folder")
    out = Path(check_path("out", out))
    if text is not None:
        check_path_of_text(text := check_path("text", text, SOURCES))
    found = source(name, tokenizer=tokenizer)
    reads = [*found.reads, text or found.text]
    resuming.clear(out)
    outputs.check_replaces(out, force, reads)
    return name, out, text, found, reads


def _follows_from(model: Any, task: Any, healing: Any) -> dict[str, Any]:
    """What the numbers of a training follow from."""
    settings = {**asdict(healing), "precision": healing.recipe().precision}
    return {"model": resuming.digest(model), "text": task.fingerprint(), **settings}


@put_back()
def tuned(model: Any, task: Any, healing: Any, lora: int, work: Path, update: Update) -> Any:
    """The model trained on at the new length: all of its weights, or adapters that are merged in the end."""
    from transformers import set_seed

    from whorl.conversion.converting import train_on
    from whorl.training.trainer import check_memory

    trained = model
    if lora:
        from peft import LoraConfig, get_peft_model

        set_seed(healing.seed)
        trained = get_peft_model(model, LoraConfig(r=lora, lora_alpha=2 * lora, target_modules="all-linear"))
    check_memory(trained, healing.recipe())
    train_on(trained, task, healing, work / "tuning", update, [])
    merged = trained.merge_and_unload() if lora else trained
    return merged.eval()


def trained_length(found: Source, model: Any, given: int | None, scaled: bool = True) -> int:
    """The training length that was given, or that the trial or the config tells of.

    scaled: with the config's own scaling of its positions; without it, the model was trained at the length before.
    """
    unscaled = found.extended_from or hosts.trained_length(hosts.open_host(model))
    length = given or found.train_length or (declared_length(model) if scaled else unscaled)
    if length is None:
        raise ValueError(f"{found.name} does not say its training length; give --train-length")
    return int(length)


def length_unscaled(found: Source, model: Any, needed: int, say: Say) -> int:
    """The tokens that a config may go on to say where a scaling of its positions is taken off; says where it is less.

    needed: what it reads at least.
    """
    unscaled = found.extended_from or found.train_length or hosts.trained_length(open_host(model)) or 0
    longest, declared = max(needed, unscaled), declared_length(model) or 0
    if longest < declared:
        say(
            f"max_position_embeddings goes from {declared:,} to {longest:,}, the length that the model was trained at: "
            "the new encoding is not scaled"
        )
    return longest


def told_length(found: Source, limit: int) -> str:
    """Where a training length that was not given comes from."""
    if found.extended_from and limit != found.extended_from:
        return f"extended to {limit:,} tokens already, its config says; trained at {found.extended_from:,}"
    return f"trained at {limit:,} tokens, {found.tells_length} says"


def overlapping(text: str, tokenizer: Any, length: int, windows: int) -> torch.Tensor:
    """Windows [windows or fewer, length] of a text, each beginning half a window after the one before.

    Raises ValueError for a text that is shorter than a window.
    """
    ids = tokenizer("".join(read_documents(text)), add_special_tokens=False)["input_ids"]
    if len(ids) < length:
        raise ValueError(f"{text!r} gives {len(ids):,} tokens, fewer than the {length:,} asked for; give a longer text")
    starts = range(0, len(ids) - length + 1, max(1, int(STRIDE * length)))
    taken = starts[:: max(1, -(-len(starts) // windows))]
    return torch.stack([torch.tensor(ids[start : start + length]) for start in taken])


def figure(tried: list[Tried], best: Tried, train_length: int) -> bytes:
    """Loss by position of every method."""
    from whorl.reports import extension, png

    losses = {one.method: one.by_position.tolist() for one in tried}
    return png.image(png.draw(extension.loss_by_position(losses, best.method, train_length)), dpi=110)


def convert(
    name: str,
    to: str | Encoding,
    *,
    heal: int | None = None,
    text: str | None = None,
    tokenizer: str | None = None,
    train_length: int | None = None,
    reach: int | None = None,
    windows: int = 48,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    gradual: float = 0.0,
    control: bool = True,
    seed: int = 0,
    out: str | Path,
    force: bool = False,
    stage: Stage = silent,
    say: Say = lambda line: None,
) -> Conversion:
    """Converts a checkpoint, by name, heals it and writes it to the folder `out`, with conversion.json.

    to     an encoding or its notation, or the name of a recipe (`recipes`), which sets what is not given: the tokens of
           the healing (heal), learning_rate (else 5e-4) and batch_size (else 32 sequences)
    reach  losses are taken at the training length and at so many times it, which some held-out document must have;
           where it is not given, at REACH times it, or, which `say` is told, as far as the longest of them goes
    Trainings that were interrupted go on (see `resuming`). Raises ValueError for what does not fit.
    """
    require("convert", "compare")
    from whorl.conversion import converting

    if heal == 0:
        raise ValueError(
            "a conversion heals by training, and heal=0 asks for none; in Python whorl.attach(whorl.load(MODEL), "
            "ENCODING).save_pretrained(OUT) swaps alone"
        )
    check_numbers(
        heal=heal, train_length=train_length, reach=reach, windows=windows, learning_rate=learning_rate,
        batch_size=batch_size, gradual=gradual, seed=seed,
    )  # fmt: skip
    chosen = recipes.settings_of(to)
    by_paper = heal is None and chosen.tokens is not None
    heal = chosen.tokens if heal is None else heal
    if heal is None:
        raise ValueError(
            f"a swap to {chosen.to} is healed by training; give --heal (in Python heal=), the tokens of it: 5000000 "
            "would be a first try"
        )
    name, out, text, found, reads = _from_and_to(name, out, text, tokenizer, force)
    if by_paper:
        say(
            f"no --heal was given: {to} heals with its paper's {heal:,} tokens, which is work for many GPUs; "
            "--heal 5000000 --batch-size 32 would be a first try"
        )
    if (empty := found.without_weights()) is not None:  # asked before gigabytes are read, and a text
        converting.from_and_to(empty, chosen.to, trained_length(found, empty, train_length, scaled=False))
    model, reader = found.whole(say), found.tokenizer()
    limit = trained_length(found, model, train_length, scaled=False)  # the new encoding is not scaled
    if empty is None:
        converting.from_and_to(model, chosen.to, limit)
    longest = length_unscaled(found, model, limit, say)
    task = _measured_to(reach, limit, text or found.text or "stdlib", found.tokenizer_name, windows, say)
    batch_size, learning_rate = batch_size or chosen.batch_size, learning_rate or chosen.learning_rate
    healing = converting.Healing(heal, limit, batch_size, learning_rate, gradual, seed)
    if chosen.says:
        say(chosen.says)
    say(_planned(healing, control, task))
    say(_time_of(healing, control, converting.tokens_per_second(model, limit)))
    asked = {"to": chosen.to, **_follows_from(model, task, healing)}
    with resuming.working(out, "convert", asked, say, force) as work:
        result = converting.convert(model, chosen.to, task, healing, work, control=control, stage=stage)
        said = "--train-length" if train_length else told_length(found, limit)
        with outputs.replacing(out, "convert", force, reads) as folder:
            loads = extending.save(model, folder, reader, longest)
            result = replace(result, model=name, train_length_from=said, loads=loads)
            result.write(folder / CONVERSION)
            resuming.written(work)
    if (peak := peak_memory(model.device)) is not None:
        say(f"memory of this process, at most: {peak / 2**30:.1f} GiB")
    return result


def _planned(healing: Any, control: bool, task: Any) -> str:
    """What will be done, in words: in batches of the default size, few tokens are a step or two, which heal nothing."""
    steps, length = healing.recipe().steps, healing.train_length
    more = "a smaller --batch-size makes more steps of as many tokens" if healing.batch_size > 1 else "give more --heal"
    few = f"; that is few: {more}" if steps < FEW_STEPS else ""
    at = " and ".join(f"{n:,}" for n in task.settings.lengths)
    also = ", and as many of the untouched model" if control else ""
    return (
        f"healing: {steps:,} step{'' if steps == 1 else 's'} of {healing.batch_size} x {length:,} tokens, learning "
        f"rate {healing.learning_rate:g}{also}; losses on {len(task.windows)} windows at {at} tokens, "
        f"{'four' if control else 'three'} times{few}"
    )


def _time_of(healing: Any, control: bool, rate: float) -> str:
    """How long the trainings will take, where so many tokens are trained on in a second."""
    trainings = 2 if control else 1
    seconds = trainings * healing.tokens / rate
    return (
        f"about {duration(seconds)} of training here for {healing.tokens:,} tokens{', twice' * control}, by a forward "
        "of the model (--heal sets the tokens)"
    )


def _measured_to(reach: int | None, limit: int, text: str, tokenizer: str, windows: int, say: Say) -> Any:
    """The text to heal on, whose losses are taken at `limit` tokens and at `reach` times as many (see `convert`)."""
    from whorl.conversion.converting import language

    times = reach or REACH
    lengths = (limit, times * limit) if times > 1 else (limit,)
    try:
        return language(text, tokenizer, limit, lengths, windows, max(1, limit // 4))
    except ShortDocuments as error:
        fitting = error.longest // limit
        if not fitting:
            raise
        short = f"the longest held-out document of {text!r} has {error.longest:,} tokens"
        if reach is not None:
            raise ValueError(
                f"the loss is measured at {limit:,} tokens and {times} times as many, and {short}; "
                f"give --reach {fitting}, or a text of longer documents"
            ) from None
    far = f"at {fitting * limit:,} too" if fitting > 1 else "no further"
    say(f"{short}: losses are taken at the training length of {limit:,}, and {far}")
    return _measured_to(fitting, limit, text, tokenizer, windows, say)
