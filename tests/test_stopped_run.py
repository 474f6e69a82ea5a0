"""What a stopped run leaves: within its bound, given out once by its key, and nothing once it is superseded."""

import torch

from workbench.stopped_run import Kept, StoppedRun, bytes_of


def kept(key, size):
    return Kept(key, f"the {key}", size)


def test_each_part_is_given_out_once_to_who_asks_for_its_key():
    run = StoppedRun()
    run.hold([kept("a", 3), kept("b", 4)], run.drops)
    assert run.held_bytes == 7
    assert run.take(["x"]) is None and run.take(["x", "b", "a"]) == "the b" and run.take(["b"]) is None
    assert run.held_bytes == 3 and run.take(["a"]) == "the a"


def test_the_first_parts_come_first_and_those_before_have_the_room_that_is_left():
    run = StoppedRun(10)
    run.hold([kept("old", 4), kept("older", 6)], run.drops)
    run.hold([kept("a", 3), kept("too much", 8), kept("b", 2)], run.drops)
    assert run.held_bytes == 9 and [run.take([key]) for key in ("too much", "older")] == [None, None]
    run.hold([kept("c", 4)], run.drops, room_bytes=6)
    assert run.take(["c"]) and run.take(["b"]) and run.held_bytes == 0


def test_what_is_superseded_is_let_go_of_and_not_held_again_by_a_run_that_began_before():
    run = StoppedRun()
    began = run.drops
    run.hold([kept("a", 3)], began)
    run.drop()
    assert run.held_bytes == 0
    run.hold([kept("a", 3)], began)
    assert run.held_bytes == 0


def test_tensors_are_counted_once_wherever_they_stand():
    one, other = torch.zeros(3), torch.zeros(5, dtype=torch.int64)
    assert bytes_of([(one, {"x": one, "y": (other, None)}), [], "text", one]) == 12 + 40
