"""Which tiles and blocks are for validation: no ground is in both splits."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_folders import config, make_tiles, whole

from hybrid_patch.data.rasters.source import RasterSource
from hybrid_patch.data.split import hold_out, split_blocks


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiles(tmp_path_factory.mktemp("tiles"))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(4, 40), st.floats(0, 1))
@settings(deadline=None)
def test_blocks_cover_the_scene_and_no_pixel_is_in_both_splits(
    height: int, width: int, side: int, share: float
) -> None:
    blocks, val, groups = split_blocks(height, width, side, share)
    times = np.zeros((2, height, width), int)
    owner = np.full((height, width), -1)
    for block, held_out, group in zip(blocks, val, groups, strict=True):
        assert (block.height, block.width) == (min(side, height), min(side, width))
        area = (slice(block.top, block.top + block.height), slice(block.left, block.left + block.width))
        times[int(held_out)][area] += 1
        assert np.isin(owner[area], [-1, group]).all(), "blocks that overlap are one group"
        owner[area] = group
    assert ((times > 0).sum(0) == 1).all()
    fits = share > 0 and max(height, width) >= 2 * side
    assert val.any() == fits
    assert not val.all()


@given(st.sets(st.text(max_size=5), min_size=1, max_size=40), st.floats(0, 1))
@settings(deadline=None)
def test_held_out_groups_are_near_the_share(groups: set[str], share: float) -> None:
    names = sorted(groups)
    held_out = hold_out(names, share)
    assert held_out.tolist() == hold_out(names[::-1], share)[::-1].tolist()
    assert hold_out(names * 2, share).tolist() == [*held_out, *held_out]
    assert not held_out.all()
    if share > 0 and len(groups) > 1:
        assert held_out.sum() >= 1
        assert abs(held_out.sum() - share * len(groups)) <= 1


def test_index_csv_decides_splits_and_groups(tiles: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    root.mkdir()
    (root / "images").symlink_to(tiles / "images")
    rows = ["t0.tif,train,a,x", "t5.tif,val,b,", "t2.tif,train,a,", "t1.tif,test,c,"]
    (root / "index.csv").write_text("\n".join(["file,split,group,note", *rows]))
    source = RasterSource(config(root))
    assert source.indices("train").tolist() == [0, 2]
    assert source.indices("val").tolist() == [1]
    assert source.group(0) == source.group(2) != source.group(1)
    assert source.class_names() == ()
    assert whole(source, 0).labels is None


def test_groups_without_splits_stay_together(tiles: Path, tmp_path: Path) -> None:
    root = tmp_path
    (root / "images").symlink_to(tiles / "images")
    (root / "index.csv").write_text("group,file\n" + "".join(f"g{i // 2},t{i}.tif\n" for i in range(8)))
    source = RasterSource(config(root))
    assert len(source.indices("val")) == 2
    sides = [{source.group(int(i)) for i in source.indices(split)} for split in ("train", "val")]
    assert not sides[0] & sides[1]
