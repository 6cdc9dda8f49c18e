"""Which images each process was given is said and checked, and none waits for one that does not come."""

import json
import socket
import threading
import time

import pytest
import torch
from processes import launched
from torch.distributed import HashStore

from fewstep import eval as fe
from fewstep.eval.group import launching, meeting
from fewstep.eval.group.meeting import Absent
from fewstep.eval.images import image_set
from fewstep.eval.passes.processes import Elsewhere, Processes

CPU = torch.device("cpu")


@pytest.fixture
def store(monkeypatch):
    made = HashStore()
    monkeypatch.setattr(meeting.distributed_c10d, "_get_default_store", lambda: made)
    return made


def at_once(size, do, **how):
    """What do(processes) gives or raises in each of several, which are threads here."""
    found = [None] * size

    def one(rank):
        try:
            found[rank] = do(Processes(CPU, rank, size, **how))
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found


def test_all_hear_all_and_nothing_is_left(store):
    def often(processes):
        return [processes.meet(f"{k} of {processes.rank}") for k in range(30)]

    found = at_once(3, often)
    assert found == [[[f"{k} of {r}" for r in range(3)] for k in range(30)]] * 3
    assert store.num_keys() < 3 * (meeting.KEPT + 3)


def test_who_does_not_come_is_named_and_others_can_meet_again(store):
    def late(processes):
        return None if processes.rank == 1 else processes.meet("here", 0.2)

    first, _, third = at_once(3, late)
    assert isinstance(first, Absent) and isinstance(third, Absent)
    for error in (first, third):
        assert "process 1 of 3 did not come" in str(error) and "processes='alone'" in str(error)
    assert at_once(3, lambda processes: processes.meet("x", 5)) == [["x"] * 3] * 3


def test_an_error_of_one_is_raised_by_all_and_the_next_evaluation_goes_on(store):
    def failing(processes):
        with processes.guarded(), processes.guarded():
            if processes.rank == 1:
                raise ValueError("its disk is full")
            processes.meet()

    first, second, third = at_once(3, failing)
    assert str(second) == "its disk is full" and isinstance(first, Elsewhere) and isinstance(third, Elsewhere)
    assert "process 1 could not go on" in str(first) and "its disk is full" in str(first)
    for _ in range(6):
        at_once(3, failing)
    assert at_once(3, lambda processes: processes.meet("x", 5)) == [["x"] * 3] * 3


@pytest.mark.parametrize(
    ("share", "facts", "said"),
    [
        ("shared", lambda rank: {"images": f"{rank // 2}"}, "processes 0 and 2 were given different images.*'own'"),
        ("shared", lambda rank: {"images": "a", "references": lambda: str(rank)}, "different references"),
        ("own", lambda rank: {"images": f"{rank % 2}"}, "processes 0 and 2 were given the same images.*'shared'"),
        ("shared", lambda rank: {"questions": "fid" if rank else "kid"}, "different questions"),
    ],
)
def test_other_images_than_were_meant_are_refused(store, share, facts, said):
    def agree(processes):
        processes.agree(lambda: facts(processes.rank), own=("images",) if processes.own else ())

    for error in at_once(3, agree, share=share):
        assert isinstance(error, ValueError)
        pytest.raises(ValueError, lambda error=error: (_ for _ in ()).throw(error)).match(said)


def test_a_copy_of_a_folder_is_the_same_and_other_pictures_are_not(tmp_path):
    from PIL import Image

    for name, value in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name).mkdir()
        for k in range(3):
            Image.new("RGB", (5, 5), (value, k, 0)).save(tmp_path / name / f"{k}.png")
        time.sleep(0.01)
    a, b, c = (image_set(tmp_path / name) for name in "abc")
    assert a.fingerprint != b.fingerprint and a.content == b.content != c.content


@pytest.mark.parametrize(
    ("named", "local", "current", "expected"),
    [
        ("cuda:1", "0", 0, "cuda:1"),  # what is named stays
        (None, "1", 0, "cuda:1"),
        ("cuda", "3", 0, "cuda:1"),  # of two
        ("cuda", "0", 1, "cuda:1"),  # torch.cuda.set_device was called
        ("cpu", "1", 0, "cpu"),
    ],
)
def test_the_device_of_a_process(monkeypatch, named, local, current, expected):
    for name, value in {"RANK": local, "WORLD_SIZE": "4", "LOCAL_RANK": local}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launching, "chosen_device", lambda name: torch.device(name or "cuda"))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(launching.placed(named)) == expected


@pytest.mark.parametrize(
    ("config", "device", "channel"),
    [("cpu:gloo,cuda:gloo", "cuda:1", "cpu"), ("cuda:nccl", "cuda:1", "cuda:1"), ("cuda:nccl", "cpu", "cuda:0")],
)
def test_tensors_are_sent_from_where_the_backend_can(monkeypatch, config, device, channel):
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: config)
    monkeypatch.setattr("fewstep.eval.passes.processes.placed", lambda _: torch.device("cuda:0"))
    assert str(Processes(torch.device(device), 0, 2).channel) == channel


def test_bad_input():
    images = torch.zeros(9, 3, 28, 28, dtype=torch.uint8)
    with pytest.raises(ValueError, match="unknown `processes` 'every'"):
        fe.fid("mnist", images, processes="every")
    with pytest.raises(ValueError, match="wait"):
        fe.fid("mnist", images, wait=-1)
    with pytest.raises(ValueError, match="one set of seeds"):
        fe.curve("demo", real="mnist", processes="own")


# Processes that torchrun starts, with gloo

METRICS = ("fid", "kid_full", "kid", "prdc")
SPLITS = """
dist.init_process_group("gloo")
metrics, how = {metrics!r}, {{"extractor": EXTRACTOR, "options": {{"kid": {{"subset_size": 50, "subsets": 20}}}}}}
told = {{}}

def told_of(name, report):
    found = [[r.value, r.error, r.n] for r in report.values()]
    assert all(other == found for other in dist_gather(found))
    told[name] = found

def dist_gather(value):
    found = [None] * size
    dist.all_gather_object(found, value)
    return found

even = [list(range(r, 300, size)) for r in range(size)]
uneven = even if size == 1 else [list(range(0, 291)), list(range(291, 300)), []][:size]
for name, cut, numbered in (("even", even, False), ("numbered", even, True), ("uneven", uneven, True)):
    meter = fe.Meter(REAL, metrics, **how)
    for k in range(0, len(cut[rank]), 33):
        some = cut[rank][k : k + 33]
        meter.update(IMAGES[some], index=some if numbered else None)
        if name == "even" and k == 33:
            state = meter.state_dict()
            meter = fe.Meter(REAL, metrics, **how)
            meter.load_state_dict(state)
    told_of(name, meter.compute())
    told_of(name, meter.compute())
meter = fe.Meter(None, metrics, processes="shared", **how)
meter.update(REAL, real=True)
for part in IMAGES.split(70):
    meter.update(part)
told_of("shared", meter.compute())
told_of("evaluate shared", fe.evaluate(REAL, IMAGES, metrics, progress=False, **how))
told_of("evaluate own", fe.evaluate(REAL, IMAGES[rank::size], metrics, processes="own", **how))
told_of("streams", fe.evaluate(REAL, iter([IMAGES[rank::size]]), metrics, processes="own", **how))
alone = fe.evaluate(REAL, IMAGES, metrics, processes="alone", **how)
told_of("alone", alone)
if rank == 0:
    import json
    print(json.dumps(told))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3])
def test_any_number_of_processes_gives_what_one_does(tmp_path, size):
    told = json.loads(launched(tmp_path, size, SPLITS.format(metrics=METRICS)))
    want = told.pop("alone")
    assert len(told) == 7
    for name, found in told.items():
        for (value, error, n), (other, its, number) in zip(found, want, strict=True):
            assert value == pytest.approx(other, rel=1e-12) and n == number, name
            assert error == (None if its is None else pytest.approx(its, rel=1e-9)), name


REFUSED = """
dist.init_process_group("gloo")

def refused(call, *said):
    try:
        call()
    except (ValueError, TimeoutError) as error:
        assert any(one in str(error) for one in said), error
    else:
        raise AssertionError(said)
    dist.barrier()

def meter(real, images, **how):
    return fe.Meter(real, extractor=EXTRACTOR, **how).update(images).compute()

how = {"extractor": EXTRACTOR, "progress": False}
refused(lambda: fe.fid(REAL, IMAGES[rank::size], **how), "different images")
refused(lambda: fe.fid(REAL + rank, IMAGES, **how), "different references")
refused(lambda: fe.fid(REAL, IMAGES, processes="own", **how), "same images")
refused(lambda: fe.fid(REAL, iter([IMAGES]), processes="own", **how), "same images")
refused(lambda: fe.fid(REAL, iter([IMAGES]), **how), "can be read once")
refused(lambda: fe.stats(IMAGES[rank:], **how), "different images")
refused(lambda: meter(REAL + rank, IMAGES[rank::size]), "different references")
refused(lambda: meter(REAL, IMAGES), "same images")
refused(lambda: meter(REAL, IMAGES[rank::size], processes="shared"), "different images")
refused(lambda: fe.Meter(REAL, extractor=EXTRACTOR).compute(), "was given 0")
bad = [image.float() / 255 for image in IMAGES[rank::size]]
bad[-1] = bad[-1] * (float("nan") if rank else 1)
refused(lambda: fe.fid(REAL, (x for x in bad), processes="own", range=(0, 1), **how), "NaN", "process 1 could not go on")
refused(lambda: fe.evaluate(REAL, IMAGES, (("kid_full", "fid")[rank],), **how), "different questions")
if rank == 0:
    refused_alone = None
    try:
        fe.fid(REAL, IMAGES, wait=1, **how)
    except TimeoutError as error:
        refused_alone = str(error)
    assert "process 1 of 2 did not come" in refused_alone
    fe.fid(REAL, IMAGES, processes="alone", **how)
dist.barrier()
assert fe.fid(REAL, IMAGES, **how).n == 300
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_are_refused_what_would_be_wrong_without_a_word(tmp_path):
    launched(tmp_path, 2, REFUSED)


@pytest.mark.slow
def test_a_group_that_nobody_else_joins(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    script = """
    try:
        fe.fid(REAL, IMAGES, extractor=EXTRACTOR, wait=2)
    except TimeoutError as error:
        print(error)
    print(fe.fid(REAL, IMAGES, extractor=EXTRACTOR, processes="alone").n)
    """
    said = launched(tmp_path, 1, script, launcher=False, **place)
    assert "2 processes, and the others did not come within 2 seconds" in said and said.strip().endswith("300")
