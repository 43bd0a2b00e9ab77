"""From the `data` group of a configuration to the source that it names."""

from hybrid_patch.config.schema import OlmoEarth, Rasters, Synthetic
from hybrid_patch.data.source import Source


def open_source(data: Synthetic | OlmoEarth | Rasters) -> Source:
    """The source of a configuration; only its own libraries are imported.

    Raises InputError if its files are not what the configuration says.
    """
    if isinstance(data, Synthetic):
        from hybrid_patch.data.synthetic.source import SyntheticSource

        return SyntheticSource(data)
    if isinstance(data, OlmoEarth):
        from hybrid_patch.data.olmoearth.source import OlmoEarthSource

        return OlmoEarthSource(data)
    from hybrid_patch.data.rasters.source import RasterSource

    return RasterSource(data)
