"""The plan: which clip goes into which shard."""

from dataclasses import replace

from atr.shards.plan import make_plan, read_part
from atr.types import BadSample, Clip


def clip(name, **fields):
    return Clip(id=name, audio=f"/raw/{name}.wav", **fields)


def plan_of(tmp_path, rows, size=2, **options):
    tmp_path.mkdir(exist_ok=True)
    return make_plan(rows, tmp_path, size, **options)


def test_shards_are_slices_of_one_order_that_depends_on_the_ids_only(tmp_path):
    rows = [clip(f"c{number}", captions=[f"sound {number}"]) for number in range(5)]
    plan = plan_of(tmp_path / "a", rows)
    assert (plan.counts, plan.clips, plan.rejected) == ([2, 2, 1], 5, 0)
    shards = [[one.id for one in plan.shard(number)] for number in range(3)]
    names = [name for shard in shards for name in shard]
    assert sorted(names) == ["c0", "c1", "c2", "c3", "c4"] != names
    assert [one for number in range(3) for one in plan.shard(number)] == list(read_part(plan.path, 0, 9))
    again = plan_of(tmp_path / "b", rows[::-1])
    assert again.sha256 == plan.sha256 and again.path.read_bytes() == plan.path.read_bytes()
    other = plan_of(tmp_path / "c", [replace(rows[0], captions=["another"]), *rows[1:]])
    assert other.sha256 != plan.sha256
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "plan.jsonl", "rejected.jsonl", "remarks.jsonl",
    ]  # fmt: skip


def test_rows_of_the_same_stretch_become_one_clip(tmp_path):
    rows = [
        clip("a", captions=["one", "two"], labels=["x"], start=1.0),
        clip("a", captions=["two", "three"], labels=["y"], start=1.0, questions=[("what?", "a dog")]),
    ]
    plan = plan_of(tmp_path, rows)
    (joined,) = plan.shard(0)
    assert joined.captions == ["one", "two", "three"] and joined.labels == ["x", "y"]
    assert joined.questions == [("what?", "a dog")]


def test_other_sounds_of_the_same_key_are_rejected_and_named(tmp_path):
    rows = [clip("a b"), clip("a_b"), replace(clip("a b"), start=5.0)]
    plan = plan_of(tmp_path, rows)
    assert [one.id for one in plan.shard(0)] == ["a b"] and plan.rejected == 2
    text = (tmp_path / "rejected.jsonl").read_text()
    assert "gives the same key 'a_b' as 'a b' (/raw/a b.wav) and is another sound (/raw/a b.wav from 5 s)" in text


def test_bad_rows_and_excluded_sources_are_listed(tmp_path):
    rows = [
        clip("a", source="youtube:1"), clip("b", source="youtube:2"), BadSample("table.csv:7", "has 3 cells"),
        clip("c", captions=["\ud800"]),
    ]  # fmt: skip
    rows.append(BadSample("extra.csv:1", "describes no clip", clips=0))
    counted = []
    plan = plan_of(tmp_path, rows, exclude=frozenset(["youtube:2"]), on_row=lambda: counted.append(1))
    assert [one.id for one in plan.shard(0)] == ["a"] and len(counted) == 5
    text = (tmp_path / "rejected.jsonl").read_text()
    assert "its source 'youtube:2' is on an exclusion list" in text
    assert '{"clip": "table.csv:7", "reason": "has 3 cells"}' in text and plan.rejected == 3
    assert '{"clip": "c", "reason": "its name, its text or a number cannot be written as JSON in UTF-8; rename' in text
    assert "extra.csv:1" in (tmp_path / "remarks.jsonl").read_text() and "extra" not in text


def test_rows_that_no_manifest_can_hold_are_rejected(tmp_path):
    rows = [clip("a"), clip(""), clip("b\udcff"), clip("c", start=float("nan"))]
    plan = plan_of(tmp_path, rows)
    assert [one.id for one in plan.shard(0)] == ["a"] and plan.rejected == 3
    text = (tmp_path / "rejected.jsonl").read_text()
    assert '{"clip": "/raw/.wav", "reason": "its id is empty; give it one"}' in text


def test_no_rows(tmp_path):
    plan = plan_of(tmp_path, [])
    assert (plan.counts, plan.offsets, plan.clips) == ([], [0, 0], 0)
