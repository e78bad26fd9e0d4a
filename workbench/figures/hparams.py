"""What TensorBoard's HPARAMS tab knows of a run: the settings that runs are told apart by, and how the run ended.

The final metrics are the last values of the run's scalars, and TensorBoard shows what differs between runs first, so
that a session is the settings alone. The trap: of two starts of a run TensorBoard believes the first one for ever. The
session therefore has a file of its own, which a resumed run writes anew: one run is one session, with its last end.
"""

# pyright: reportAttributeAccessIssue=false
# protobuf makes its classes while it is imported, where no checker sees them

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from workbench.errors import writing
from workbench.recipe.yaml_text import write_yaml

FILE = "events.out.tfevents.0000000000.hparams"
"""sorts before the files of metrics: TensorBoard reads files by name, and looks no more at one that it has left"""
LEFT_OUT = ("log", "checkpoint", "parallel", "callbacks", "eval")
"""blocks of a recipe that change no number of what is trained"""
PLACES = ("data.path", "data.validation", "data.splits", "data.root", "data.max_bad")
LONGEST = 80
"""characters of a value"""

Status = Literal["success", "failure"]
Value = str | float | bool


def choose_hparams(recipe: Mapping[str, object]) -> dict[str, Value]:
    """Flatten the settings of a resolved recipe that make one run other than another; lists are one text each.

    What is not set is left out: TensorBoard lists every name, and shows a gap where a run has none.
    """
    sweep, _, name = str(recipe.get("name", "")).rpartition("/")
    arm, marked, _ = name.rpartition("-seed")
    found: dict[str, Value] = {"arm": arm} if sweep and marked else {}
    for key, value in _leaves({k: v for k, v in recipe.items() if k not in ("name", *LEFT_OUT)}):
        if key not in PLACES and value not in (None, [], ""):
            found[key] = value if isinstance(value, str | int | float) else _as_text(value)
    return {k: value[:LONGEST] if isinstance(value, str) else value for k, value in found.items()}


def _leaves(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _as_text(value: object) -> str:
    return write_yaml(value, width=1000, flow=True).removesuffix("...\n").strip()


def begin_session(folder: Path, hparams: Mapping[str, Value]) -> None:
    """Write the session of a run that starts or goes on, in the place of the one before. Raises OSError."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams import plugin_data_pb2

    started = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in hparams.items():
        if isinstance(value, bool):
            started.hparams[name].bool_value = value
        elif isinstance(value, str):
            started.hparams[name].string_value = value
        else:
            started.hparams[name].number_value = value
    version = Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString()
    _write(folder, "wb", version, _event("session_start_info", started))


def end_session(folder: Path, status: Status) -> None:
    """Say how the run has ended. Raises OSError."""
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

    number = {"success": api_pb2.STATUS_SUCCESS, "failure": api_pb2.STATUS_FAILURE}[status]
    ended = plugin_data_pb2.SessionEndInfo(status=number, end_time_secs=time.time())
    _write(folder, "ab", _event("session_end_info", ended))


def _event(name: str, content: object) -> bytes:
    """Make an event whose tensor says nothing: the plugin reads what stands beside it."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams.metadata import NULL_TENSOR, PLUGIN_DATA_VERSION, PLUGIN_NAME
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    said = HParamsPluginData(version=PLUGIN_DATA_VERSION, **{name: content}).SerializeToString()
    data = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=said)
    value = Summary.Value(tag=f"_hparams_/{name}", metadata=SummaryMetadata(plugin_data=data), tensor=NULL_TENSOR)
    # before any step: a run that begins again at step 0 withdraws what it said from there on
    return Event(wall_time=time.time(), step=-1, summary=Summary(value=[value])).SerializeToString()


def _write(folder: Path, mode: Literal["wb", "ab"], *events: bytes) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    with writing(folder / FILE):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE).open(mode) as file:
            records = RecordWriter(file)
            for event in events:
                records.write(event)
