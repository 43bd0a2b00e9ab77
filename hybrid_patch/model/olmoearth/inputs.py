"""The data's bands as OlmoEarth's: which modality and group they are of, and in which normalisation."""

import torch
from jaxtyping import Float, Int
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.data.missing_bands import SPECTRAL_GROUPS
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.data.normalize import load_computed_config
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.nn.tokenization import TokenizationConfig
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.constants import Modality as Specification
from torch import Tensor

from hybrid_patch.config.modality import NORMALISED_MEAN, NORMALISED_STD, Modality
from hybrid_patch.errors import InputError
from hybrid_patch.model.olmoearth.weights import INPUTS
from hybrid_patch.model.released import units


def specification(name: str, modality: Modality) -> str:
    """The package's name of a modality. Raises InputError if it is none that the encoder reads."""
    bands = {band.lower() for band in modality.bands}
    having = [spec for spec in INPUTS if bands.issubset(band.lower() for band in Specification.get(spec).band_order)]
    if name in INPUTS or having:
        return name if name in INPUTS else having[0]
    options = "; ".join(f"{spec}: {' '.join(Specification.get(spec).band_order)}" for spec in INPUTS)
    reason = f"no input of OlmoEarth ({options})"
    raise InputError(f"data.modalities.{name}.bands: {' '.join(modality.bands)}: {reason}; try decode_only=true")


def groups_of_bands(spec: str, tokenization: TokenizationConfig) -> list[list[str]]:
    """The bands of a modality's groups."""
    order = Specification.get(spec).band_order
    return [[order[index] for index in indices] for indices in tokenization.get_bandset_indices(spec)]


def groups_of_sets(name: str, modality: Modality, groups: list[list[str]]) -> list[list[str]]:
    """The numbers of the groups that each band set makes, as text. Raises InputError."""
    made: list[list[str]] = [[] for _ in modality.band_sets]
    for number, group in enumerate(groups):
        bands = {band.lower() for band in group}
        makers = [s for s, chosen in enumerate(modality.band_sets) if bands & {band.lower() for band in chosen}]
        if len(makers) > 1:
            together = ",".join(band for band in modality.bands if band.lower() in bands)
            reason = f"has one token of {together}, in {len(makers)} band sets here; try [[{together}]]"
            raise InputError(f"data.modalities.{name}.band_sets: this encoder {reason}")
        for maker in makers:
            made[maker].append(str(number))
    for bands_of_set, numbers in zip(modality.band_sets, made, strict=True):
        if not numbers:
            expected = " ".join(band for group in groups for band in group)
            raise InputError(f"data.modalities.{name}.band_sets: {' '.join(bands_of_set)}: has none of {expected}")
    return made


def normalisation(
    modality: Modality, band_set: tuple[str, ...], spec: str, group: list[str], copies: bool
) -> tuple[Int[Tensor, " c"], Float[Tensor, " c"], Float[Tensor, " c"]]:
    """The columns of a group's bands in a modality's channels, and the map of normalised values to the package's.

    A band that the band set lacks is that nearest in wavelength, if it `copies`, and otherwise 0.
    """
    statistics, (scale, offset) = load_computed_config()[spec], units(modality)
    columns = {band.lower(): modality.bands.index(band) for band in band_set}
    made = []
    for band in group:
        candidates = [band.lower(), *(_nearest(spec, band) if copies else ())]
        chosen = next((other for other in candidates if other in columns), None)
        if chosen is None:
            made.append((0, 0.0, 0.0))
            continue
        column, std = columns[chosen], statistics[band]["std"] / NORMALISED_STD
        low = statistics[band]["mean"] - NORMALISED_MEAN * std
        made.append((column, float(scale[column]) / std, (float(offset[column]) - low) / std))
    numbers, factors, terms = zip(*made, strict=True)
    return torch.tensor(numbers), torch.tensor(factors), torch.tensor(terms)


def _nearest(spec: str, band: str) -> list[str]:
    """Bands that may stand for another, nearest in wavelength first; thermal ones stand for thermal ones alone."""
    wavelengths = next((group for group in SPECTRAL_GROUPS.get(spec, ()) if band in group), {band: 0.0})
    return [
        b.lower() for b in sorted(wavelengths, key=lambda b: (abs(wavelengths[b] - wavelengths[band]), wavelengths[b]))
    ]
