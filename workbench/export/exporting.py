"""Writes a run for a client, and compares what the client makes of it with the run, before anybody sees the folder."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from torch import Tensor

from workbench.export.card import write_card
from workbench.export.folder import drafted
from workbench.export.report import LARGEST, Report
from workbench.export.samples import Embedded, Samples, read_samples
from workbench.export.source import Refusal, Source, open_source, refuse
from workbench.runs.exported import FILE, Format
from workbench.runs.folder import package_version
from workbench.types import Side


class Client(Protocol):
    """A format: the module of its name in this folder."""

    PACKAGE: str
    """what its users have installed"""

    def refusals(self, source: Source) -> Iterator[Refusal]:
        """List what of a run it has no place for."""
        ...

    def sides(self, source: Source) -> list[Side]:
        """List the sides that it can embed."""
        ...

    def dropped(self, source: Source) -> list[str]:
        """Say which other sides are left out, as they only helped training."""
        ...

    def write(self, source: Source, folder: Path) -> None:
        """Write what its users load."""
        ...

    def embed(self, source: Source, folder: Path, samples: Samples) -> Embedded:
        """Embed real items with what was written, in the client's own package."""
        ...

    def uses(self, source: Source) -> list[str]:
        """Write the blocks of lines by which its users ask the model, in the folder itself."""
        ...


def export(run: Path, format: Format, out: Path, checkpoint: str = "last", licence: str | None = None) -> Report:
    """Write a run into the new folder `out` for a client, verified in that client.

    Args:
        run: the run folder.
        format: the client.
        out: the folder, which must be empty or not there.
        checkpoint: last, best or a step.
        licence: of the weights, for the model card, as apache-2.0.

    Raises ValueError for what the format cannot hold, with the formats that can, and where the client computes
    something else; nothing is left of `out` then. RunError, DamagedCheckpoint, OSError.
    """
    client = cast(Client, import_module(f"workbench.export.{format}"))
    with drafted(out) as draft:
        source = open_source(run, checkpoint)
        refuse(format, list(client.refusals(source)))
        sides = client.sides(source)
        samples = read_samples(source)
        client.write(source, draft)
        (draft / FILE).write_text(source.manifest(format, sides).as_json() + "\n", encoding="utf-8")
        found = client.embed(source, draft, samples)
        report = Report(
            str(run),
            source.step,
            format,
            str(out),
            client.PACKAGE,
            package_version(client.PACKAGE),
            samples.origin,
            len(samples),
            {str(side): _difference(found.rows[side], samples.rows[side]) for side in sides},
            {str(side): _difference(z, samples.rows[side]) for side, z in found.prepared.items()},
            [*source.dropped, *client.dropped(source)],
            sorted(["README.md", *(str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file())]),
        )
        _refuse_other_rows(report)
        _refuse_other_tokens(source, samples, found, client.PACKAGE)
        write_card(source, report, client.uses(source), licence, draft / "README.md")
    return report


def _difference(found: Tensor, own: Tensor) -> float:
    """Give the largest difference of a coordinate: infinity where one of them is no number."""
    apart = (found.float() - own).abs().max().item()
    return apart if apart == apart else float("inf")


def _refuse_other_rows(report: Report) -> None:
    """Raise ValueError where a side is further from the run's than rounding is."""
    wrong = {side: x for side, x in report.differences.items() if not x <= LARGEST}
    if wrong:
        told = ", ".join(f"{side} by {x:.2g}" for side, x in wrong.items())
        raise ValueError(
            f"{report.package} {report.version} computes other embeddings of {report.items} items of {report.samples}: "
            f"{told}, and {LARGEST:g} is allowed. Nothing was written; another --format may hold this model"
        )


def _refuse_other_tokens(source: Source, samples: Samples, found: Embedded, package: str) -> None:
    """Raise ValueError where the client cuts most of the texts into other tokens than the run does.

    A single text may be cut otherwise: clients clean up entities of HTML, or do not.
    """
    for side, z in found.prepared.items():
        other = (z - samples.rows[side]).abs().amax(1) > LARGEST
        if source.loaded.modalities[side.members[0]].kind == "text" and other.float().mean() > 0.5:
            text = samples.raw[side.members[0]][int(other.int().argmax())]
            raise ValueError(
                f"{package} cuts {int(other.sum())} of {len(z)} texts of {samples.origin} into other tokens, as "
                f"'{text}': nothing was written; another --format may hold this model"
            )
