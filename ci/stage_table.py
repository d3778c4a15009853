"""Print time and peak memory of each stage of a run as a Markdown table, for ``docs/benchmarks.md``.

Takes the run's folder; without one, the run that finished last below ``runs/``.
"""

import json
import platform
import sys
from pathlib import Path

from portable.core.text import format_bytes, format_seconds
from portable.job.report.prose import shown_command


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit code."""
    manifests = [Path(argument) / "manifest.json" for argument in arguments] or sorted(
        Path("runs").glob("*/latest/manifest.json"), key=lambda path: path.stat().st_mtime
    )
    if not manifests or not manifests[-1].is_file():
        print("no finished run found; run the quickstart first, or name a run's folder", file=sys.stderr)
        return 2
    manifest = json.loads(manifests[-1].read_text(encoding="utf-8"))
    device = manifest["device"]
    print(f"`{shown_command(manifest['command'])}` on {device['arch']}, {device['num_cores']} cores,")
    print(f"{platform.machine()}, {manifest['finished'][:10]}, revision {manifest['git_revision']}\n")
    print("| stage | time | peak memory | reused |\n| --- | ---: | ---: | --- |")
    for stage in manifest["stages"]:
        time, memory = format_seconds(stage["time_s"]), format_bytes(stage["peak_memory_bytes"])
        print(f"| {stage['name']} | {time} | {memory} | {'yes' if stage['reused'] else ''} |")
    total = sum(stage["time_s"] for stage in manifest["stages"])
    peak = max(stage["peak_memory_bytes"] for stage in manifest["stages"])
    print(f"| all | {format_seconds(total)} | {format_bytes(peak)} | |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
