"""What tests of a session share: sources of given weights, listeners that remember, and names of the demo model."""

import contextlib
import json
import threading
from pathlib import Path

import torch
from safetensors import safe_open

from workbench.records.layers import LayerRecord

TIMEOUT_S = 120
GATE = "model.layers.0.mlp.gate_proj"
UP = "model.layers.0.mlp.up_proj"
EMBEDDING = "model.embed_tokens"


@contextlib.contextmanager
def closing(session):
    """A session that is at rest when the test ends: its threads disturb no other."""
    yield session
    session.cancel()
    assert session.wait(TIMEOUT_S)


class Heard:
    """Everything that a session told, with the name of the thread that it came from."""

    def __init__(self, session):
        self.events, self.threads = [], []
        self.forget = session.listen(self)

    def __call__(self, event):
        self.events.append(event)
        self.threads.append(threading.current_thread().name)

    def of(self, kind):
        return [event.data for event in self.events if event.kind == kind]

    def threads_of(self, kind):
        return {name for event, name in zip(self.events, self.threads, strict=True) if event.kind == kind}


class Toy:
    """A source of given weights, all linear; `gate` holds up every read."""

    name = "toy"

    def __init__(self, weights, kinds=None):
        self.weights = weights
        self.kinds = kinds or {}
        self.gate = threading.Event()
        self.gate.set()
        self.reading = threading.Event()

    def records(self):
        return [
            LayerRecord(name, self.kinds.get(name, "linear"), tuple(w.shape), "float32", w.numel() * 4)
            for name, w in self.weights.items()
        ]

    def weight(self, name):
        self.reading.set()
        assert self.gate.wait(TIMEOUT_S)
        return self.weights[name]

    def missing(self, name):
        return ""


def toy(*names, shape=(24, 128), **kwargs):
    torch.manual_seed(3)
    return Toy({name: torch.randn(shape) for name in names}, **kwargs)


def broken_toy():
    source = toy("good", "bad", "fine")
    source.weights["bad"][3, 7] = float("nan")
    return source


def waited(job):
    assert job.wait(TIMEOUT_S)
    return job


def tensors_of(folder):
    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


def assert_same_checkpoint(one, other):
    first, second = tensors_of(one), tensors_of(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name
    settings = [
        json.loads((Path(folder) / "config.json").read_text())["quantization_config"] for folder in (one, other)
    ]
    assert settings[0] == settings[1]
