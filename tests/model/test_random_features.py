"""Random features: of mean zero, telling what is not linear, in directions that do not mix, behind one gain."""

import pytest
import torch

from hybrid_patch.model.random_features import RandomFeatures


def test_they_are_of_mean_zero_and_enough_of_them_tell_what_is_not_linear() -> None:
    torch.manual_seed(0)
    x = torch.randn(20_000, 3)
    features = RandomFeatures(3, 64, 12)(x)
    torch.testing.assert_close(features.mean(0), torch.zeros(64), atol=0.03, rtol=0)
    wanted = (x[:, :1] * x[:, 1:2]).double()
    error = features.double() @ torch.linalg.lstsq(features.double(), wanted).solution - wanted
    assert error.var() < 0.1 * wanted.var()


@pytest.mark.parametrize("features", [0, 5, 12, 20])
def test_they_begin_as_nothing_and_one_gain_brings_all_of_them(features: int) -> None:
    random = RandomFeatures(3, features, 12)
    assert [name for name, _ in random.named_parameters()] == ["gain"]
    assert not random.basis().any()
    torch.nn.init.constant_(random.gain, -2)
    sizes = torch.linalg.svdvals(random.basis())
    torch.testing.assert_close(sizes, torch.full((min(features, 12),), 2.0))
