"""Where the Inception weights are looked for, and what is refused."""

import hashlib
from pathlib import Path

import pytest
import torch
from random_inception import random_state, smooth_images
from torch import nn

from fewstep.eval import Features, FeatureStatistics, Report, evaluate, fid
from fewstep.eval.extractors import inception_weights as weights
from fewstep.eval.extractors.inception import InceptionV3, _plain
from fewstep.eval.extractors.inception_weights import NAMES, SCRIPT, VARIABLE, load_weights
from fewstep.eval.gaussian.features import Meta
from fewstep.eval.gaussian.statfile import load, save


@pytest.fixture(scope="module")
def state():
    return random_state()


@pytest.fixture(scope="module")
def expected():
    return _plain().state_dict()


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    """The random weights as a .pth, and its hash."""
    path = tmp_path_factory.mktemp("weights") / "some.pth"
    torch.save(state, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def machine(tmp_path, monkeypatch, saved):
    """A machine without weights, on which the random ones would be the right ones."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(weights, "DIGEST", saved[1])
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    return weights.places()


def same(loaded, state, published=True):
    found = loaded.state
    assert loaded.published is published
    return found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


def test_peers_keep_the_file_in_torchs_hub_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    hub = tmp_path / "hub" / "checkpoints"
    assert weights.places() == [hub / name for name in NAMES]
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.places()[0] == tmp_path / "torch/hub/checkpoints" / NAMES[0]


@pytest.mark.parametrize("place", [0, 1])
def test_a_peers_file_is_found(machine, saved, state, expected, place):
    machine[place].symlink_to(saved[0])
    assert same(load_weights(None, expected), state)


def test_a_named_file_comes_first_then_the_variable(machine, saved, state, expected, monkeypatch):
    assert same(load_weights(saved[0], expected), state)
    monkeypatch.setenv(VARIABLE, str(saved[0]))
    assert same(load_weights(None, expected), state)
    monkeypatch.setenv(VARIABLE, "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=f"no file 'nowhere.pth' .the environment variable {VARIABLE}"):
        load_weights(None, expected)


def test_without_weights_one_sentence_names_the_file_and_every_place(machine):
    with pytest.raises(FileNotFoundError) as error:
        InceptionV3()
    message = str(error.value)
    assert NAMES[0] in message and VARIABLE in message and "--weights" in message and "--download" in message
    assert all(str(place) in message for place in machine) and "\n" not in message


def test_a_file_with_another_hash_is_refused(tmp_path, saved, expected):
    with pytest.raises(
        ValueError, match=f"{saved[0].name} is not the .* begins with {saved[1][:8]}, expected 6726825d"
    ):
        load_weights(saved[0], expected)


def test_a_truncated_download_in_a_cache_is_passed_over_and_told(machine, saved, state, expected):
    machine[0].write_bytes(saved[0].read_bytes()[:100_000])
    with pytest.raises(FileNotFoundError, match="or not all of it: its sha256 begins with"):
        load_weights(None, expected)
    machine[1].symlink_to(saved[0])
    assert same(load_weights(None, expected), state)


def test_another_networks_weights_are_refused(state, expected):
    with pytest.raises(ValueError, match=r"2 of 472 differ, e.g. fc.bias is \(1000,\), expected \(1008,\)"):
        load_weights({**state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, expected)
    with pytest.raises(ValueError, match="fc.bias is missing"):
        load_weights({name: w for name, w in state.items() if name != "fc.bias"}, expected)
    with pytest.raises(ValueError, match="not finite, e.g. in fc.bias"):
        load_weights({**state, "fc.bias": state["fc.bias"] * torch.nan}, expected)


def test_batch_norms_counters_make_no_difference(state):
    counted = {
        **state,
        **{f"{name[:-12]}num_batches_tracked": torch.tensor(7) for name in state if "running_mean" in name},
    }
    assert InceptionV3(counted).hash == InceptionV3(state).hash


def test_a_download_is_checked_before_it_gets_its_name(machine, saved, state, expected, monkeypatch):
    monkeypatch.setattr(weights, "URL", saved[0].as_uri())
    assert same(load_weights(None, expected, download=True), state)
    assert machine[0].is_file() and [p.name for p in machine[0].parent.iterdir()] == [NAMES[0]]
    machine[0].unlink()
    monkeypatch.setattr(weights, "DIGEST", "0" * 64)
    with pytest.raises(FileNotFoundError, match="cannot fetch file://.*invalid hash value"):
        load_weights(None, expected, download=True)
    assert not list(machine[0].parent.iterdir())


class _Convolution(nn.Module):
    def __init__(self, state, name):
        super().__init__()
        self.weight = nn.Parameter(state[f"{name}.conv.weight"])
        for theirs, ours in (("beta", "bias"), ("mean", "running_mean"), ("var", "running_var")):
            self.register_buffer(theirs, state[f"{name}.bn.{ours}"])

    def forward(self, x):
        return x


class _Tree(nn.Module):
    def forward(self, x):
        return x


@pytest.fixture(scope="module")
def script(state, tmp_path_factory):
    """A TorchScript with these weights under that file's names, and the weights as it has them: no gamma."""
    plain = {name: torch.ones_like(w) if name.endswith("bn.weight") else w for name, w in state.items()}
    root = _Tree()
    for theirs, ours in weights._modules():
        *folders, leaf = f"layers.{theirs}".split(".")
        node = root
        for folder in folders:
            if not hasattr(node, folder):
                node.add_module(folder, _Tree())
            node = getattr(node, folder)
        node.add_module(leaf, _Convolution(plain, ours))
    root.output = nn.Linear(2048, 1008)
    root.output.load_state_dict({"weight": plain["fc.weight"], "bias": plain["fc.bias"]})
    path = tmp_path_factory.mktemp("scripts") / SCRIPT
    torch.jit.script(root).save(str(path))
    return path, plain


def test_clean_fids_torchscript_is_read_under_its_own_names(script, expected):
    """The whole tree is written and found again; the names are those of that file, checked one of each kind below."""
    assert same(load_weights(script[0], expected), script[1], published=False)
    pairs = dict(weights._modules())
    assert len(pairs) == 94
    for theirs, ours in {
        "conv": "Conv2d_1a_3x3",
        "conv_4": "Conv2d_4a_3x3",
        "mixed.conv": "Mixed_5b.branch1x1",
        "mixed_1.tower.conv_1": "Mixed_5c.branch5x5_2",
        "mixed_2.tower_1.conv_2": "Mixed_5d.branch3x3dbl_3",
        "mixed_2.tower_2.conv": "Mixed_5d.branch_pool",
        "mixed_3.conv": "Mixed_6a.branch3x3",
        "mixed_3.tower.conv_2": "Mixed_6a.branch3x3dbl_3",
        "mixed_6.conv": "Mixed_6d.branch1x1",
        "mixed_7.tower_1.conv_4": "Mixed_6e.branch7x7dbl_5",
        "mixed_8.tower.conv_1": "Mixed_7a.branch3x3_2",
        "mixed_8.tower_1.conv_3": "Mixed_7a.branch7x7x3_4",
        "mixed_9.tower_conv": "Mixed_7b.branch3x3_1",
        "mixed_9.tower_mixed_conv_1": "Mixed_7b.branch3x3_2b",
        "mixed_10.tower_1_conv_1": "Mixed_7c.branch3x3dbl_2",
        "mixed_10.tower_1_mixed_conv": "Mixed_7c.branch3x3dbl_3a",
        "mixed_10.tower_2_conv": "Mixed_7c.branch_pool",
    }.items():
        assert pairs[theirs] == ours


def test_a_pickle_is_not_opened(tmp_path, expected):
    path = Path(tmp_path, "inception-2015-12-05.pkl")
    path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ValueError, match="sha256 begins with"):
        load_weights(path, expected)


# What is not the published file


def test_a_torchscript_is_not_searched_for_where_everybody_writes(machine, script, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / SCRIPT).symlink_to(script[0])
    machine[0].with_name(SCRIPT).symlink_to(script[0])
    with pytest.raises(FileNotFoundError, match=f"clean-fid's {SCRIPT} too") as caught:
        load_weights(None, expected)
    assert all(fact in str(caught.value) for fact in (weights.NAMES[0], "91 MiB", weights.DIGEST, weights.URL))


def test_a_torchscript_is_known_by_its_sha256(script, expected, monkeypatch):
    monkeypatch.setattr(weights, "SCRIPT_DIGEST", hashlib.sha256(script[0].read_bytes()).hexdigest())
    assert same(load_weights(script[0], expected), script[1], published=True)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a script", b"no archive at all"])
def test_what_is_no_torchscript_says_so(tmp_path, expected, content):
    path = tmp_path / SCRIPT
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{SCRIPT} cannot be read as weights"):
        load_weights(path, expected)


def test_bytes_are_hashed_before_they_are_loaded(tmp_path, expected, monkeypatch):
    (tmp_path / "w.pth").write_bytes(b"something else")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="sha256 begins with"):
        load_weights(tmp_path / "w.pth", expected)


def features(published, seed, hash="abc"):
    x = torch.rand(30, 4, generator=torch.Generator().manual_seed(seed))
    meta = Meta("inception", "tf", hash, published=published)
    return Features(30, {"main": FeatureStatistics(4).update(x)}, {"main": x.numpy()}, meta)


@pytest.mark.parametrize(
    ("real", "generated", "label"),
    [(True, True, "FID"), (False, False, "FD-inception"), (True, None, "FID"), (None, False, "FD-inception"),
     (True, False, "FID"), (None, None, "FD-inception (weights unknown)")],
)  # fmt: skip
def test_only_published_weights_give_what_is_called_fid(real, generated, label):
    """Weights of one hash are the same: what one side knows of them, both know."""
    report = evaluate(features(real, 0), features(generated, 1), ("fid", "kid_full"))
    assert report["fid"].label == label
    told = [report.table(), str(report["fid"]), report.to_json()]
    if label == "FID":
        assert report["kid_full"].label == "KID-full" and "weights abc" not in told[1]
    elif real is generated is None:
        assert report["kid_full"].label == "KID-full-inception (weights unknown)" and "FID " not in told[1]
    else:
        assert report["kid_full"].label == "KID-full-inception"
        assert all("abc" in text and "FID " not in text.replace("not FID", "") for text in told[:2])
        assert told[0].count("weights abc") >= 2 and "is not FID" in told[0]
    assert ("is not recorded" in told[0]) == (real is None and generated is None)
    assert Report.from_json(told[2])["fid"] == report["fid"]


def test_random_weights_are_not_called_fid(state):
    """From a state dict, whose origin nobody knows; a file of its statistics says so too."""
    network = InceptionV3(state)
    assert network.published is False
    found = fid(smooth_images(3, 16, 16), smooth_images(3, 16, 16, seed=1), extractor=network, progress=False)
    assert found.label == "FD-inception" and network.hash in str(found)


def test_a_file_keeps_whether_its_weights_were_the_published_ones(tmp_path):
    for published in (True, False, None):
        save(tmp_path / "s.npz", features(published, 0))
        assert load(tmp_path / "s.npz").meta.published is published
