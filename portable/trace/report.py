"""A judgement as people read it, and as programs do."""

from __future__ import annotations

from typing import Any

from portable.trace.judge import Culprit, Judgement, Step
from portable.trace.replay import Deviation, Replay

_NUM_ROWS = 10


def verdict(found: Judgement) -> str:
    """Return the one sentence that matters."""
    sentences = [_start(found)] if not found.same_start else []
    if found.culprit is not None:
        sentences.append(_blame(found, found.culprit))
    return " ".join(sentences) or _agreement(found)


def as_text(found: Judgement) -> str:
    """Return the report: the verdict, what the two runs are, the ten worst calls, the kernels that fail."""
    lines = [verdict(found), "", *_runs(found), ""]
    lines += _table(found)
    failed = [replay for replay in found.replays if replay.failure is not None]
    if failed:
        lines += ["", "  Kernels that err more than their reference explains, in the order of their calls:"]
        lines += [f"    {_failure_line(replay)}" for replay in failed]
    skipped = [replay for replay in found.replays if replay.skipped]
    if skipped:
        lines += ["", "  Kernels that were not repeated:"]
        lines += [f"    {replay.name} ({replay.row}): {replay.skipped}" for replay in skipped]
    return "\n".join(lines)


def as_json(found: Judgement) -> dict[str, Any]:  # Any: JSON values
    """Return the same as JSON values."""
    culprit = found.culprit
    return {
        "agrees": found.agrees,
        "verdict": verdict(found),
        "culprit": None
        if culprit is None
        else {
            "name": culprit.name,
            "phase": culprit.phase,
            "is_kernel": culprit.replay is not None,
            "row": "" if culprit.replay is None else culprit.replay.row,
            "ratio": None if culprit.deviation is None else culprit.deviation.ratio,
        },
        "different_parameters": found.parameters,
        "different_inputs": found.batch,
        "loss": {"recorded": found.recorded.header["loss"], "here": found.present.header["loss"]},
        "grad_norm": {
            "recorded": found.recorded.header["grad_norm"],
            "here": found.present.header["grad_norm"],
        },
        "calls": [_step_json(step) for step in worst(found, len(found.steps))],
        "kernels": [_replay_json(replay) for replay in found.replays],
        "recorded": found.recorded.header,
        "here": found.present.header,
    }


def worst(found: Judgement, count: int = _NUM_ROWS) -> list[Step]:
    """Return the calls with the most error beyond what is explained, worst first."""
    return sorted(found.steps, key=lambda step: -step.excess)[:count]


def _start(found: Judgement) -> str:
    told: list[str] = []
    if found.parameters:
        told.append(
            f"The parameters differ before the step: {_few(found.parameters)}. Look at what makes them: the seed, "
            "the random generator, the model folder."
        )
    if found.batch:
        told.append(
            f"The batch differs before the model has seen it: {_few(found.batch)}. Look at the data, its order and "
            "the seed; in rl, answers are drawn from the policy, and one other token moves all that follow."
        )
    return " ".join(told)


def _agreement(found: Judgement) -> str:
    equal = sum(step.outgoing == 0 for step in found.steps)
    most = max((step.outgoing for step in found.steps), default=0.0)
    text = (
        f"The step agrees: of {len(found.steps)} results {equal} are equal to the bit, and the rest differ by at most "
        f"{most:.1e}, which rounding explains"
    )
    formats = [run.header["compute_dtype"] for run in (found.recorded, found.present)]
    if formats[0] != formats[1]:
        text += f" (recorded in {formats[0]}, here in {formats[1]}; to see more, use one precision)"
    num_checked = sum(bool(replay.deviations) for replay in found.replays)
    return f"{text}. {num_checked} kernel calls were repeated and err no more than their references allow."


def _blame(found: Judgement, culprit: Culprit) -> str:
    replay, deviation = culprit.replay, culprit.deviation
    if replay is not None and deviation is not None:
        return _blame_row(found, culprit, replay, deviation)
    if culprit.step is None:
        raise ValueError("a culprit without a failed replay is a call that departs")
    departs = (
        f"error {culprit.step.outgoing:.1e} from {culprit.step.incoming:.1e}, {culprit.step.excess:.3g} times what "
        "rounding explains"
    )
    if replay is None:
        inside = [item for item in found.replays if item.name.startswith(f"{_module(culprit)}:")]
        return (
            f"{culprit.name} departs in its {culprit.phase} pass ({departs}), not in a kernel: "
            f"{len(inside)} kernel calls inside it agree with their references. Look at its own operators."
        )
    if replay.skipped:
        return f"{_place(culprit.name)} departs in its {culprit.phase} pass ({departs}); it was not repeated: {replay.skipped}."
    old, new = culprit.step.rows
    return (
        f"{_place(culprit.name)} departs in its {culprit.phase} pass ({departs}), but row '{new}' here errs no more "
        f"than its reference. The recording's row '{old}' on {found.recorded.header['hardware']} is the suspect: "
        "record here and compare there."
    )


def _blame_row(found: Judgement, culprit: Culprit, replay: Replay, deviation: Deviation) -> str:
    format_ = found.present.header["compute_dtype"]
    text = (
        f"{_place(culprit.name)}: row '{replay.row}' errs {_times(deviation.ratio)} its reference ({format_}, "
        f"{deviation.phase}; {deviation.limit:g} times is allowed), {deviation.text}."
    )
    here = deviation.reference_here
    if here is not None and here <= deviation.limit and replay.row != "reference":
        return (
            f"{text} The reference row on this device errs {_times(here)} itself on the host: use "
            f"kernel.rows.{replay.op}=reference and report the row."
        )
    return (
        f"{text} The reference row on this device errs, too: torch's own operators are at fault here; "
        "report it to who makes them."
    )


def _place(name: str) -> str:
    module, _, kernel = name.partition(":")
    return f"{module}: {kernel}" if kernel else module


def _module(culprit: Culprit) -> str:
    return culprit.name.removeprefix("gradient of ")


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times as much as"


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _runs(found: Judgement) -> list[str]:
    old, new = found.recorded.header, found.present.header
    rows = [("", "recorded", "here")]
    rows += [(name, str(old[name]), str(new[name])) for name in ("hardware", "precision")]
    rows += [(name, f"{old[name]:.7g}", f"{new[name]:.7g}") for name in ("loss", "grad_norm")]
    rows += [("torch", old["versions"]["torch"], new["versions"]["torch"])]
    start = "equal" if found.drift == 0 else f"apart by up to {found.drift:.1e}"
    text = [f"  {name:<12}{before:<24}{after}" for name, before, after in rows]
    return [
        *text,
        f"  {'parameters':<12}{f'{len(found.parameters)} differ' if found.parameters else start}",
        f"  {'batch':<12}{'differs' if found.batch else 'equal'}",
    ]


def _table(found: Judgement) -> list[str]:
    if not found.steps:
        return ["  Modules were not compared: the runs do not start alike."]
    shown = [step for step in worst(found) if step.outgoing > 0]
    if not shown:
        return [f"  All {len(found.steps)} results are equal to the bit."]
    names = [f"{step.name} ({step.phase})" for step in shown]
    width = max(map(len, names))
    lines = [f"  {'call':<{width}}  error in  error out  explained  × explained  row"]
    for name, step in zip(names, shown, strict=True):
        rows = " → ".join(dict.fromkeys(row for row in step.rows if row))
        numbers = f"{step.incoming:>8.1e}  {step.outgoing:>9.1e}  {step.allowed:>9.1e}  {step.excess:>11.3g}"
        lines.append(f"  {name:<{width}}  {numbers}  {rows}".rstrip())
    return lines


def _failure_line(replay: Replay) -> str:
    failed = [deviation for deviation in replay.deviations if deviation.failed]
    told = "; ".join(f"{item.phase} {item.ratio:.3g} times" for item in failed)
    return f"{replay.name} ({replay.row}): {told}"


def _step_json(step: Step) -> dict[str, Any]:  # Any: JSON values
    return {
        "name": step.name,
        "phase": step.phase,
        "place": step.place,
        "error_in": step.incoming,
        "error_out": step.outgoing,
        "explained": step.allowed,
        "rows": list(step.rows),
    }


def _replay_json(replay: Replay) -> dict[str, Any]:  # Any: JSON values
    return {
        "name": replay.name,
        "row": replay.row,
        "skipped": replay.skipped,
        "deviations": [
            {
                "phase": item.phase,
                "tensor": item.tensor,
                "ratio": item.ratio,
                "limit": item.limit,
                "text": item.text,
            }
            for item in replay.deviations
        ],
    }
