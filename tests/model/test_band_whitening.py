"""Whitened bands: against numpy, by band set, and as all parts of a training see them."""

import dataclasses

import numpy as np
import pytest
import torch
from building import MODALITIES, crops_of, make_batch, small
from hypothesis import given
from hypothesis import strategies as st

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.modality import NORMALISED_MEAN, NORMALISED_STD
from hybrid_patch.data.batch import Batch
from hybrid_patch.data.loader import TrainingSteps
from hybrid_patch.data.source import open_source
from hybrid_patch.model.band_whitening import EXPONENT, SHRINKAGE, BandWhitening
from hybrid_patch.train.step import FITTED_CROPS, TrainingModule

SETS = {"optical": [[0, 1, 2], [3]], "height": [[0]]}


def with_pixels(batch: Batch, **pixels: torch.Tensor) -> Batch:
    return dataclasses.replace(batch, pixels={**batch.pixels, **pixels})


def correlated() -> Batch:
    """Bands that are mostly their sum."""
    batch = make_batch(8, missing=0.2)
    bands = 0.1 * batch.pixels["optical"] + batch.pixels["optical"].sum(-1, keepdim=True) / 4
    return with_pixels(batch, optical=bands, height=0.01 * batch.pixels["height"])


def fitted(batch: Batch) -> BandWhitening:
    whitening = BandWhitening(MODALITIES)
    whitening.fit(crops_of(batch))
    return whitening


def test_before_it_is_fitted_it_changes_nothing() -> None:
    batch = make_batch(8, missing=0.2)
    for name, pixels in BandWhitening(MODALITIES).batch(batch).pixels.items():
        torch.testing.assert_close(pixels, batch.pixels[name])


def test_against_numpy() -> None:
    batch = correlated()
    whitened = fitted(batch).batch(batch)
    for name, band_sets in SETS.items():
        valid = batch.valid[name].numpy()
        for channels in band_sets:
            x = batch.pixels[name].numpy()[valid][:, channels].astype(np.float64)
            standard = (x - x.mean(0)) / x.std(0)
            correlation = standard.T @ standard / len(x)
            variance, axes = np.linalg.eigh(correlation)
            expected = standard @ (axes * (variance + SHRINKAGE) ** EXPONENT) @ axes.T
            got = whitened.pixels[name].numpy()[valid][:, channels]
            np.testing.assert_allclose(got, NORMALISED_MEAN + NORMALISED_STD * expected, atol=1e-4)
        assert (whitened.pixels[name].numpy()[~valid] == 0).all()
    torch.testing.assert_close(whitened.pixels["cover"], batch.pixels["cover"], rtol=0, atol=0)


def test_variances_along_the_axes_become_their_square_roots() -> None:
    """Halfway: done twice, up to the shrinkage, bands would not be correlated at all."""
    batch = correlated()
    before, after = (
        x.pixels["optical"][batch.valid["optical"]][:, :3].double() for x in (batch, fitted(batch).batch(batch))
    )
    assert torch.corrcoef(before.mT)[0, 1] > 0.9
    variance, axes = torch.linalg.eigh(torch.corrcoef(before.mT))
    covariance = axes.mT @ (torch.cov(after.mT) / NORMALISED_STD**2) @ axes
    torch.testing.assert_close(covariance, (variance / (variance + SHRINKAGE).sqrt()).diag(), atol=0.02, rtol=0)
    torch.testing.assert_close(after.mean(0), torch.full((3,), NORMALISED_MEAN).double(), atol=1e-4, rtol=0)


def test_no_band_set_sees_another() -> None:
    """A hidden band set must not leak through one that is visible."""
    batch = correlated()
    whitening = fitted(batch)
    pixels = batch.pixels["optical"].clone()
    pixels[..., 3] += 1
    other = whitening.batch(with_pixels(batch, optical=pixels))
    assert torch.equal(other.pixels["optical"][..., :3], whitening.batch(batch).pixels["optical"][..., :3])


@given(st.permutations(range(3)))
def test_it_does_not_depend_on_the_order_of_bands(order: list[int]) -> None:
    batch = correlated()
    turned = batch.pixels["optical"][..., [*order, 3]]
    other = with_pixels(batch, optical=turned)
    whitened = fitted(batch).batch(batch).pixels["optical"]
    torch.testing.assert_close(
        fitted(other).batch(other).pixels["optical"], whitened[..., [*order, 3]], atol=1e-4, rtol=0
    )


def test_equal_bands_constant_bands_and_bands_without_a_pixel_stay_finite() -> None:
    batch = make_batch(8)
    missing = dataclasses.replace(batch, valid={**batch.valid, "height": torch.zeros_like(batch.valid["height"])})
    equal = with_pixels(missing, optical=batch.pixels["optical"][..., :1].expand(-1, -1, -1, -1, 4))
    for values in fitted(equal).batch(equal).pixels.values():
        assert values.isfinite().all()
    constant = with_pixels(batch, optical=torch.full_like(batch.pixels["optical"], 0.3))
    whitened = fitted(constant).batch(constant).pixels["optical"]
    torch.testing.assert_close(whitened, torch.full_like(whitened, NORMALISED_MEAN), atol=1e-3, rtol=0)


@pytest.mark.full
@pytest.mark.parametrize("whiten", [True, False])
def test_model_targets_and_context_are_of_the_same_pixels(whiten: bool) -> None:
    """Patch embedding, upsampler and targets get one batch; the context's statistics are fitted to such crops."""
    config = small("patch=hybrid", f"model.whiten_bands={whiten}")
    source = open_source(config.data)
    dataset = TrainingSteps(source, config, 0, 1)
    module = TrainingModule(config, source.modalities)
    module.fit(dataset)
    batch = dataset[0]
    assert isinstance(batch, Batch)
    whitening, context = module.model.whitening, module.objective.context_targets
    assert (whitening is not None) == whiten
    assert context is not None
    whitened = module.model.whitened(batch).pixels
    for name, pixels in module.forward_pass(batch, PatchSizes(8, 1)).batch.pixels.items():
        assert torch.equal(pixels, whitened[name])
        assert torch.equal(pixels, batch.pixels[name]) != whiten
    plain = TrainingModule(config, source.modalities).objective.context_targets
    assert plain is not None
    plain.fit([whitening.crop(crop) if whitening else crop for crop in dataset.first_crops(FITTED_CROPS)])
    for name, values in plain.state_dict().items():
        torch.testing.assert_close(context.state_dict()[name], values)
