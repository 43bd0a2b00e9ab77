"""Runs evaluated by the command: on their own data, on others, with and without labels, and bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from building import TINY, trained_run
from matplotlib.image import imread
from olmoearth_folder import make_folder
from raster_folders import write
from rasterio import Affine

from hybrid_patch.config.options import parse
from hybrid_patch.errors import InputError
from hybrid_patch.evaluate.evaluation import evaluate_run
from hybrid_patch.evaluate.options import EvaluateOptions
from hybrid_patch.evaluate.tables import tables, verdict_lines
from hybrid_patch.evaluate.verdicts import in_words, verdicts
from hybrid_patch.runs.stop_signal import Stopped

QUICK = (
    "evaluation.train_pixels=600",
    "evaluation.knn_pixels=100",
    "evaluation.seeds=2",
    "evaluation.pictures=2",
    "evaluation.scored_pixels=100",
    "evaluation.few_labels=[2,30]",
)
BANDS = ("blue", "red", "nir")
KINDS = ["embedding", "raw", "random64", "random256", "surroundings", "means", "untrained", "oracle"]


def make_labelled_tiles(root: Path, bands: tuple[str, ...] = BANDS, labels: bool = True) -> Path:
    """Eight tiles whose pixels' classes show in their red and nir."""
    for number in range(8):
        rng = np.random.default_rng(number)
        classes = rng.integers(3, size=(12, 16)).repeat(2, 0).repeat(2, 1)
        values = {"blue": 50 * rng.random((24, 32)), "red": 100.0 * (classes == 1), "nir": 100.0 * (classes == 2)}
        values = {name: x + 10 * rng.random((24, 32)) for name, x in values.items()}
        image = np.stack([values.get(name.lower(), np.zeros((24, 32))) for name in bands]).astype(np.float32)
        place = Affine(10, 0, 664000 + 1000 * number, 0, -10, 5612120)
        write(root / f"images/t{number}.tif", image, bands, transform=place)
        if labels:
            written = np.where(np.arange(24)[:, None] < 22, classes, 255)  # the last rows have none
            write(root / f"labels/t{number}.tif", written[None].astype(np.uint8), nodata=255, transform=place)
    return root


ELSEWHERE = [override for override in TINY if not override.startswith("data.")]


@pytest.fixture(scope="module")
def synthetic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("runs") / "synthetic", *TINY, "patch=hybrid", "upsampler=guided")


@pytest.fixture(scope="module")
def rasters_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiles = make_labelled_tiles(tmp_path_factory.mktemp("tiles"))
    data = ("data=rasters", "data.tile=16", "data.timesteps=1", f"data.root={tiles}")
    return trained_run(tiles / "run", *ELSEWHERE, *data)


def evaluated(folder: Path, *arguments: str) -> dict[str, object]:
    return evaluate_run(parse(EvaluateOptions, [f"run={folder}", *QUICK, *arguments]))


def test_a_synthetic_run(synthetic_run: Path, tmp_path: Path) -> None:
    report = evaluated(synthetic_run, f"output={tmp_path / 'report.json'}", f"compare=[other:{synthetic_run}]")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["features"] == report["features"]
    features = written["features"]
    assert list(features) == KINDS
    for kind, by_classifier in features.items():
        assert list(by_classifier) == (["majority"] if kind == "oracle" else ["linear", "knn"])
        for scored in by_classifier.values():
            assert list(scored) == ["all", "mixed", "boundary"]
            supports = [sum(row["support"] for row in part["classes"].values()) for part in scored.values()]
            assert supports[0] == 32 * 32  # one validation scene, labelled everywhere
            assert supports[0] > supports[1] > supports[2]
            for part in scored.values():
                for score in ("miou", "accuracy"):
                    assert 0 <= part[score]["low"] <= part[score]["high"] <= 1
                    assert len(part[score]["seeds"]) == (1 if kind == "oracle" else 2)
    assert written["structure"]["effective_rank"] > 1
    assert written["scores"]["window_ratio"] == written["structure"]["window_ratio"] > 0
    assert written["scores"]["probe_miou"] == features["embedding"]["linear"]["all"]["miou"]["mean"]
    pictures = sorted((tmp_path / "report_pictures").iterdir())
    assert [path.name for path in pictures] == ["tile_0.png"]
    height, width, _ = imread(pictures[0]).shape
    assert width > height  # image, tokens, 8→1 and the other model; below them labels, probe and errors
    classes = [len(features["raw"][classifier]["all"]["classes"]) for classifier in ("linear", "knn")]
    assert [table.row_count for table in tables(written)] == [15, 14, *classes, 4]
    assert written["above"] == {}  # of a single group of tiles, there is no interval
    assert not (synthetic_run / "evaluation.json").exists()


@pytest.mark.full
def test_bands_are_found_by_name_and_the_run_s_statistics_are_kept(rasters_run: Path, tmp_path: Path) -> None:
    original = evaluated(rasters_run)
    assert (rasters_run / "evaluation.json").exists()
    other = make_labelled_tiles(tmp_path / "a, [b]", ("nir", "extra", "RED", "blue"))
    output = f"output={tmp_path / 'report.json'}"
    moved = evaluated(rasters_run, output, "data=rasters", f"data.root={other}")
    assert moved["features"] == original["features"]
    assert original["features"]["raw"]["linear"]["all"]["miou"]["mean"] > 0.95  # type: ignore[index]
    assert original["features"]["means"]["linear"]["all"]["miou"]["mean"] < 0.8  # type: ignore[index]
    assert original["features"]["oracle"]["majority"]["all"]["miou"]["mean"] < 0.8  # type: ignore[index]
    above, few = original["above"], original["few_labels"]
    assert list(above) == [kind for kind in KINDS if kind not in ("embedding", "oracle")]  # type: ignore[call-overload]
    difference = above["raw"]["knn"]["all"]  # type: ignore[index]
    scores = [original["features"][kind]["knn"]["all"]["miou"]["seeds"] for kind in ("embedding", "raw")]  # type: ignore[index]
    assert difference["seeds"] == [a - b for a, b in zip(*scores, strict=True)]
    assert difference["low"] <= difference["mean"] <= difference["high"] < 0
    assert verdict_lines(original)[1] == f"embedding, 20 nearest neighbours: {in_words(verdicts(above, 'knn'))}"  # type: ignore[arg-type]
    assert list(few["raw"]["knn"]) == ["2", "30"]  # type: ignore[index]
    mean_of = {count: few["raw"]["linear"][count]["all"]["miou"]["mean"] for count in ("2", "30")}  # type: ignore[index]
    assert mean_of["2"] < mean_of["30"]


def test_without_labels_there_is_what_shows_without(rasters_run: Path, tmp_path: Path) -> None:
    bare = make_labelled_tiles(tmp_path / "bare", labels=False)
    report = evaluated(rasters_run, f"output={tmp_path / 'report.json'}", "data=rasters", f"data.root={bare}")
    assert report["features"] == {}
    assert report["structure"]["effective_rank"] > 1  # type: ignore[index]
    assert len(list((tmp_path / "report_pictures").iterdir())) == 2
    assert [table.row_count for table in tables(report)] == [4]


@pytest.mark.full
def test_labels_of_whole_tiles_are_told_by_the_pooled_embedding(rasters_run: Path, tmp_path: Path) -> None:
    tiles = make_labelled_tiles(tmp_path / "tiles", labels=False)
    rows = []
    for number in range(8):
        path = tiles / f"images/t{number}.tif"
        image = np.full((3, 24, 32), 100.0 * (number % 2), np.float32) + number
        path.unlink()
        write(path, image, BANDS)
        rows.append(f"t{number}.tif,{'val' if number > 4 else 'train'},g{number},{('field', 'forest')[number % 2]}")
    (tiles / "index.csv").write_text("\n".join(["file,split,group,label", *rows, ""]))
    report = evaluated(rasters_run, f"output={tmp_path / 'report.json'}", "data=rasters", f"data.root={tiles}")
    assert report["classes"] == ["field", "forest"]
    features = json.loads((tmp_path / "report.json").read_text())["features"]
    assert list(features) == [kind for kind in KINDS if kind not in ("means", "oracle")]
    assert features["raw"]["linear"]["all"]["accuracy"]["mean"] == 1
    assert features["raw"]["linear"]["all"]["classes"]["forest"]["support"] == 2
    assert "mixed" not in features["raw"]["linear"]
    assert len(list((tmp_path / "report_pictures").iterdir())) == 2


def test_concatenated_tokens_can_be_scored(synthetic_run: Path, tmp_path: Path) -> None:
    output = f"output={tmp_path / 'report.json'}"
    report = evaluated(
        synthetic_run, output, "evaluation.pooling=concat", "evaluation.baselines=[]", "evaluation.tiles=1"
    )
    assert list(report["features"]) == ["embedding"]  # type: ignore[call-overload]
    assert next(iter(report["scores"])) == "probe_miou"  # type: ignore[call-overload]


@pytest.mark.full
def test_olmoearth_has_worldcover_for_labels(tmp_path: Path) -> None:
    root = tmp_path / "olmoearth"
    root.mkdir()
    make_folder(root)
    modality = "{bands:[B02,B03],band_sets:[[B02,B03]],temporal:true,gsd:10.0}"
    data = ("data=olmoearth", f"data.root={root}", "data.tile=16", "data.timesteps=2", "~data.modalities")
    trained_run(tmp_path / "run", *ELSEWHERE, *data, f"+data.modalities={{sentinel2_l2a:{modality}}}")
    report = evaluated(tmp_path / "run", "evaluation.baselines=[raw]")
    assert report["features"]["embedding"]["linear"]["all"]["classes"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run={nowhere}"], "run={nowhere}: not a run directory; there is no config.yaml in it"),
        ([], "run: missing; give run=DIR"),
        (
            ["run={run}", "trainer.steps=3"],
            "trainer.steps=3: unknown key; takes: run, output, compare, data",
        ),
        (["run={run}", "--fast"], "--fast: no such flag"),
        (["run={run}", "~data.modalities.images"], "~data.modalities.images: unknown key"),
        (["run={run}", "compare=[a/x,b/x]"], "compare=[a/x,b/x]: two runs of one name"),
        (["run={run}", "evaluation.tile=3"], "evaluation.tile=3: unknown key"),
        (["run={run}", "evaluation.seeds=0"], "evaluation.seeds"),
        (["run={run}", "data=nothing"], "data=nothing: no such option"),
        (["run={run}", "data=rasters", "data.root={nowhere}"], "data.root={nowhere}: there is no such folder"),
        (["run={run}", "output={nowhere}/x/y.json"], "there is no folder"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, rasters_run: Path, tmp_path: Path) -> None:
    def filled(text: str) -> str:
        return text.replace("{run}", str(rasters_run)).replace("{nowhere}", str(tmp_path / "nowhere"))

    with pytest.raises(InputError) as caught:
        evaluate_run(parse(EvaluateOptions, [filled(argument) for argument in arguments]))
    assert filled(message) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_band_is_named(rasters_run: Path, tmp_path: Path) -> None:
    other = make_labelled_tiles(tmp_path / "other", ("blue", "red", "swir"))
    with pytest.raises(InputError, match="has no band 'nir'"):
        evaluated(rasters_run, "data=rasters", f"data.root={other}")


@pytest.mark.full
def test_the_command(rasters_run: Path, tmp_path: Path) -> None:
    arguments = [
        f"run={rasters_run}",
        *QUICK,
        "evaluation=default",
        "evaluation.tiles=2",
        f"output={tmp_path / 'a.json'}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_patch.evaluate", *arguments], capture_output=True, text=True, check=True
    )
    assert "embedding" in done.stdout
    assert "lattice ratio" in done.stdout
    bad = subprocess.run(
        [sys.executable, "-m", "hybrid_patch.evaluate", f"run={tmp_path / 'no'}"], capture_output=True, text=True
    )
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: run=")
    assert bad.stderr.count("\n") == 1


@pytest.mark.full
@pytest.mark.timeout(900)  # a dozen times what a quiet machine takes
def test_a_stop_at_any_check_writes_nothing(synthetic_run: Path, tmp_path: Path) -> None:
    """Whatever it is at: embedding, a probe, the neighbours, pictures."""
    options = parse(EvaluateOptions, [f"run={synthetic_run}", *QUICK, f"output={tmp_path / 'report.json'}"])
    checks = 0

    def count() -> None:
        nonlocal checks
        checks += 1

    evaluate_run(options, count)
    made = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(made) == 2  # the report, and a picture of the one tile to validate on
    for last in range(0, checks, checks // 10):
        left = last

        def check() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Stopped

        with pytest.raises(Stopped):
            evaluate_run(options, check)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == made
