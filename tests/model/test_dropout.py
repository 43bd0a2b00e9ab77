"""Drop path and band dropout in the model: what is left out, and that nothing else changes."""

import dataclasses

import pytest
import torch
from building import MODALITIES, OPTICAL, crops_of, make_batch, small
from jaxtyping import Bool
from torch import Tensor, nn

from hybrid_patch.config.curriculum import PatchSizes
from hybrid_patch.config.schema import Transformer as Size
from hybrid_patch.data.batch import Batch
from hybrid_patch.model.transformer import Block, Transformer
from hybrid_patch.train.step import TrainingModule, TrainingStep

SIZES = PatchSizes(8, 1)
SIZE = Size(width=16, depth=3, heads=2, mlp_ratio=2.0, drop_path=0.2)


def transformer() -> Transformer:
    torch.manual_seed(0)
    return Transformer(SIZE).double()


def by_hand(network: Transformer, x: Tensor, path_mask: Bool[Tensor, "b depth 2"]) -> Tensor:
    """Sample by sample: branches that are left out are never computed."""
    rows = []
    for row, branches in zip(x, path_mask.tolist(), strict=True):
        tokens = row[None]
        for block, (attention, mlp) in zip(network.blocks, branches, strict=True):
            assert isinstance(block, Block)
            if attention:
                tokens = tokens + block.attention(block.attention_norm(tokens), None, None) / 0.8
            if mlp:
                tokens = tokens + block.mlp(block.mlp_norm(tokens)) / 0.8
        rows.append(network.norm(tokens))
    return torch.cat(rows)


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_branches_that_are_left_out_are_as_if_they_were_not_there(checkpointing: bool) -> None:
    network = transformer()
    x, path_mask = torch.randn(5, 7, 16, dtype=torch.float64), torch.rand(5, 3, 2) > 0.4
    expected = by_hand(network, x, path_mask)
    expected.square().sum().backward()
    wanted = gradients(network)
    network.zero_grad()
    network.gradient_checkpointing = checkpointing
    result = network(x, None, None, path_mask)
    torch.testing.assert_close(result, expected)
    result.square().sum().backward()
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, wanted.get(name, torch.zeros_like(gradient)))


def test_without_a_mask_nothing_is_left_out() -> None:
    network, x = transformer(), torch.randn(5, 7, 16, dtype=torch.float64)
    assert torch.equal(network.train()(x, None, None), network.eval()(x, None, None))
    plain = Transformer(dataclasses.replace(SIZE, drop_path=0.0)).double()
    plain.load_state_dict(network.state_dict())
    assert torch.equal(plain(x, None, None), network(x, None, None))


def dropped(batch: Batch, seed: int = 0) -> Batch:
    """With bands and branches left out."""
    rng = torch.Generator().manual_seed(seed)
    samples = len(batch.timestamps)
    return dataclasses.replace(
        batch,
        band_mask={"optical": torch.rand(samples, 4, generator=rng) > 0.4},
        path_mask={
            "encoder": torch.rand(2 * samples, 2, 2, generator=rng) > 0.3,
            "decoder": torch.rand(2 * samples, 1, 2, generator=rng) > 0.3,
        },
    )


def module_for(*options: str) -> TrainingModule:
    torch.manual_seed(0)
    rates = ("model.encoder.drop_path=0.3", "model.decoder.drop_path=0.3")
    module = TrainingModule(small("patch=hybrid", "upsampler=guided", *rates, *options), MODALITIES)
    for parameter in module.model.encoder_upsampler.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module


def test_parts_of_a_batch_recomputed_have_the_gradients_of_the_whole() -> None:
    batch = dropped(make_batch(8, missing=0.2, samples=4))
    results = []
    for parts, on in ((1, "false"), (2, "true")):
        module = module_for(f"runtime.gradient_checkpointing={on}")
        step = TrainingStep(module, torch.optim.SGD(module.parameters()), 1.0, parts)
        results.append((step.backpropagate(batch, SIZES), gradients(module)))
    (terms, wanted), (in_parts, result) = results
    for name, value in {**terms, **wanted}.items():
        torch.testing.assert_close({**in_parts, **result}[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("whiten", [True, False])
def test_a_dropped_band_reaches_no_token_but_its_targets(whiten: bool) -> None:
    module = module_for(f"model.whiten_bands={str(whiten).lower()}")
    batch = dropped(make_batch(8, missing=0.2))
    if module.model.whitening is not None:
        module.model.whitening.fit(crops_of(batch))
    band_mask = batch.band_mask["optical"][:, None, None, None]
    noise = torch.rand_like(batch.pixels["optical"]) * batch.valid["optical"][..., None]
    other = dataclasses.replace(
        batch, pixels={**batch.pixels, "optical": torch.where(band_mask, batch.pixels["optical"], noise)}
    )
    with torch.no_grad():
        for before, after in zip(*(module.model.fine_tokens(x, SIZES) for x in (batch, other)), strict=True):
            torch.testing.assert_close(before.tokens.dense(), after.tokens.dense())
        first, second, third = (
            module.forward_pass(x, SIZES).batch.pixels["optical"]
            for x in (batch, other, dataclasses.replace(batch, band_mask={}))
        )
    assert torch.equal(first, third)  # targets have all bands
    assert not torch.allclose(first, second)


def test_a_band_that_is_dropped_is_zero_where_the_model_looks() -> None:
    module, batch = module_for(), dropped(make_batch(8))
    inputs = module.model.whitened(batch).guide("optical").pixels
    band_mask = batch.band_mask["optical"][:, None, None, None].expand_as(inputs)
    assert (inputs[~band_mask] == 0).all()
    assert (inputs[band_mask] != 0).all()


@pytest.mark.parametrize("architecture", ["galileo", "flexivit"])
def test_any_encoder_has_both(architecture: str) -> None:
    """Galileo's too; what is not an option of it is off."""
    off = ("model.patch_statistics=false", "model.whiten_bands=false")
    bands = ("B2", "B3", "B4", "B8")
    optical = dataclasses.replace(OPTICAL, bands=bands, band_sets=(bands,), mean=(1000.0,) * 4, std=(500.0,) * 4)
    config = small(f"model.architecture={architecture}", "model.encoder.drop_path=0.3", *off)
    torch.manual_seed(0)
    module = TrainingModule(config, {"optical": optical})
    batch = make_batch(8, {"optical": optical})
    plain = module.model.fine_tokens(batch, SIZES)[0].tokens.dense()
    band_mask = torch.tensor([[True, False, True, True]]).expand(3, -1)
    for changed in (
        dataclasses.replace(batch, band_mask={"optical": band_mask}),
        dataclasses.replace(batch, path_mask={"encoder": torch.zeros(6, 2, 2, dtype=torch.bool)}),
    ):
        assert not torch.allclose(module.model.fine_tokens(changed, SIZES)[0].tokens.dense(), plain)
