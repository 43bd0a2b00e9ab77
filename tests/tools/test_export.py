"""Scenes written in the OlmoEarth layout are read back as the scenes that they were."""

import sys
from pathlib import Path

import export
import h5py
import numpy as np
import pytest

from hybrid_patch.config.compose import compose
from hybrid_patch.config.options import parse
from hybrid_patch.data.olmoearth import OlmoEarth
from hybrid_patch.data.olmoearth.source import WORLDCOVER, OlmoEarthSource
from hybrid_patch.data.source import Window
from hybrid_patch.data.synthetic import Synthetic
from hybrid_patch.data.synthetic.source import SyntheticSource
from hybrid_patch.data.synthetic.spectra import CLASSES
from hybrid_patch.errors import InputError

SMALL = ("samples=5", "data.scene_size=16", "data.scene_timesteps=6", "data.tile=16")


def written(folder: Path, *arguments: str) -> export.ExportOptions:
    request = parse(export.ExportOptions, [*SMALL, f"output={folder}", *arguments])
    export.export(request)
    return request


def test_samples_are_read_back_as_they_were(tmp_path: Path) -> None:
    request = written(tmp_path / "new" / "folder")
    config = compose(["data=olmoearth", f"data.root={request.output}", "data.tile=16"]).data
    assert isinstance(config, OlmoEarth)
    source, scenes = OlmoEarthSource(config), SyntheticSource(request.data)
    numbers = sorted(int(n) for split in ("train", "val") for n in source.indices(split))
    assert numbers == list(range(5))
    steps = np.arange(6)
    for number in numbers:
        assert source.shape(number) == (16, 16, 6)
        exported = source.read(number, Window(0, 0, 16, 16), steps)
        expected = scenes.read(number, Window(0, 0, 16, 16), steps)
        assert (exported.timestamps == expected.timestamps).all()
        for name, image in expected.images.items():
            assert (exported.valid[name] == expected.valid[name]).all()
            order = [scenes.modalities[name].bands.index(band) for band in source.modalities[name].bands]
            valid_mask = expected.valid[name]
            np.testing.assert_allclose(exported.images[name][valid_mask], image[..., order][valid_mask], atol=0.5)
        assert expected.labels is not None
        assert exported.labels is not None
        codes = np.array(list(WORLDCOVER))[exported.labels]
        names = [CLASSES[label] for label in expected.labels.flat]
        assert [export.WORLDCOVER_CODES[name] for name in names] == list(codes.flat)


def test_an_export_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    written(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "sample_metadata.csv").unlink()
    (tmp_path / "sample_3.h5").unlink()
    modified = (tmp_path / "sample_2.h5").stat().st_mtime_ns
    written(tmp_path, "workers=2")
    assert (tmp_path / "sample_2.h5").stat().st_mtime_ns == modified
    for name, content in before.items():
        if name.endswith(".h5"):
            with h5py.File(tmp_path / name) as file:
                assert "sentinel2_l2a" in file
        else:
            assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["samples=0"], "samples=0: must be greater than or equal to 1"),
        ([], "samples: missing; give samples=N"),
        (["samples=3", "workers=none"], "workers=none: must be a whole number"),
        (["samples=3", "data.scene_sizes=3"], "data.scene_sizes=3: unknown key"),
        (["samples=3", "--force"], "--force: no such flag; takes: --help, --version"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(export.ExportOptions, [*arguments, f"output={tmp_path / 'new'}"])
    assert str(error.value).startswith(message)
    assert not (tmp_path / "new").exists()


def test_other_data_and_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^output: missing"):
        parse(export.ExportOptions, ["samples=3"])
    with pytest.raises(InputError, match=r"^data=olmoearth: only synthetic scenes are written"):
        parse(
            export.ExportOptions, ["samples=3", "data=olmoearth", f"data.root={tmp_path}", f"output={tmp_path / 'new'}"]
        )
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        parse(export.ExportOptions, ["samples=3", f"output={tmp_path}"])
    with pytest.raises(InputError, match="is a file"):
        parse(export.ExportOptions, ["samples=3", f"output={tmp_path / 'file'}"])
    written(tmp_path / "new")
    with pytest.raises(InputError, match="holds another export"):
        parse(export.ExportOptions, [*SMALL, f"output={tmp_path / 'new'}", "data.scene_seed=7"])
    assert isinstance(parse(export.ExportOptions, [*SMALL, f"output={tmp_path / 'new'}"]).data, Synthetic)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, printed in ([*SMALL, f"output={tmp_path / 'new'}"], "5 samples in"), (["--help"], "samples=N"):
        monkeypatch.setattr(sys, "argv", ["export", *arguments])
        with pytest.raises(SystemExit) as end:
            export.main()
        assert end.value.code == 0
        assert printed in capsys.readouterr().out
