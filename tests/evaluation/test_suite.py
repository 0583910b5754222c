"""Suites on small corpora of tones in real shards: by hand, once encoded, what is missing, what is refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics import average_precision_score

import atr
from atr.errors import DataError, UsageError
from atr.evaluation import suite as module
from atr.evaluation.record import MEAN, POOLED
from atr.evaluation.sets import read_set
from atr.evaluation.suite import classify_set, run_suite
from atr.evaluation.tasks import Task, find_prompts, find_tasks
from atr.inference import AudioTextModel
from atr.shards.write import write_shards
from atr.types import Clip
from tests.conftest import tone

TASKS = find_tasks()


def write_corpus(folder, splits, labels):
    """Shards `folder/SPLIT` with a short tone for each list of labels."""
    number = 0
    for split, rows in zip(splits, labels, strict=True):
        clips = []
        for own in rows:
            path = folder / "sounds" / f"{split}-{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, tone(150 * 1.05 ** (number % 60), 0.3), 16_000)
            clips.append(Clip(id=path.stem, audio=str(path), labels=own, split=split))
            number += 1
        write_shards(clips, folder / split, codec="keep", progress=False)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """GTZAN, ESC-10 in folds of different sizes, and AudioSet's environments; nothing else."""
    data = tmp_path_factory.mktemp("data")
    genres, sounds = TASKS["gtzan"].labels, TASKS["esc10"].labels
    write_corpus(data / "gtzan", ["all"], [[[genre] for genre in genres for _ in range(2)]])
    folds = [[[sounds[i % 10]] for i in range(count)] for count in (10, 4, 3, 3, 6)]
    write_corpus(data / "esc10", TASKS["esc10"].splits, folds)
    places = TASKS["audioset_environment"].labels
    write_corpus(data / "audioset", ["environment"], [[[place] for place in places] + [list(places[:2])]])
    return data


@pytest.fixture(scope="module")
def model(trained):
    return atr.load(trained)


def heard(model, clips, windows="mean"):
    return model.encode_audio([item.open() for item in clips.items], windows)


def by_hand(model, folder, labels, template):
    """Fold -> for each of its clips, is its nearest label right? One clip and one label at a time."""
    text = model.encode_text([template.replace("{label}", label.replace("_", " ")) for label in labels]).double()
    rights = {}
    for split in sorted(path.name for path in folder.iterdir() if path.name != "sounds"):
        clips = read_set([folder / split])
        for audio, own in zip(heard(model, clips).double(), clips.labels, strict=True):
            cosine = [float(audio @ vector) for vector in text]
            rights.setdefault(split, []).append(labels[int(np.argmax(cosine))] in own)
    return rights


def test_the_environment_suite(data, model):
    done = run_suite(model, data=data, progress=False)
    assert [result.task.name for result in done.results] == ["audioset_environment", "gtzan"] and not done.failed
    for result, prompt in zip(done.results, ["The sound in {label}", "The sound of {label}"], strict=True):
        task = result.task
        assert (result.prompts, result.templates, result.windows) == ("paper", [prompt], "mean")
        assert result.dataset in ("AudioSet", "GTZAN") and result.labels == list(task.labels)
        (rights,) = by_hand(model, data / task.corpus, task.labels, prompt).values()
        assert result.rows[POOLED][0].value == pytest.approx(np.mean(rights)) and list(result.rows) == [POOLED]
        assert len(result.clips) == len(rights) == len(result.answers) == len(result.cosine)
        expected = read_set([data / task.corpus / task.splits[0]])
        assert result.clips.manifest_sha256 == expected.manifest_sha256
    assert done.results[0].chance == pytest.approx((7 * 1 + 2) / 8 / 7)
    assert [one.task.name for one in done.missing] == ["tau2020_mobile", "urbansound8k"]
    assert done.missing[0].place == str(data / "tau2020_mobile")
    assert done.missing[0].advice == (
        "get TAU Urban Acoustic Scenes 2020 Mobile from https://zenodo.org/records/3819968 (licence: Tampere "
        "University, non-commercial research only), then: atr prepare tau2020_mobile --root raw/tau2020_mobile --out "
        f"{data / 'tau2020_mobile'} --split test --download"
    )


def test_every_missing_corpus_says_where_to_get_it(tmp_path, model):
    done = run_suite(model, "all", data=tmp_path, progress=False)
    assert len(done.missing) == len(TASKS) and not done.results and not done.failed
    for one in done.missing:
        assert "://" in one.advice and f"atr prepare {one.task.corpus} --root" in one.advice, one.task
        assert one.task.note in one.advice


def test_folds_prompts_and_ensembles_share_one_pass(data, model, monkeypatch):
    passes, texts = [], []
    encode, labels = AudioTextModel.encode_sources, module.encode_labels
    monkeypatch.setattr(
        AudioTextModel, "encode_sources", lambda *given, **named: passes.append(1) or encode(*given, **named)
    )
    monkeypatch.setattr(module, "encode_labels", lambda *given: texts.append(given[2]) or labels(*given))
    own = ["a {label}", "{label} noise"]
    done = run_suite(model, "esc10", data=data, prompts=["laion", "bare"], templates=own, progress=False)
    assert len(passes) == 1 and texts == [["This is a sound of {label}."], ["{label}"], own]
    assert [result.prompts for result in done.results] == ["laion", "bare", "own"]
    for result, template in zip(done.results, ["This is a sound of {label}.", "{label}"], strict=False):
        rights = by_hand(model, data / "esc10", TASKS["esc10"].labels, template)
        assert list(result.rows) == [POOLED, MEAN, *rights]
        values = {name: rows[0].value for name, rows in result.rows.items()}
        assert values[POOLED] == pytest.approx(np.mean([right for fold in rights.values() for right in fold]))
        assert values[MEAN] == pytest.approx(np.mean([np.mean(fold) for fold in rights.values()]))
        assert {fold: values[fold] for fold in rights} == {
            fold: pytest.approx(np.mean(r)) for fold, r in rights.items()
        }
        assert [rows[0].n for rows in result.rows.values()] == [26, 26, 10, 4, 3, 3, 6]
    single = [model.encode_text([template.replace("{label}", label.replace("_", " ")) for label in result.labels])
              for template in own]  # fmt: skip
    mean = torch.nn.functional.normalize((single[0] + single[1]) / 2, dim=1)
    audio = heard(model, done.results[2].clips)
    assert done.results[2].cosine == pytest.approx((audio @ mean.T).numpy(), abs=1e-5)
    assert done.results[2].cosine != pytest.approx((audio @ single[0].T).numpy(), abs=1e-5)
    alone = run_suite(model, "esc10", data=data, templates=own, progress=False)
    assert [result.prompts for result in alone.results] == ["own"]


def test_two_tasks_about_the_same_clips_encode_them_once(tmp_path, model, monkeypatch):
    themes = [[f"Theme{i % 16}", f"Class{i}"] for i in range(276)]
    write_corpus(tmp_path / "audioatlas", ["overall"], [themes])
    passes = []
    encode = AudioTextModel.encode_sources
    monkeypatch.setattr(
        AudioTextModel, "encode_sources", lambda *given, **named: passes.append(1) or encode(*given, **named)
    )
    done = run_suite(model, "audioatlas", data=tmp_path, progress=False)
    assert len(passes) == 1 and [len(result.labels) for result in done.results] == [16, 276]
    assert done.results[0].labels[0] == "Theme0" and done.results[1].rows[POOLED][0].n == 276
    shutil.rmtree(tmp_path / "audioatlas")
    write_corpus(tmp_path / "audioatlas", ["overall"], [themes[:200]])
    done = run_suite(model, "audioatlas_classes", data=tmp_path, progress=False)
    assert not done.results
    assert "200 labels in 200 clips, where the task has 276" in done.failed["audioatlas_classes"]


def test_places_of_ones_own(data, tmp_path, model):
    shutil.copytree(data / "gtzan", tmp_path / "mine")
    for name in ("gtzan", "esc10"):
        done = run_suite(model, "gtzan", data=tmp_path, places={name: tmp_path / "mine"}, progress=False)
        assert bool(done.results) == (name == "gtzan") and bool(done.missing) == (name == "esc10")
    done = run_suite(model, "gtzan", data=data, places={"gtzan": tmp_path / "nowhere"}, progress=False)
    assert not done.results and "nowhere/all is not there" in done.failed["gtzan"]
    with pytest.raises(UsageError, match=r"a place is given for 'gtzen'; there are: .*gtzan"):
        run_suite(model, data=data, places={"gtzen": tmp_path})


def test_windows_are_passed_on(data, model, tmp_path):
    folder = tmp_path / "mine"
    for number, label in enumerate(["low", "high"]):
        path = folder / label / "sound.wav"
        path.parent.mkdir(parents=True)
        sound = np.concatenate([tone(300 * (1 + number), 1.0), tone(2000, 1.5)])
        soundfile.write(path, sound, 16_000)
    clips, task = read_set([folder]), Task(name="own", title="Own")
    found = {
        windows: classify_set(model, clips, task, find_prompts(["bare"]), windows=windows, progress=False)[0]
        for windows in ("mean", "first", "max")
    }
    for windows, result in found.items():
        audio = heard(model, clips, windows)
        text = model.encode_text(["high", "low"])
        assert result.windows == windows and result.cosine == pytest.approx((audio @ text.T).numpy(), abs=1e-5)
    assert found["mean"].cosine != pytest.approx(found["first"].cosine, abs=1e-4)


def test_tagging_of_ones_own_clips(tmp_path, model):
    rng = np.random.default_rng(0)
    labels = [[f"tag{i}" for i in np.flatnonzero(row)] or ["tag0"] for row in rng.random((30, 4)) < 0.4]
    folder = write_corpus(tmp_path / "tags", ["test"], [labels]) / "test"
    task = Task(name="own", title="Own", kind="multi-label")
    clips = read_set([folder])
    (result,) = classify_set(model, clips, task, find_prompts([], ["{label} here"]), progress=False)
    cosine = (heard(model, clips) @ model.encode_text([f"{label} here" for label in result.labels]).T).numpy()
    own = [average_precision_score([label in one for one in clips.labels], cosine[:, i])
           for i, label in enumerate(result.labels)]  # fmt: skip
    assert result.rows[POOLED][0].value == pytest.approx(np.mean(own), abs=1e-6) and len(result.labels) == 4


def refusal(model, data, name, **settings):
    """Why a task failed, with the others of its suite measured."""
    done = run_suite(model, "environment", data=data, progress=False, **settings)
    assert name not in [result.task.name for result in done.results]
    return done.failed[name]


def test_what_is_wrong_with_the_data_gives_no_number(data, tmp_path, model):
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    genres = TASKS["gtzan"].labels
    everything = [[genre] for genre in genres for _ in range(2)]
    wrong = {
        "which is none of the 10 candidates: blues, classical": [*everything, ["polka"]],
        "no clip carries 'rock'": everything[:-2],
        r"1 of 21 clips have no label": [*everything, []],
        r"1 of 21 clips have several labels": [*everything, ["pop", "rock"]],
    }
    for message, labels in wrong.items():
        shutil.rmtree(mine / "gtzan")
        write_corpus(mine / "gtzan", ["all"], [labels])
        assert message in refusal(model, mine, "gtzan")
    shutil.rmtree(mine / "gtzan" / "all")
    (mine / "gtzan" / "all").mkdir()
    assert "holds no sound files" in refusal(model, mine, "gtzan")
    esc10 = mine / "esc10"
    shutil.rmtree(esc10 / "fold4")
    failed = run_suite(model, "esc", data=mine, progress=False)
    assert f"{esc10 / 'fold4'} is not there; the task needs fold1, fold2, fold3, fold4" in failed.failed["esc10"]
    assert not failed.results and [one.task.name for one in failed.missing] == ["esc50"]
    shutil.copytree(esc10 / "fold1", esc10 / "fold4")
    failed = run_suite(model, "esc", data=mine, progress=False)
    assert "two clips have the id 'fold1-0'" in failed.failed["esc10"]
    (mine / "audioset" / "environment" / "00000.tar").write_bytes(b"")
    (mine / "audioset" / "environment" / "00000.index.json").unlink()
    assert refusal(model, mine, "audioset_environment")


def test_too_many_bad_sounds_give_no_number(tmp_path, model):
    folder = tmp_path / "data" / "gtzan" / "all"
    for genre in TASKS["gtzan"].labels:
        for number in range(2):
            (folder / genre).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / genre / f"{number}.wav", tone(300 + 50 * number, 0.3), 16_000)
    (folder / "rock" / "1.wav").write_bytes(b"no sound")
    assert "1 of 20 clips cannot be used, more than 1.00%:\n  rock/1" in refusal(model, tmp_path / "data", "gtzan")
    done = run_suite(model, "gtzan", data=tmp_path / "data", bad_share=0.1, progress=False)
    assert done.results[0].rows[POOLED][0].n == 19 and done.results[0].clips.bad[0].key == "rock/1"
    (folder / "rock" / "0.wav").write_bytes(b"no sound")
    done = run_suite(model, "gtzan", data=tmp_path / "data", bad_share=0.1, progress=False)
    assert "no clip carries 'rock'" in done.failed["gtzan"]


def test_broken_models_give_no_number(data, trained):
    for part in ("audio", "text"):
        broken = atr.load(trained)
        getattr(broken.clap, f"{part}_projection")[-1].weight.data[0, 0] = torch.nan
        done = run_suite(broken, "gtzan", data=data, progress=False)
        assert not done.results and "NaN or infinite embeddings" in done.failed["gtzan"]
    clips = replace(read_set([data / "gtzan" / "all"]), labels=[["a"]] * 10 + [["b"]] * 10)
    with pytest.raises(DataError, match="NaN or infinite embeddings for labels"):
        classify_set(broken, clips, Task(name="own", title="Own"), find_prompts(["bare"]), progress=False)


def test_wrong_usage(data, model):
    for settings in ({"suite": "nature"}, {"prompts": ["mine"]}, {"templates": ["a dog"]}, {"windows": "each"}):
        with pytest.raises(UsageError):
            run_suite(model, data=data, progress=False, **settings)
