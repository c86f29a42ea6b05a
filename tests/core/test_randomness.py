"""Shuffled batches as a function of seed, epoch and step."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from core.randomness import batches, generator, seed_of, steps_per_epoch


def indices(count=103, seed=0, epoch=0):
    made = batches(count, 10, seed=seed, epoch=epoch)
    return torch.cat([index for _, index in made]).tolist()


@given(
    count=st.integers(1, 60),
    size=st.integers(1, 12),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
)
def test_batches_are_whole_without_repeats_and_the_same_from_a_later_start(
    count, size, seed, epoch
):
    def drawn(start=0):
        made = batches(count, size, seed=seed, epoch=epoch, start=start)
        return [(step, index.tolist()) for step, index in made]

    every = drawn()
    assert [step for step, _ in every] == list(range(max(1, count // size)))
    assert len(every) == steps_per_epoch(count, size)
    assert {len(index) for _, index in every} == {min(count, size)}  # a smaller rest is left out
    images = [image for _, index in every for image in index]
    assert len(set(images)) == len(images) and set(images) <= set(range(count))
    for start in range(len(every) + 1):
        assert drawn(start) == every[start:]


def test_every_image_has_its_turn_although_the_last_batch_is_left_out():
    assert set().union(*(indices(epoch=epoch) for epoch in range(5))) == set(range(103))


def test_epochs_and_seeds_differ_from_each_other_and_from_the_order_of_the_files():
    orders = [indices(100, seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)]
    assert len(set(map(tuple, [*orders, range(100)]))) == 10


def test_order_does_not_depend_on_torchs_own_generator_nor_touch_it():
    torch.manual_seed(1)
    before, once = torch.get_rng_state(), indices()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert indices() == once


def test_seeds_of_different_keys_differ_and_stay_what_they_were_so_that_old_runs_can_be_resumed():
    names = [(), ("a",), ("b",), (1,), ("1",)]
    keys = [(seed, epoch, *name) for seed in range(-5, 5) for epoch in range(20) for name in names]
    seeds = {seed_of(*key) for key in keys}
    assert len(seeds) == len(keys) and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, 1, "order") == generator(0, 1, "order").initial_seed() == 4365688119967752521
