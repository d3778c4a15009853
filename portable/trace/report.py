"""A judgement as people read it, and as programs do."""

from __future__ import annotations

import math
from typing import Any

from portable.kernel.entry import REFERENCE
from portable.trace.judge import Failure, Judgement, Step
from portable.trace.replay import BACKWARD, UPDATE, Deviation, Replay

_NUM_ROWS = 10
Json = dict[str, Any]  # Any: JSON values


def verdict(found: Judgement) -> str:
    """Return the one or two sentences that matter."""
    sentences = [] if found.same_start else [_start(found)]
    if isinstance(found.culprit, Failure):
        sentences.append(_blame_row(found, found.culprit))
    elif found.culprit is not None:
        sentences.append(_blame_call(found, found.culprit))
    return " ".join(sentences) or _agreement(found)


def as_text(found: Judgement) -> str:
    """Return the report: the verdict, what the two runs are, the ten worst calls, the kernels that fail."""
    lines = [verdict(found), "", *_runs(found), "", *_table(found)]
    failed = [replay for replay in found.replays if replay.failure is not None]
    if failed:
        lines += ["", "  Kernel calls that err more than their references explain:"]
        lines += [f"    {_failure_line(replay)}" for replay in failed]
    skipped = [replay for replay in found.replays if replay.skipped]
    if skipped:
        lines += ["", "  Kernel calls that were not repeated:"]
        lines += [f"    {replay.name} ({replay.row}): {replay.skipped}" for replay in skipped]
    return "\n".join(lines)


def as_json(found: Judgement) -> Json:
    """Return the same as JSON values; a number that is not finite is null."""
    return {
        "agrees": found.agrees,
        "verdict": verdict(found),
        "culprit": _culprit_json(found),
        "different_parameters": found.parameters,
        "different_inputs": found.batch,
        "calls": [_step_json(step) for step in _worst_first(found)],
        "kernels": [_replay_json(replay) for replay in found.replays],
        "recorded": _header_json(found.recorded.header),
        "here": _header_json(found.present.header),
    }


def _worst_first(found: Judgement) -> list[Step]:
    return sorted(found.steps, key=lambda step: -step.excess)


def _start(found: Judgement) -> str:
    told: list[str] = []
    if found.parameters:
        told.append(
            f"The parameters differ before the step: {_few(found.parameters)}. Look at what makes them: the "
            "seed, the random generator, the model folder."
        )
    if found.batch:
        told.append(
            f"The batch differs before the model has seen it: {_few(found.batch)}. Look at the data, its "
            "order, its shape and the seed; in rl, answers are drawn from the policy, and one other token "
            "moves all that follow."
        )
    return " ".join(told)


def _agreement(found: Judgement) -> str:
    results = len(found.steps)
    formats = [run.header["compute_dtype"] for run in (found.recorded, found.present)]
    most = max((step.outgoing for step in found.steps), default=0.0)
    equal = sum(step.outgoing == 0 for step in found.steps)
    text = f"The step agrees: all {results} results are equal to the bit"
    if most:
        text = f"The step agrees: its {results} results differ by at most {most:.1e}, which rounding explains"
        text += f"; {equal} are equal to the bit"
    if formats[0] != formats[1]:
        text += f" (recorded in {formats[0]}, here in {formats[1]}: with one precision more would be seen)"
    num_repeated = sum(bool(replay.deviations) for replay in found.replays)
    return f"{text}. {num_repeated} kernel calls were repeated and err no more than their references allow."


def _blame_row(found: Judgement, failure: Failure) -> str:
    replay, deviation = failure.replay, failure.deviation
    format_ = found.present.header["compute_dtype"]
    text = (
        f"{_place(replay.name)}: row '{replay.row}' errs {_times(deviation.ratio)} times as much as its "
        f"reference ({format_}, {deviation.phase}; {deviation.limit:g} times is allowed), "
        f"{_tensor(deviation)} {deviation.text}."
    )
    here = deviation.reference_here
    if here is not None and here <= deviation.limit and replay.row != REFERENCE:
        return (
            f"{text} The reference row agrees on this device ({here:.3g} times): use "
            f"kernel.rows.{replay.op}=reference, and report the row."
        )
    return (
        f"{text} The reference row errs here, too: operators of torch are at fault on this device; report it "
        "to who makes them."
    )


def _blame_call(found: Judgement, step: Step) -> str:
    departs = (
        f"departs in its {step.phase} pass: error {step.outgoing:.1e} from {step.incoming:.1e}, "
        f"{_times(step.excess)} times what rounding explains"
    )
    replay = next((replay for replay in found.replays if replay.name == step.name), None)
    if replay is None:
        inside = [item for item in found.replays if item.name.startswith(f"{step.name}:")]
        kernels = f"; the {len(inside)} kernel calls inside it agree with their references" if inside else ""
        return f"{step.name} {departs}, not in a kernel{kernels}. Look at its own operators."
    if replay.skipped:
        return f"{_place(step.name)} {departs}. The call was not repeated: {replay.skipped}."
    old, new = step.rows
    return (
        f"{_place(step.name)} {departs}, but row '{new}' agrees with its reference here. The suspect is the "
        f"recording's row '{old}' on {found.recorded.header['hardware']}: record here, and compare there."
    )


def _tensor(deviation: Deviation) -> str:
    if deviation.phase == BACKWARD:
        return f"in the gradient of {deviation.tensor}"
    if deviation.phase == UPDATE:
        return f"in {deviation.tensor}"
    return f"in result {deviation.tensor}" if deviation.tensor else "in its result"


def _times(ratio: float) -> str:
    return f"{ratio:.3g}" if ratio < 1000 else f"{ratio:,.0f}"


def _place(name: str) -> str:
    module, _, kernel = name.partition(":")
    return f"{module}: {kernel}" if kernel else module


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _runs(found: Judgement) -> list[str]:
    old, new = found.recorded.header, found.present.header
    rows = [("", "recorded", "here")]
    rows += [(name, str(old[name]), str(new[name])) for name in ("hardware", "precision")]
    rows += [(name, f"{old[name]:.7g}", f"{new[name]:.7g}") for name in ("loss", "grad_norm")]
    rows += [("torch", old["versions"]["torch"], new["versions"]["torch"])]
    differing = f"{len(found.parameters)} differ" if found.parameters else f"apart by up to {found.drift:.1e}"
    rows += [("parameters", differing if found.drift else "equal", "")]
    rows += [("batch", "differs" if found.batch else "equal", "")]
    return [f"  {name:<12}{before:<24}{after}".rstrip() for name, before, after in rows]


def _table(found: Judgement) -> list[str]:
    if not found.same_start:
        return ["  Modules were not compared: the runs do not start alike."]
    shown = [step for step in _worst_first(found)[:_NUM_ROWS] if step.outgoing > 0]
    names = [f"{step.name} ({step.phase})" for step in shown]
    width = max(map(len, names), default=0)
    lines = [f"  {'call':<{width}}  error in  error out  explained  × explained  row"] if shown else []
    for name, step in zip(names, shown, strict=True):
        rows = " → ".join(dict.fromkeys(row for row in step.rows if row))
        numbers = f"{step.incoming:>8.1e}  {step.outgoing:>9.1e}  {step.allowed:>9.1e}  {step.excess:>11.3g}"
        lines.append(f"  {name:<{width}}  {numbers}  {rows}".rstrip())
    return lines


def _failure_line(replay: Replay) -> str:
    failed = [deviation for deviation in replay.deviations if deviation.failed]
    told = "; ".join(f"{item.phase} {_times(item.ratio)} times" for item in failed)
    return f"{replay.name} ({replay.row}): {told}"


def _culprit_json(found: Judgement) -> Json | None:
    culprit = found.culprit
    if culprit is None:
        return None
    failed = isinstance(culprit, Failure)
    return {
        "name": culprit.name,
        "phase": culprit.phase,
        "is_kernel": ":" in culprit.name,
        "row": culprit.replay.row if failed else culprit.rows[1],
        "ratio": _number(culprit.deviation.ratio) if failed else None,
    }


def _step_json(step: Step) -> Json:
    return {
        "name": step.name,
        "phase": step.phase,
        "place": step.place,
        "error_in": _number(step.incoming),
        "error_out": _number(step.outgoing),
        "explained": _number(step.allowed),
        "departs": step.excess > 1,
        "rows": list(step.rows),
    }


def _replay_json(replay: Replay) -> Json:
    deviations = [
        {
            "phase": item.phase,
            "tensor": item.tensor,
            "ratio": _number(item.ratio),
            "limit": item.limit,
            "text": item.text,
        }
        for item in replay.deviations
    ]
    return {"name": replay.name, "row": replay.row, "skipped": replay.skipped, "deviations": deviations}


def _header_json(header: Json) -> Json:
    return {**header, "loss": _number(header["loss"]), "grad_norm": _number(header["grad_norm"])}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
