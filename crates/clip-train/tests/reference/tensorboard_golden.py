"""Writes tensorboard_golden.bin, which tensorboard.rs must reproduce byte for byte.

    pip install tensorboard==2.21.0 && python tensorboard_golden.py
"""

import pathlib

import tensorboard
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

assert tensorboard.__version__ == "2.21.0", tensorboard.__version__


def scalars(**values):
    return Summary(
        value=[Summary.Value(tag=tag.replace("__", "/"), simple_value=value) for tag, value in values.items()]
    )


EVENTS = [
    Event(wall_time=1_700_000_000.25, file_version="brain.Event:2"),
    Event(wall_time=1_700_000_000.5, step=301, session_log=SessionLog(status=SessionLog.START)),
    Event(wall_time=1_700_000_001.0, step=0, summary=scalars(train__loss=3.5, eval__i2t_r1=0.016)),
    Event(wall_time=1_700_000_002.0, step=70_000, summary=scalars(train__lr=9.8e-4)),
]

with (pathlib.Path(__file__).parent / "tensorboard_golden.bin").open("wb") as file:
    writer = RecordWriter(file)
    for event in EVENTS:
        writer.write(event.SerializeToString(deterministic=True))
