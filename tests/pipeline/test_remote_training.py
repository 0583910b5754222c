"""Training from remote shards: the same batches as from local ones, with a cache smaller than the data."""

import pytest
import torch

from atr.errors import UsageError
from atr.experiment import train
from atr.pipeline.mixture import Mixture
from atr.shards.read import ShardSet
from atr.shards.write import write_shards
from tests.pipeline.test_datamodule import epoch, module
from tests.shards.server import Server


@pytest.fixture
def eight(tmp_path, clips):
    """Eight shards of two clips, and a server of them."""
    write_shards(clips, tmp_path / "eight", codec="flac", clips_per_shard=2)
    server = Server()
    for path in (tmp_path / "eight").iterdir():
        server.files[path.name] = path.read_bytes()
    server.files["sizes.json"] = b"{%s}" % b", ".join(b'"%05d.tar": 2' % n for n in range(8))
    yield tmp_path / "eight", server
    server.shutdown()
    server.server_close()


def waveforms(data, epochs=2):
    return torch.cat([batch.waveform for number in range(epochs) for batch in epoch(data, number)])


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr("atr.shards.transfer.FIRST_PAUSE", 0.01)


@pytest.mark.parametrize("mode", ["plain", "drop"])
@pytest.mark.parametrize("workers", [0, 2])
def test_remote_batches_are_the_local_ones(eight, tmp_path, tokenizer, mode, workers):
    folder, server = eight
    mixture = Mixture(window=2)
    local = waveforms(module(folder, tokenizer, mixture=mixture))
    one_shard = max(len(content) for name, content in server.files.items() if name.endswith(".tar"))
    gb = 5 * one_shard / 1e9  # 5 of 8 shards
    data = module("", tokenizer, train=[f"{server.url}/{mode}"], test=[], mixture=mixture, num_workers=workers,
                  cache=str(tmp_path / "cache"), cache_gb=gb)  # fmt: skip
    assert torch.equal(waveforms(data), local)
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar")) <= 5 * one_shard


def test_shards_without_an_index_beside_them_are_fetched_once(eight, tmp_path, tokenizer):
    folder, server = eight
    server.files = {name: content for name, content in server.files.items() if not name.endswith(".index.json")}
    place = f"{server.url}/plain/{{00000..00007}}.tar"
    settings = {"train": [place], "test": [], "cache": str(tmp_path / "cache")}
    assert torch.equal(waveforms(module("", tokenizer, **settings)), waveforms(module(folder, tokenizer)))
    assert all(server.requests[f"/plain/{n:05d}.tar"] == 1 for n in range(8))
    module("", tokenizer, **settings)  # the indexes stay in the cache
    assert all(server.requests[f"/plain/{n:05d}.index.json"] == 1 for n in range(8))


def test_a_shard_that_cannot_be_fetched_costs_its_samples_and_is_named(eight, tmp_path, tokenizer):
    _folder, server = eight
    data = module("", tokenizer, train=[f"{server.url}/plain"], test=[], cache=str(tmp_path / "cache"))
    del server.files["00003.tar"]
    bad = {one.key: one.reason for number in range(2) for batch in epoch(data, number) for one in batch.bad}
    assert set(bad) == {f"{server.url}/plain/00003.tar:note{n:02d}" for n in (6, 7)}
    assert all("not found" in reason and "check the URL" in reason for reason in bad.values())
    assert server.requests["/plain/00003.tar"] <= 3  # prefetching and reading; then it is remembered


def test_a_shard_that_was_replaced_is_not_mixed_up_with_the_old_one(eight, tmp_path, tokenizer):
    _folder, server = eight
    data = module("", tokenizer, train=[f"{server.url}/plain"], test=[], cache=str(tmp_path / "cache"))
    content = bytearray(server.files["00003.tar"])
    content[5000] ^= 1
    server.files["00003.tar"] = bytes(content)
    bad = {one.key: one.reason for batch in epoch(data) for one in batch.bad}
    assert len(bad) == 2 and all("SHA-256" in reason and "delete" in reason for reason in bad.values())


def test_coming_shards_are_fetched_before_they_are_read(eight, tmp_path, tokenizer):
    _folder, server = eight
    data = module("", tokenizer, train=[f"{server.url}/plain"], test=[], mixture=Mixture(window=2),
                  cache=str(tmp_path / "cache"))  # fmt: skip
    asked: list[list[int]] = []
    data._announce = asked.append
    loader = iter(data.train_dataloader())
    next(loader)
    first = len({shard for shards in asked for shard in shards})
    assert 3 <= first <= 5  # this window's two shards and the next one's
    list(loader)
    assert sorted({shard for shards in asked for shard in shards}) == list(range(8))


def test_windows_that_do_not_fit_are_refused_with_one_that_does(eight, tmp_path, tokenizer):
    _folder, server = eight
    settings = {"train": [f"{server.url}/plain"], "test": [], "cache": str(tmp_path / "cache")}
    gb = 4.5 * max(len(content) for name, content in server.files.items() if name.endswith(".tar")) / 1e9
    with pytest.raises(UsageError, match=r"window=null needs .* set data.cache_gb higher, or data.mixture.window=2"):
        module("", tokenizer, cache_gb=gb, **settings)
    module("", tokenizer, cache_gb=gb, mixture=Mixture(window=2), **settings)


def test_pipes_are_shards_too(eight, tmp_path, tokenizer):
    folder, _ = eight
    data = module("", tokenizer, train=[f"pipe:cat {folder}/{{00000..00007}}.tar"], test=[],
                  cache=str(tmp_path / "cache"))  # fmt: skip
    assert torch.equal(waveforms(data), waveforms(module(folder, tokenizer)))


def test_no_secret_of_a_url_is_shown(eight, tmp_path, tokenizer):
    _, server = eight
    url = server.url.replace("http://", "http://me:secret@") + "/plain/00000.tar?signature=hidden"
    from atr.shards.cache import ShardCache

    shards = ShardSet([url], ShardCache(tmp_path / "cache", 10**9))
    assert "secret" not in shards.name(0) and "hidden" not in shards.name(0) and "00000.tar:note00" in shards.name(0)


def test_a_run_trains_from_a_server(eight, tmp_path, tiny, capsys):
    _, server = eight
    numbers = train(tiny(f"data.train=['{server.url}/drop']", f"data.cache={tmp_path / 'cache'}"))
    assert numbers["clips"] == 16 and "skipped" not in capsys.readouterr().out


def test_local_data_makes_no_cache(eight, tmp_path, tokenizer):
    folder, _ = eight
    module(folder, tokenizer, cache=str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
