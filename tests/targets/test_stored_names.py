"""Contents under the names of the hub, each expert apart, cut by rows."""

from __future__ import annotations

import torch

from tests.targets.exported import a_weight, hand_made
from workbench.checkpoint.contents import Part, Piece
from workbench.checkpoint.native import ModuleFormat
from workbench.targets.stored_names import StoredContents, stored_outline

STACK = a_weight(n=16)  # two experts of eight rows: gate and up, four rows each
PIECES = {
    "m.stack": tuple(
        Piece(f"m.e.{expert}.{part}.weight", slice(8 * expert + first, 8 * expert + first + 4))
        for expert in (0, 1)
        for part, first in (("gate", 0), ("up", 4))
    ),
    "m.odd": (Piece("m.even.weight", slice(0, 15, 2)), Piece("m.uneven.weight", slice(1, 16, 2))),
    "m.norm.weight": (Piece("m.ln.weight"),),
    "m.bias": (Piece("m.b1", slice(0, 2)), Piece("m.b2", slice(2, 4))),
    "m.fat": (Piece("m.f.0.weight", slice(0, 3)), Piece("m.f.1.weight", slice(3, 6))),
}
DENSE = {
    "m.norm.weight": (torch.float32, (4,)),
    "m.bias": (torch.float32, (4,)),
    "m.fat": (torch.float32, (2, 3, 5)),
    "m.other": (torch.float32, (2, 3, 5)),
}


class Made:
    def __init__(self):
        form = ModuleFormat.of(STACK, experts=2)
        self.made = hand_made(
            STACK,
            int4={"m.stack": form, "m.odd": form},
            kinds={"m.stack": "experts", "m.odd": "experts"},
            dense=DENSE,
            dense_layers=("m.fat", "m.norm"),
            stored_names=PIECES,
        )
        self.tensors = {
            name: torch.arange(float(torch.Size(shape).numel())).view(shape) for name, (_, shape) in DENSE.items()
        }

    def outline(self):
        return self.made

    def parts(self, cancel=None):
        yield Part("m", {name: tensor for name, tensor in self.tensors.items() if name != "m.bias"})
        yield Part("m.stack", {"m.bias": self.tensors["m.bias"]}, STACK)
        yield Part("m.odd", {}, STACK)

    def write_files(self, folder):
        (folder / "written").touch()


def test_the_outline_is_that_of_the_pieces():
    found = stored_outline(Made().outline())
    assert [form.shape for form in found.int4.values()] == [(4, 64)] * 4 + [(8, 64)] * 2
    assert set(found.kinds.values()) == {"expert"}
    assert found.dense["m.ln.weight"] == (torch.float32, (4,))
    assert found.dense["m.b2"] == (torch.float32, (2,))
    assert found.dense["m.f.1.weight"] == (torch.float32, (3, 5))
    assert found.dense["m.other"] == (torch.float32, (2, 3, 5))
    assert found.dense_layers == ("m.f.0", "m.f.1", "m.ln")


def test_the_parts_hold_the_rows(tmp_path):
    made = Made()
    stored = StoredContents(made, made.outline())
    parts = {part.name: part for part in stored.parts()}
    tensors = {name: tensor for part in parts.values() for name, tensor in part.tensors.items()}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        name: shape for name, (_, shape) in stored.outline().dense.items()
    }
    assert torch.equal(parts["m.e.1.up"].weight.codes, STACK.codes[12:16])
    assert torch.equal(parts["m.uneven"].weight.dequantize(), STACK.dequantize()[1::2])
    assert torch.equal(tensors["m.f.1.weight"], made.tensors["m.fat"][1])
    assert set(parts["m.e.0.gate"].tensors) == {"m.b1", "m.b2"}
    stored.write_files(tmp_path)
    assert (tmp_path / "written").exists()


def test_without_other_names_all_stays_as_it_is():
    outline = hand_made(a_weight())
    assert stored_outline(outline) == outline
