"""What a session found, as report.md and environment.json: first what stopped it and what it did not reach."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from itertools import groupby
from pathlib import Path

from kernels.bench import predicted, table
from kernels.bench.providers import PROVIDERS
from kernels.bench.session import Timeline
from kernels.bench.stages import PROFILED, Findings
from kernels.bench.tuning import Check


def write(out: Path, found: Findings, timeline: Timeline) -> None:
    """Writes report.md and environment.json into a folder."""
    peers = {provider.package for provider in PROVIDERS.values() if provider.package}
    names = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    installed = {name: version for name, version in names.items() if name in peers}
    environment = found.about | {"python": platform.python_version(), "system": platform.platform(), "peers": installed}
    (out / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")
    (out / "report.md").write_text("\n\n".join(_write_sections(found, timeline)) + "\n")


def _write_sections(found: Findings, timeline: Timeline) -> Iterable[str]:
    yield f"# Kernels on {found.about.get('device', 'an unknown device')}"
    versions = [f"{name} {found.about.get(name, '?')}" for name in ("torch", "triton")]
    yield ", ".join([*versions, f"Python {platform.python_version()}"])
    if timeline.stopped:
        yield f"**Stopped.** {timeline.stopped}"
    yield "## Not reached\n\n" + (
        _write_bullets(timeline.unreached) if timeline.unreached else "Everything was reached."
    )
    spent = [(name, f"{start:.0f} s", f"{took:.0f} s") for name, (start, took) in timeline.seconds.items()]
    yield "## Timeline\n\n" + _write_table(("stage", "began", "took"), spent)
    yield from _write_correctness(found)
    if found.trials:
        failed = sum(trial.seconds is None for trial in found.trials)
        yield f"## Sweep\n\n{len(found.trials)} trials, {failed} failed (sweep.csv says why). For `configs.TABLE`:"
        yield _write_code(found.table, "python")
    yield from _write_comparison(found)
    if found.forecasts:
        yield (
            "## Forecast and measurement\n\nCounted in machine code before anything ran (kernels.forecast), "
            "beside what was measured here; above 1 it took longer."
        )
        yield _write_table(predicted.HEADINGS, map(predicted.write_cells, found.forecasts))
    if found.scratch:
        rows = [(f"{mib} MiB", table.duration(seconds)) for mib, seconds in found.scratch.items()]
        yield f"## Scratch\n\nOne full step, {PROFILED.title}.\n\n" + _write_table(("limit", "step"), rows)
    if found.profile:
        yield f"## Profile\n\nOne full step, {PROFILED.title}.\n\n" + _write_code(found.profile)


def _write_correctness(found: Findings) -> Iterable[str]:
    yield f"## Correctness\n\n`pytest -m gpu tests/kernels`: {found.tests}"
    if found.checks:
        heads = ("loss", "dtype", "M x N x D", "largest relative error", "allowed", "")
        yield _write_table(heads, [_write_check(check) for check in found.checks])


def _write_check(check: Check) -> tuple[str, ...]:
    error, allowed = f"{check['error']:.1e}", f"{check['allowed']:.0e}"
    return check["loss"], check["dtype"], check["shape"], error, allowed, "" if check["ok"] else "WRONG"


def _write_comparison(found: Findings) -> Iterable[str]:
    rows = found.comparison.rows
    if rows:
        first = rows[0]
        yield (
            f"## Comparison\n\nCeilings of this run: {first['matmul_tflops']:.0f} TFLOP/s for a matrix product, "
            f"{first['copy_gbs']:.0f} GB/s for a copy.\n\n{table.LEGEND}\n\n![time and memory](plot.png)"
        )
        for key, group in groupby(sorted(rows, key=table.workload_key), key=table.workload_key):
            group = sorted(group, key=lambda row: row["seconds"])
            dense = next((row["seconds"] for row in group if row["provider"] == "dense"), None)
            yield f"### {table.heading(key)}\n\n" + _write_table(
                tuple(table.HEADINGS), [table.cells(row, dense) for row in group]
            )
    if reasons := found.comparison.list_reasons():
        yield "### Skipped\n\n" + _write_bullets(reasons)


def _write_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _write_bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _write_code(text: str, language: str = "") -> str:
    return f"```{language}\n{text.strip(chr(10))}\n```"
