"""The page in a real browser, from the disk: what it shows, how it sorts and filters, and that it makes no requests."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import CHROMIUM, WIDTHS, opened
from building import TINY, trained_run
from sweep_folders import make_run, make_sweep, write_manifest

from hybrid_patch.config.options import parse
from hybrid_patch.errors import InputError
from hybrid_patch.evaluate.evaluation import evaluate_run
from hybrid_patch.evaluate.options import EvaluateOptions
from hybrid_patch.report.options import ReportOptions
from hybrid_patch.report.write_report import write_report

MAX_BYTES = 10 * 10**6


def in_browser(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.browser(pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")(test))


def written(output: Path, *arguments: str | Path) -> Path:
    write_report(parse(ReportOptions, [*map(str, arguments), f"output={output}"]), lambda text: None)
    return output


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with a failed and an odd member, and names that look like code."""
    root = tmp_path_factory.mktemp("page")
    sweep = make_sweep(root / "a <b>sweep", seeds=3)
    tag = "<script>document.title='owned'</script>"
    make_run(sweep / "odd'\"><img src=x onerror=alert(1)>", "upsampler=learned", f'model.name="{tag}"', miou=0.26)
    make_run(sweep / "failed", "patch=hybrid", "upsampler=subpixel", state="failed", miou=None)
    (sweep / "failed/status.json").write_text(json.dumps({"state": "failed", "reason": f"no memory {tag}", "step": 9}))
    write_manifest(sweep, never=("upsampler=guided",), failed=("upsampler=subpixel",))
    return written(root / "report.html", sweep, "pictures=0", "axes=[patch,upsampler,model]")


@in_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS.values())
def test_it_opens_without_a_network_an_error_or_a_sideways_scroll(page: Path, width: int, dark: bool) -> None:
    with opened(page, width, dark) as browser:
        assert browser.messages == []
        assert browser.requests == []
        assert browser.page.title() == "a <b>sweep"
        assert browser.page.evaluate("document.documentElement.scrollWidth") <= width
        table = browser.page.locator("div.scroll").first
        if width >= 1400:
            assert table.evaluate("element => element.scrollWidth <= element.clientWidth")
        paper = browser.page.evaluate("getComputedStyle(document.body).backgroundColor")
        lightness = sum(map(int, re.findall(r"\d+", paper)[:3])) / 3
        assert lightness < 60 if dark else lightness > 200
        texts = browser.page.locator(".answer p, h1, h2, td, th")
        assert paper not in texts.evaluate_all("texts => texts.map(text => getComputedStyle(text).color)")


@in_browser
def test_names_are_text(page: Path) -> None:
    with opened(page) as browser:
        assert browser.page.locator("script").count() == 1
        assert browser.page.locator("main img").count() == 0
        assert "<script>document.title='owned'</script>" in " ".join(
            browser.page.locator("tr.member th").all_inner_texts()
        )
        assert "<script>" not in browser.page.content().split("</head>")[1].split("<script>")[0]


@in_browser
def test_the_table_is_sorted_by_a_click(page: Path) -> None:
    with opened(page) as browser:

        def column(number: int) -> list[str]:
            cells = browser.page.locator("tr.member > *").all()
            each = len(cells) // browser.page.locator("tr.member").count()
            return [cell.get_attribute("data-by") or "" for cell in cells[number::each]]

        heads = browser.page.locator("table.members thead tr:nth-child(2) th")
        names = [name.strip() for name in heads.all_inner_texts()]
        place = names.index("mIoU")
        heads.nth(place).locator("button").click()
        values = [float(x) for x in column(place) if x]
        assert values == sorted(values, reverse=True)
        assert column(place)[-2:] == ["", ""]  # failed and missing members come last
        heads.nth(place).locator("button").click()
        values = [float(x) for x in column(place) if x]
        assert values == sorted(values)
        assert column(place)[-2:] == ["", ""]
        assert heads.nth(place).get_attribute("aria-sort") == "ascending"
        heads.nth(0).locator("button").click()
        assert column(0) == sorted(column(0), key=str.lower)


@in_browser
def test_the_table_is_filtered_by_axes_state_and_text(page: Path) -> None:
    with opened(page) as browser:
        shown = browser.page.locator("tr.member:visible")
        everything = shown.count()
        browser.page.locator("label:has-text('upsampler') select").select_option("guided")
        assert shown.count() == 1
        assert "guided" in shown.first.inner_text()
        assert browser.page.locator("#count").inner_text() == f"1 of {everything}"
        assert browser.page.locator('[id^="point-step_seconds"]:visible').count() == 1
        browser.page.locator("label:has-text('upsampler') select").select_option("")
        browser.page.locator("label:has-text('state') select").select_option("failed")
        assert shown.count() == 1
        assert "1 failed" in shown.first.inner_text()
        browser.page.locator("label:has-text('state') select").select_option("")
        browser.page.locator("input[type=search]").fill("PS=1")
        assert shown.count() == 1


@in_browser
def test_hovering_a_point_names_its_config_and_a_click_goes_to_its_runs(page: Path) -> None:
    with opened(page) as browser:
        row = browser.page.locator("tr.member", has_text="guided").first
        number = row.get_attribute("data-member")
        point = browser.page.locator(f"#point-step_seconds-{number}")
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        assert box is not None
        browser.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        tip = browser.page.locator("#tip")
        assert tip.is_visible()
        assert "guided 8→1" in tip.inner_text()
        assert "3 seeds" in tip.inner_text()
        browser.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        runs = browser.page.locator(f"#runs-{number}")
        assert runs.is_visible()
        assert not tip.is_visible()
        links = [link.evaluate("link => link.href") for link in runs.locator("a").all()]
        assert len(links) == 3
        folder = page.parent / "a <b>sweep"
        assert links[0] == (folder / "guided_s0").as_uri() + "/"
        browser.page.locator(f"#point-peak_memory_bytes-{number}").focus()
        tip.wait_for(state="visible")  # scrolling to it may move it from under the pointer first


@pytest.mark.slow
@in_browser
def test_a_thousand_members_open(tmp_path: Path) -> None:
    make_run(tmp_path / "sweep" / "run_0000", "upsampler=guided")
    for number in range(1, 1000):
        folder = tmp_path / "sweep" / f"run_{number:04d}"
        shutil.copytree(tmp_path / "sweep" / "run_0000", folder)
        run = json.loads((folder / "run.json").read_text())
        run["recipe"]["optimizer"]["lr"] = 2 + number / 1000
        (folder / "run.json").write_text(json.dumps(run))
    page = written(tmp_path / "report.html", tmp_path / "sweep", "pictures=0", "axes=[optimizer.lr]")
    assert page.stat().st_size < MAX_BYTES
    with opened(page) as browser:
        assert browser.messages == []
        assert browser.page.locator("tr.member").count() == 1000
        browser.page.locator("input[type=search]").fill("lr=2.777")
        assert browser.page.locator("tr.member:visible").count() == 1


@pytest.mark.full
def test_the_same_numbers_are_beside_the_page(page: Path) -> None:
    labels = [row["label"] for row in json.loads(page.with_suffix(".json").read_text())["members"]]
    assert [line.partition(",")[0] for line in page.with_suffix(".csv").read_text().splitlines()[1:]] != []
    assert all(label.split()[0].partition("<")[0] in page.with_suffix(".md").read_text() for label in labels)
    figures = sorted(path.name for path in page.with_name("report_figures").iterdir())
    names = [f"miou_against_{x}" for x in ("time", "memory", "hours")]
    names += [f"{figure}_over_{x}" for figure in ("loss", "loss1", "probe", "knn") for x in ("steps", "time", "flops")]
    assert figures == sorted(f"{name}.{kind}" for name in names for kind in ("svg", "png"))
    assert page.stat().st_size < MAX_BYTES
    assert not re.search(r'(src|href)="(https?:)?//', page.read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real runs, trained for a moment and evaluated."""
    root = tmp_path_factory.mktemp("trained")
    for name, overrides in (("ps8", ["patch=ps8"]), ("guided", ["patch=hybrid", "upsampler=guided"])):
        folder = trained_run(root / name, *TINY, *overrides)
        quick = (
            "evaluation.train_pixels=400",
            "evaluation.knn_pixels=0",
            "evaluation.seeds=1",
            "evaluation.pictures=0",
        )
        evaluate_run(parse(EvaluateOptions, [f"run={folder}", *quick, "evaluation.baselines=[raw]"]))
        status = json.loads((folder / "status.json").read_text())
        (folder / "status.json").write_text(json.dumps({**status, "state": "done", "step": 2}))
    return root


@pytest.mark.full
@in_browser
def test_real_runs_have_pictures_of_the_same_tiles(trained: Path, tmp_path: Path) -> None:
    page = written(tmp_path / "report.html", trained, "pictures=1")
    with opened(page) as browser:
        assert browser.messages == []
        captions = browser.page.locator(".panel figcaption").all_inner_texts()
        assert captions[:4] == ["image", "ps=8", "guided 8→1", "labels"]
        assert [re.sub(r", \d+% wrong", "", x) for x in captions[4:]] == ["probe of ps=8", "probe of guided 8→1"]
        sizes = browser.page.locator(".panel img").evaluate_all("images => images.map(image => image.naturalWidth)")
        assert sizes == [32] * 6
    before = (tmp_path / "report_figures/tile_0_a1.png").stat().st_mtime_ns
    written(tmp_path / "report.html", trained, "pictures=1")
    assert (tmp_path / "report_figures/tile_0_a1.png").stat().st_mtime_ns == before  # taken from there


@pytest.mark.full
def test_the_command(trained: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "hybrid_patch.report",
        str(trained),
        f"output={tmp_path / 'page.html'}",
        "pictures=0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "too few seeds for a verdict" in done.stdout
    assert done.stdout.splitlines()[-1] == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "folders: missing; give FOLDER ..."),
        (["{empty}"], "{empty}: no run in it"),
        (["{empty}/nowhere"], "there is no such folder"),
        (["{empty}", "output={empty}/no/x.html"], "there is no folder"),
        (["{empty}", "output={empty}/x.pdf"], "write one that ends in .html"),
        (["{empty}", "table={empty}/x.xls"], "write one that ends in .csv or .parquet"),
        (["{empty}", "pictures=many"], "pictures=many: must be a whole number"),
        (["{empty}", "axes=patch"], "axes=patch: not a list"),
        (["{empty}", "axis=[patch]"], "axis=[patch]: unknown key; takes: FOLDER ..., output, table, axes"),
        (["{empty}", "pictures=1", "pictures=2"], "pictures=2: given twice"),
        (["{empty}", "--fast"], "--fast: no such flag"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments: list[str], message: str, tmp_path: Path) -> None:
    def filled(text: str) -> str:
        return text.replace("{empty}", str(tmp_path / "empty"))

    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        write_report(parse(ReportOptions, [filled(argument) for argument in arguments]), lambda text: None)
    assert filled(message) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.rglob("*.html")) == []


@pytest.mark.full
def test_the_report_of_runs_in_wandb_is_logged_there(tmp_path: Path) -> None:
    make_run(tmp_path / "sweep/a", "patch=ps8", "logger=wandb", "logger.project=mine")
    written(tmp_path / "report.html", tmp_path / "sweep", "pictures=0")
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(offline.rglob("members_*.table.json"))
    assert len(list(offline.rglob("media/images/figures/*.png"))) == 12
    (log,) = offline.glob("*.wandb")
    for _ in range(300):  # wandb's own process writes it, when it comes to it
        if b"report.csv" in log.read_bytes():
            break
        time.sleep(0.2)
    assert b"report.csv" in log.read_bytes()
