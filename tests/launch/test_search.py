"""Searches: what Optuna suggests, its journal, and a search that is killed, stopped and gone on with."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from building import TINY
from launching import launch, run_directories, status, steps_of, until, until_done, variables
from optuna.pruners import NopPruner

from hybrid_patch.config.compose import compose
from hybrid_patch.config.sources import Sources
from hybrid_patch.errors import InputError
from launch.search_options import Search, Values, read_search
from launch.search_study import JOURNAL, Trials, journaled_study, pruner_of, study_in_memory

SPACE = """
  patch: {choices: [hybrid, ps8]}
  upsampler: {choices: [guided, nearest], when: {patch: [hybrid]}}
  upsampler.rank: {low: 8, high: 16, step: 4, when: {upsampler: [guided]}}
"""


def searched(folder: Path, *words: str, space: str = SPACE, **values: object) -> Search:
    """The search of a file with this space and these values, and the default's for the rest."""
    plain = {
        "fixed": "{sweep_name: mine}",
        "metric": "knn_miou",
        "direction": "maximize",
        "trials": 12,
        "parallel": 1,
        "sampler": "tpe",
        "pruner": "none",
        "startup_trials": 2,
        "seed": 0,
        **values,
    }
    (folder / "search").mkdir(exist_ok=True)
    text = "".join(f"{key}: {value}\n" for key, value in {"name": "mine", **plain}.items())
    (folder / "search" / "mine.yaml").write_text(f"{text}space:{space}")
    return read_search(["+search=mine", *words], folder)


def score(values: Values) -> float:
    return len(json.dumps(values)) / 100


def drawn(trials: Trials, count: int) -> list[Values]:
    """The values of the next trials, each told its score."""
    lines = []
    for _ in range(count):
        trial = trials.ask()
        assert trial is not None
        lines.append(trials.values(trial))
        trials.tell(trial, "COMPLETE", score(lines[-1]))
    return lines


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_draws_the_same_in_several_processes_as_in_one(sampler: str, tmp_path: Path) -> None:
    search = searched(tmp_path, space=SPACE + "  optimizer.lr: {low: 0.0001, high: 0.1, log: true}\n", sampler=sampler)
    in_one = drawn(Trials(search, {}, study_in_memory(search)), 8)
    in_many = []
    for number in range(8):
        with journaled_study(tmp_path / "study", search, [], NopPruner()) as study:
            trials = Trials(search, {}, study)
            if number % 2:  # killed before it had drawn all values, and before anything was submitted
                trial = trials.ask()
                assert trial is not None
                trial.study.sampler = study_in_memory(search).sampler
            else:
                in_many += drawn(trials, 1)
                continue
        with journaled_study(tmp_path / "study", search, [], NopPruner()) as study:
            trials = Trials(search, {}, study)
            (trial,) = trials.running()
            in_many.append(trials.values(trial))
            trials.tell(trial, "COMPLETE", score(in_many[-1]))
    assert in_many == in_one
    assert len({json.dumps(values) for values in in_one}) == 8
    other = searched(tmp_path, "search.seed=1", sampler=sampler)
    assert drawn(Trials(other, {}, study_in_memory(other)), 8) != in_one


def test_a_key_is_varied_only_beside_the_values_that_it_names(tmp_path: Path) -> None:
    search = searched(tmp_path, sampler="random")
    for values in drawn(Trials(search, {}, study_in_memory(search)), 12):
        assert ("upsampler" in values) == (values["patch"] == "hybrid")
        assert ("upsampler.rank" in values) == (values.get("upsampler") == "guided")
    fixed = {"patch": "hybrid", "upsampler": "guided"}
    rest = searched(tmp_path, space="\n  upsampler.rank: {choices: [8], when: {sweep_name: [mine, other]}}\n")
    assert drawn(Trials(rest, fixed, study_in_memory(rest)), 1) == [{}]


def test_a_grid_has_each_combination_once(tmp_path: Path) -> None:
    search = searched(tmp_path, sampler="grid", trials=50)
    ranks = [{"patch": "hybrid", "upsampler": "guided", "upsampler.rank": rank} for rank in (8, 12, 16)]
    expected = [*ranks, {"patch": "hybrid", "upsampler": "nearest"}, {"patch": "ps8"}]
    with journaled_study(tmp_path / "study", search, [], NopPruner()) as study:
        trials = Trials(search, {}, study)
        assert drawn(trials, 3) == expected[:3]
    with journaled_study(tmp_path / "study", search, [], NopPruner()) as study:
        trials = Trials(search, {}, study)
        assert (trials.limit, drawn(trials, 2)) == (5, expected[3:])
        assert trials.ask() is None


def test_a_run_that_two_trials_are_is_one(tmp_path: Path) -> None:
    search = searched(tmp_path, space="\n  patch: {choices: [ps8]}\n")
    trials = Trials(search, {}, study_in_memory(search))
    first, second = trials.ask(), trials.ask()
    assert first is not None
    assert second is not None
    for trial in (first, second):
        trials.values(trial)
        trial.set_user_attr("member", "the id")
    assert trials.twin(first) is None
    assert trials.report(first, 5, 0.25)
    trials.tell(first, "PRUNED")
    twin = trials.twin(second)
    assert twin is not None
    trials.repeat(second, twin)
    assert [trial.state.name for trial in trials.asked()] == ["PRUNED", "PRUNED"]
    assert trials.asked()[1].intermediate_values == {5: 0.25}


def test_scores_are_reported_once_and_compared_with_those_at_the_same_step(tmp_path: Path) -> None:
    search = searched(tmp_path, pruner="median", startup_trials=1)
    config = compose(["trainer.steps=12", "evaluation.every=4"])
    with journaled_study(tmp_path / "study", search, [], pruner_of(search, config)) as study:
        trials = Trials(search, {}, study)
        for scores, ends in (([0.4, 0.6], [True, True]), ([0.5, 0.5], [True, False])):
            trial = trials.ask()
            assert trial is not None
            assert [trials.report(trial, step, x) for step, x in zip((4, 8), scores, strict=True)] == ends
            assert [trials.report(trial, step, x) for step, x in zip((4, 8), scores, strict=True)] == ends
            trials.tell(trial, "COMPLETE", scores[-1])


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_pruning_needs_scores_within_the_training(pruner: str, tmp_path: Path) -> None:
    search = searched(tmp_path, pruner=pruner)
    with pytest.raises(InputError, match=rf"^search.pruner={pruner}: with evaluation.every=0 [^\n]*every=3[^\n]*$"):
        pruner_of(search, compose(["trainer.steps=12"]))


def test_a_journal_that_was_torn_is_gone_on_with_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    search = searched(tmp_path)
    folder = tmp_path / "study"
    with journaled_study(folder, search, ["seed=0"], NopPruner()) as study:
        before = drawn(Trials(search, {}, study), 3)
    path = folder / JOURNAL
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 4, "worker')
    (folder / f"{JOURNAL}.lock").touch()  # Optuna's, of a process that was killed while it wrote
    with journaled_study(folder, searched(tmp_path, "search.trials=20"), ["seed=0"], NopPruner()) as study:
        assert [trial.params for trial in study.trials] == before
    for arguments, words in ((["seed=1"], []), (["seed=0"], ["search.seed=3"])):
        other = journaled_study(folder, searched(tmp_path, *words), arguments, NopPruner())
        with pytest.raises(InputError, match=r"study: begun with other settings \([^\n]*seed[^\n]*\); remove"), other:
            pass
    path.write_bytes(b"\0" * 100 + whole)
    damaged = journaled_study(folder, search, ["seed=0"], NopPruner())
    with pytest.raises(InputError, match=rf"^damaged: {re.escape(str(path))}, [^\n]*; remove that folder"), damaged:
        pass


@pytest.mark.parametrize(
    ("space", "words", "start"),
    [
        ("\n  seed: {low: 3}\n", [], "search.space.seed: give choices: [a, b], or low and high"),
        ("\n  seed: {low: 3, high: 1}\n", [], "search.space.seed: low is above high"),
        ("\n  seed: {low: 0, high: 1, log: true}\n", [], "search.space.seed: log needs a low above 0"),
        ("\n  seed: {low: 0, high: 1, step: 0.5}\n", [], "search.space.seed: step is not above 0, or not whole"),
        ("\n  seed: {choices: [1], step: 1}\n", [], "search.space.seed: choices have no low"),
        ("\n  seed: {choices: [1], when: {patch: [ps8]}}\n", [], "search.space.seed.when.patch: no earlier key"),
        (" {}\n", [], "search.space"),
        (SPACE, ["search.sampler=gird"], "search.sampler=gird: must be 'tpe', 'random' or 'grid'"),
        (SPACE, ["search.metric=knn_iou"], "search.metric=knn_iou: no score of an evaluation; takes: probe_miou, "),
        (SPACE, ["search.trials=0"], "search.trials=0: must be greater than or equal to 1"),
        (SPACE, ["search.many=3"], "search.many=3: unknown key"),
    ],
)
def test_a_bad_search_is_one_line(space: str, words: list[str], start: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        searched(tmp_path, *words, space=space)
    assert str(error.value).startswith(start)
    assert "\n" not in str(error.value)


def test_the_score_of_reports_has_its_name_in_a_search_too(tmp_path: Path) -> None:
    assert searched(tmp_path, "search.metric=miou").metric == "probe_miou"


@pytest.mark.parametrize("name", Sources().groups()["search"])
def test_trials_of_a_search_are_valid_runs(name: str) -> None:
    search = read_search([f"+search={name}"], None)
    upsamplers: set[str] = set()
    for values in Trials(search, {}, study_in_memory(search)).first(8):
        lines = [f"{key}={value}" for key, value in {**search.fixed, **values}.items()]
        upsamplers.add(compose(lines).upsampler.name)
    assert len(upsamplers) > 2


LONG = 3000
GOING = f"\n  trainer.steps: {{choices: [8, {LONG}, 0]}}\n"


def command(folder: Path, *words: str) -> Sequence[str]:
    rest = ("evaluation=default", "evaluation.every=4", "evaluation.tiles=2", "evaluation.pictures=0", "data.scenes=8")
    words = ("--config-dir", "conf", "+search=mine", *TINY, *rest, "evaluation.knn_pixels=100", *words)
    return ["search", *words, "evaluation.baselines=[]", "trainer.checkpoint_every=4"]


def started(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "launch", *command(folder)],
        cwd=folder,
        env=variables(folder, {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def submissions(folder: Path) -> list[list[str]]:
    files = sorted((folder / "runs" / "mine" / "launch" / "submissions").glob("*/submission.json"))
    return [[member["id"] for member in json.loads(file.read_text())["members"]] for file in files]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_search_that_is_killed_and_stopped_goes_on_and_runs_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    searched(tmp_path / "conf", space=GOING, sampler="grid", pruner="median", startup_trials=1)
    killed = started(tmp_path)
    until(lambda: submissions(tmp_path))
    second = launch(tmp_path, *command(tmp_path))
    assert (second.returncode, second.stderr.count("\n")) == (2, 1)
    assert "another process searches here" in second.stderr
    killed.kill()
    killed.wait()
    (short,) = run_directories(tmp_path)
    until_done(short)  # its queue goes on without the search
    better = short / "metrics.jsonl"
    better.write_text(re.sub(r'"knn_miou": [\d.]+', '"knn_miou": 2.0', better.read_text()))  # than any other can be

    stopped = started(tmp_path)
    until(lambda: len(submissions(tmp_path)) == 2)
    stopped.send_signal(signal.SIGTERM)
    printed, _ = stopped.communicate(timeout=300)
    assert stopped.returncode == 75
    assert "[1/3] complete knn_miou 2.0000  trainer.steps=8\n" in printed
    assert "1 trial left in the queue" in printed

    done = launch(tmp_path, *command(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert re.fullmatch(rf"\[2/3\] pruned knn_miou [\d.]+  trainer.steps={LONG}", lines[0])
    assert lines[1].startswith("[3/3] fail  trainer.steps=0  (invalid: trainer.steps=0: must be greater than")
    assert "mine: 1 complete, 1 pruned, 1 fail" in done.stdout
    more_seeds = rf"hybrid-patch launch submit sweep_name=mine [^\n]* seed=0,1,2 --config-dir {tmp_path}/conf\n"
    assert re.search(more_seeds, done.stdout)
    _, long = run_directories(tmp_path)
    until(lambda: status(long)["state"] == "preempted")
    assert list((long / "checkpoints").iterdir())
    assert status(long)["step"] < LONG
    assert steps_of(short) == list(range(1, 9))
    assert submissions(tmp_path) == [[short.name], [long.name]]
    again = launch(tmp_path, *command(tmp_path))
    assert (again.returncode, submissions(tmp_path)) == (0, [[short.name], [long.name]])


@pytest.mark.full
def test_what_is_no_search_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    searched(tmp_path / "conf", space="\n  data.tile: {choices: [15, 17]}\n")
    for words, text in (
        (["search", "+search=upsampler", "seed=0,1"], "2 runs, and a trial is a single one"),
        (["search"], "search: missing; give one of: upsampler"),
        (["search", "+search=upsampler", "evaluation.knn_pixels=0"], "search.metric=knn_miou: evaluation.knn_pixels=0"),
        (
            ["search", "--config-dir", "conf", "+search=mine", "seed=1"],
            "search=mine: no valid trial among the first",
        ),
        (["submit", "+search=upsampler"], "+search=upsampler: a search, which is made by hybrid-patch launch search"),
        (["run", "seed=0,1", "hydra/sweeper=optuna"], "hydra/sweeper=optuna: sweepers of Hydra's are not used; "),
    ):
        done = launch(tmp_path, *words)
        assert done.returncode == 2
        assert text in done.stderr
    assert not (tmp_path / "runs").exists()
