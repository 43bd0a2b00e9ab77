"""What the classes of the synthetic scenes look like through the year: reflectance and radar backscatter.

Every object is a blend of a few materials whose shares follow the calendar of its class, so that crops that are alike
on one date differ on another. The figures are rounded from published spectral libraries and crop calendars of Central
Europe.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int

Array = np.ndarray

BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
"""Bands of Sentinel-2 L2A, in the order of all spectra here."""

# Reflectance:   B02   B03   B04   B08   B05   B06   B07   B8A   B11   B12   B01   B09
MATERIALS = {
    "leaf": (0.027, 0.058, 0.030, 0.400, 0.088, 0.280, 0.370, 0.420, 0.195, 0.095, 0.022, 0.410),
    "broad leaf": (0.028, 0.066, 0.030, 0.455, 0.098, 0.315, 0.420, 0.475, 0.200, 0.090, 0.022, 0.460),
    "crown": (0.020, 0.044, 0.022, 0.345, 0.072, 0.240, 0.325, 0.360, 0.160, 0.070, 0.016, 0.355),
    "needle": (0.017, 0.031, 0.018, 0.200, 0.047, 0.140, 0.185, 0.210, 0.088, 0.042, 0.014, 0.205),
    "flower": (0.050, 0.165, 0.150, 0.400, 0.195, 0.310, 0.380, 0.420, 0.210, 0.110, 0.030, 0.415),
    "straw": (0.082, 0.125, 0.165, 0.300, 0.205, 0.245, 0.270, 0.320, 0.350, 0.230, 0.062, 0.325),
    "litter": (0.036, 0.053, 0.066, 0.150, 0.086, 0.115, 0.135, 0.160, 0.195, 0.130, 0.028, 0.165),
    "understorey": (0.040, 0.062, 0.068, 0.190, 0.096, 0.145, 0.170, 0.200, 0.190, 0.120, 0.030, 0.200),
    "dark soil": (0.055, 0.072, 0.092, 0.148, 0.110, 0.122, 0.134, 0.160, 0.230, 0.200, 0.045, 0.165),
    "light soil": (0.090, 0.125, 0.165, 0.245, 0.190, 0.208, 0.226, 0.260, 0.345, 0.290, 0.070, 0.270),
    "clear water": (0.034, 0.030, 0.018, 0.010, 0.014, 0.011, 0.010, 0.009, 0.006, 0.004, 0.038, 0.009),
    "turbid water": (0.062, 0.078, 0.066, 0.034, 0.064, 0.044, 0.038, 0.030, 0.012, 0.008, 0.056, 0.026),
    "tiles": (0.068, 0.088, 0.165, 0.245, 0.195, 0.212, 0.225, 0.250, 0.310, 0.275, 0.056, 0.250),
    "concrete": (0.205, 0.228, 0.245, 0.275, 0.252, 0.260, 0.266, 0.278, 0.290, 0.265, 0.190, 0.275),
    "asphalt": (0.078, 0.088, 0.098, 0.132, 0.108, 0.116, 0.122, 0.136, 0.165, 0.150, 0.068, 0.138),
    "gravel": (0.112, 0.140, 0.170, 0.228, 0.186, 0.200, 0.210, 0.235, 0.290, 0.255, 0.095, 0.240),
}
CLOUD = (0.56, 0.54, 0.54, 0.58, 0.55, 0.56, 0.57, 0.58, 0.40, 0.30, 0.57, 0.40)
"""Reflectance of a thick cloud."""
HAZE = (0.60, 0.42, 0.28, 0.10, 0.24, 0.18, 0.14, 0.09, 0.02, 0.01, 0.80, 0.08)
"""Path radiance as a reflectance, relative to its strength on a date: it falls with wavelength."""

GREEN = ("leaf", "broad leaf", "crown", "needle", "flower")
"""Materials that carry the leaves, for radar too."""


class Cover(NamedTuple):
    """How the objects of a class look."""

    name: str
    ground: tuple[str, str]  # the two materials between which the bare ground varies from object to object
    texture: tuple[float, float, float]  # relative deviation of the brightness: of pixels, of clumps, of stands
    bare_db: tuple[float, float]  # backscatter (VV, VH) without leaves
    leaf_db: tuple[float, float] = (0.0, 0.0)  # what full leaf cover adds
    height: float = 0.0  # of the vegetation at its highest, metres


FOREST_FLOOR, SOIL = ("litter", "understorey"), ("dark soil", "light soil")
BARE_FIELD = (-10.8, -18.6)
COVERS = (
    Cover("water", ("clear water", "turbid water"), (0.08, 0.02, 0.06), (-20.5, -27.5)),
    Cover("broadleaf forest", FOREST_FLOOR, (0.06, 0.16, 0.06), (-9.8, -15.6), (0.8, 1.4), 24.0),
    Cover("conifer forest", FOREST_FLOOR, (0.17, 0.04, 0.06), (-10.2, -16.2), (1.0, 1.6), 28.0),
    Cover("grassland", SOIL, (0.04, 0.03, 0.13), (-12.2, -19.4), (0.6, 2.2), 0.4),
    Cover("winter wheat", SOIL, (0.03, 0.03, 0.04), BARE_FIELD, (-2.4, 0.8), 0.9),
    Cover("rapeseed", SOIL, (0.03, 0.11, 0.04), BARE_FIELD, (1.6, 5.2), 1.5),
    Cover("maize", SOIL, (0.12, 0.03, 0.04), BARE_FIELD, (2.2, 3.8), 2.5),
    Cover("sugar beet", SOIL, (0.08, 0.08, 0.04), BARE_FIELD, (2.8, 4.0), 0.5),
    Cover("building", ("tiles", "concrete"), (0.22, 0.05, 0.05), (-4.5, -11.0)),
    Cover("road", ("asphalt", "gravel"), (0.10, 0.05, 0.05), (-13.5, -21.0)),
)
WATER, BROADLEAF, CONIFER, GRASS, WHEAT, RAPESEED, MAIZE, BEET, BUILDING, ROAD = range(len(COVERS))
CLASSES = tuple(cover.name for cover in COVERS)
CROPS = (GRASS, WHEAT, RAPESEED, MAIZE, BEET)


# Shares of materials by day of the year; in between they change evenly, and the year goes round.
CALENDAR: dict[int, dict[str, tuple[tuple[int, float], ...]]] = {
    BROADLEAF: {"crown": ((0, 0.10), (98, 0.14), (128, 0.86), (200, 0.92), (265, 0.75), (300, 0.35), (325, 0.10))},
    CONIFER: {"needle": ((0, 0.84), (150, 0.90), (250, 0.88))},
    GRASS: {
        "leaf": ((0, 0.40), (70, 0.45), (125, 0.88), (150, 0.55), (180, 0.80), (215, 0.50), (260, 0.68), (330, 0.48)),
        "straw": ((0, 0.25), (110, 0.08), (150, 0.20), (180, 0.12), (215, 0.34), (260, 0.18), (330, 0.22)),
    },
    WHEAT: {
        "leaf": ((0, 0.28), (60, 0.38), (100, 0.78), (140, 0.93), (168, 0.62), (190, 0.06), (290, 0.02), (330, 0.20)),
        "straw": ((0, 0.00), (140, 0.02), (168, 0.28), (190, 0.86), (210, 0.64), (235, 0.30), (262, 0.04)),
    },
    RAPESEED: {
        "broad leaf": ((0, 0.40), (60, 0.42), (98, 0.82), (118, 0.40), (148, 0.88), (176, 0.45), (196, 0.05)),
        "leaf": ((0, 0.00), (242, 0.02), (262, 0.22), (295, 0.52), (335, 0.45), (364, 0.02)),
        "flower": ((0, 0.00), (104, 0.00), (120, 0.52), (134, 0.46), (150, 0.00)),
        "straw": ((0, 0.04), (148, 0.03), (176, 0.36), (198, 0.80), (215, 0.45), (240, 0.08), (260, 0.02)),
    },
    MAIZE: {
        "leaf": ((0, 0.02), (134, 0.02), (160, 0.30), (188, 0.88), (232, 0.90), (258, 0.52), (274, 0.05)),
        "straw": ((0, 0.20), (90, 0.10), (118, 0.02), (232, 0.06), (258, 0.42), (276, 0.46), (310, 0.28)),
    },
    BEET: {
        "broad leaf": ((0, 0.02), (112, 0.02), (146, 0.34), (176, 0.86), (262, 0.86), (286, 0.70), (304, 0.05)),
        "straw": ((0, 0.02), (100, 0.01), (286, 0.04), (306, 0.12)),
    },
}


class Look(NamedTuple):
    """How N objects look at T dates."""

    reflectance: Float32[Array, "t n 12"]  # with the haze of the date
    greening: Float32[Array, "t n 12"]  # what full leaf cover instead of none would change
    backscatter: Float32[Array, "t n 2"]  # VV and VH in dB, without speckle


def look(rng: np.random.Generator, classes: Int[Array, " n"], days: Int[Array, " t"]) -> Look:
    """How objects of some classes look on some days of the year (0-364), each object a little different."""
    n, t = len(classes), len(days)
    late = rng.uniform(-20, 20) + rng.uniform(-16, 16, n)  # days behind the calendar: the whole scene, and each object
    lush = rng.uniform(0.64, 1.06, n)  # leaf cover relative to the calendar
    tone = rng.random(n)  # where between its two kinds of ground an object is
    bright = rng.uniform(0.75, 1.25, n)
    rough = rng.uniform(-1.1, 1.1, n)  # dB
    gain, haze = rng.uniform(0.94, 1.06, t), rng.uniform(0, 0.09, t)
    wet = rng.uniform(-1.6, 1.6, t)  # dB

    dark, light = np.array([[MATERIALS[name] for name in cover.ground] for cover in COVERS])[classes].swapaxes(0, 1)
    ground = dark + tone[:, None] * (light - dark)
    reflectance = np.broadcast_to(ground, (t, n, len(BANDS))).copy()
    greening = np.zeros((t, n, len(BANDS)))
    green = np.zeros((t, n))
    for kind, shares in CALENDAR.items():
        here = np.flatnonzero(classes == kind)
        for material, course in shares.items():
            when, amount = zip(*course, strict=True)
            share = np.interp(days[:, None] - late[here], when, amount, period=365)
            change = np.array(MATERIALS[material]) - ground[here]
            if material in GREEN:
                share = share * lush[here]
                green[:, here] += share
                greening[:, here] += share[..., None] * change
            reflectance[:, here] += share[..., None] * change
    scale = bright * gain[:, None]
    reflectance = reflectance * scale[..., None] + haze[:, None, None] * np.array(HAZE)

    bare = np.array([cover.bare_db for cover in COVERS])[classes]
    leaf = np.array([cover.leaf_db for cover in COVERS])[classes]
    soil = np.isin(classes, CROPS)
    backscatter = bare + green[..., None] * leaf + rough[:, None] + (wet[:, None] * soil * (1 - green))[..., None]
    return Look(*(x.astype(np.float32) for x in (reflectance, greening * scale[..., None], backscatter)))
