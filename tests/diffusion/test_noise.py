import torch

from unildiff.diffusion.noise import KeyedNoise


def test_a_sample_draws_the_same_in_any_batch() -> None:
    keys = [7, 2**62 + 5, 0, 12345]
    whole = KeyedNoise(torch.tensor(keys))
    for index, key in enumerate(keys):
        alone = KeyedNoise([key])
        assert torch.equal(whole.normal("epsilon", 3, 2)[index], alone.normal("epsilon", 3, 2)[0])
        assert torch.equal(whole.uniform("text")[index], alone.uniform("text")[0])
        assert torch.equal(whole.integers("timestep", 1000)[index], alone.integers("timestep", 1000)[0])
    assert torch.equal(KeyedNoise(keys[::-1]).normal("epsilon", 3), whole.normal("epsilon", 3).flip(0))


def test_drawing_again_or_after_other_streams_gives_the_same() -> None:
    noise = KeyedNoise([1, 2])
    torch.manual_seed(0)
    first = noise.normal("epsilon", 4)
    torch.manual_seed(1)
    noise.uniform("text")
    assert torch.equal(noise.normal("epsilon", 4), first)


def test_streams_and_samples_differ() -> None:
    noise = KeyedNoise([1, 2])
    first, second = noise.normal("epsilon", 100), noise.normal("posterior", 100)
    for a, b in ((first[0], second[0]), (first[0], first[1]), (first[0], second[1])):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.3  # 3 / sqrt(100)


def test_distributions() -> None:
    noise = KeyedNoise(list(range(4000)))
    normal, uniform, integers = noise.normal("n"), noise.uniform("u"), noise.integers("i", 10)
    # Standard errors: 1 / sqrt(4000) = 0.016 of the mean, 0.011 of the deviation; bounds are about 4 of them.
    assert abs(normal.mean()) < 0.064 and abs(normal.std() - 1) < 0.045
    assert 0 <= uniform.min() and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.02
    counts = torch.bincount(integers, minlength=10)  # 400 each, standard deviation 19
    assert len(counts) == 10 and counts.min() > 320 and counts.max() < 480
