"""Shuffled batches as a function of seed, epoch and step."""

import pytest
import torch

from core.randomness import batches, generator, seed_of, steps_per_epoch


def indices(count=103, batch_size=10, seed=0, epoch=0):
    return torch.cat(
        [index for _, index in batches(count, batch_size, seed=seed, epoch=epoch)]
    ).tolist()


def test_an_epoch_is_a_permutation_without_repeats():
    assert sorted(indices(count=100)) == list(range(100))
    assert indices(count=100) != list(range(100))


def test_the_last_batch_is_left_out_where_it_is_smaller():
    sizes = [len(index) for _, index in batches(103, 10, seed=0, epoch=0)]
    assert sizes == [10] * 10 and steps_per_epoch(103, 10) == 10
    assert len(set(indices(count=103))) == 100


def test_every_image_has_its_turn_although_the_last_batch_is_left_out():
    assert set().union(*(indices(epoch=epoch) for epoch in range(5))) == set(range(103))


@pytest.mark.parametrize("count", [1, 7, 9])
def test_a_set_smaller_than_a_batch_is_one_batch(count):
    ((step, index),) = batches(count, 10, seed=0, epoch=0)
    assert step == 0 and sorted(index.tolist()) == list(range(count))
    assert steps_per_epoch(count, 10) == 1


def test_epochs_and_seeds_differ_and_repeat():
    assert indices(epoch=3) == indices(epoch=3)
    assert (
        len({tuple(indices(seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)})
        == 9
    )


@pytest.mark.parametrize("start", range(11))
def test_from_a_later_start_the_tail_is_the_same(start):
    unbroken = [(step, index.tolist()) for step, index in batches(103, 10, seed=1, epoch=2)]
    assert [step for step, _ in unbroken] == list(range(10))
    assert [
        (step, index.tolist()) for step, index in batches(103, 10, seed=1, epoch=2, start=start)
    ] == unbroken[start:]


def test_order_does_not_depend_on_torchs_own_generator_nor_touch_it():
    torch.manual_seed(1)
    before, once = torch.get_rng_state(), indices()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert indices() == once


def test_seeds_of_different_keys_differ():
    keys = [
        (seed, epoch, *name)
        for seed in range(-5, 5)
        for epoch in range(20)
        for name in [(), ("a",), ("b",), (1,), ("1",)]
    ]
    seeds = {seed_of(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_draw_is_repeated_by_whoever_knows_its_keys():
    once = torch.rand(5, generator=generator(0, 1, 2))
    assert torch.equal(once, torch.rand(5, generator=generator(0, 1, 2)))
    assert not torch.equal(once, torch.rand(5, generator=generator(0, 1, 3)))


def test_a_seed_stays_what_it_was_so_that_old_runs_can_be_resumed_and_repeated():
    assert seed_of(0, 1, "order") == 4365688119967752521
