"""A file on its way from a command line or a config to rows is read, proved and hashed once."""

import pytest
import torch
from command_line import run
from learnt import artefact

import fewstep
from fewstep import Denoiser, sample
from fewstep.samplers.artefact import file
from fewstep.samplers.schedule.discrete import Discrete
from fewstep.samplers.table import jsonfile, tableau


@pytest.fixture
def counted(monkeypatch):
    """How often JSON was read, a table proved, a whole artefact hashed, a config turned into a scheduler."""
    from fewstep.samplers.scheduler import config as adopting

    counts = {"read": 0, "proved": 0, "hashed": 0, "configured": 0}

    def counting(name, function, counts_if=lambda *_: True):
        def call(*args, **kwargs):
            counts[name] += bool(counts_if(*args))
            return function(*args, **kwargs)

        return call

    import fewstep.samplers.artefact.loading as loading
    import fewstep.samplers.table.stored as stored

    monkeypatch.setattr(loading, "read", counting("read", jsonfile.read))
    monkeypatch.setattr(file, "read", counting("read", jsonfile.read))
    monkeypatch.setattr(stored, "Tableau", counting("proved", tableau.Tableau))
    whole = lambda content: isinstance(content, dict) and "tables" in content  # noqa: E731  # an artefact, not a schedule
    monkeypatch.setattr(file, "digest", counting("hashed", file.digest, whole))
    made = adopting.Adopting.from_config.__func__
    monkeypatch.setattr(adopting.Adopting, "from_config", classmethod(counting("configured", made)))
    return counts


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "learned.json"
    fewstep.load_demo_artefact().save(path)
    return path


def tables(path):
    return len(fewstep.load(path).tables)


def test_scheduler_from_a_file(saved, counted):
    config = fewstep.load_demo_pipeline().scheduler.config
    n = tables(saved)
    counted.update(dict.fromkeys(counted, 0))
    scheduler = fewstep.Scheduler.from_config(config, learned=saved)
    scheduler.set_timesteps(5)
    fewstep.Scheduler.from_config(scheduler.config).set_timesteps(4)
    assert (counted["read"], counted["proved"], counted["hashed"]) == (1, n, 1)


def test_scheduler_from_an_artefact_reads_and_proves_nothing(saved, counted):
    made = fewstep.load(saved)
    config = fewstep.load_demo_pipeline().scheduler.config
    counted.update(dict.fromkeys(counted, 0))
    fewstep.Scheduler.from_config(config, learned=made).set_timesteps(5)
    assert (counted["read"], counted["proved"], counted["hashed"]) == (0, 0, 0)


def test_an_artefact_made_here_is_hashed_once(counted):
    made = artefact(fewstep.NoiseSchedule.vp_linear(), 4, 5)
    counted.update(dict.fromkeys(counted, 0))
    assert made.hash == made.hash and made.to_dict()["hash"] == made.hash and made == made
    assert counted["hashed"] <= 1


def test_sample_on_the_command_line(saved, counted, tmp_path):
    n = tables(saved)
    counted.update(dict.fromkeys(counted, 0))
    result = run(
        "sample", "demo", "--learned", saved, "--nfe", 3, "-n", 3, "--batch-size", 1, "--out", tmp_path / "x.png"
    )
    assert "3 images" in result.output
    assert (counted["read"], counted["proved"], counted["hashed"]) == (1, n, 1)


def test_sample_with_the_file_of_a_table(counted, tmp_path):
    schedule = fewstep.NoiseSchedule.from_config(fewstep.load_demo_pipeline().scheduler.config)
    assert isinstance(schedule, Discrete)
    path = tmp_path / "table.json"
    fewstep.build("dpmpp_2m", schedule, 3).save(path)
    counted.update(dict.fromkeys(counted, 0))
    run("sample", "demo", "--solver", path, "-n", 2, "--batch-size", 1, "--out", tmp_path / "x.png")
    assert (counted["read"], counted["proved"]) == (1, 1)


def test_a_pipeline_denoiser_reads_the_config_once(counted):
    pipe = fewstep.load_demo_pipeline()
    counted.update(dict.fromkeys(counted, 0))
    denoiser = Denoiser.from_pipeline(pipe, class_labels=[3, 5])
    with torch.no_grad():
        x0 = sample(denoiser, denoiser.initial_noise(torch.Generator().manual_seed(0)), "ddim", nfe=2)
        denoiser.decode(x0)
        sample(denoiser, denoiser.initial_noise(torch.Generator().manual_seed(1)), "ddim", nfe=2)
    assert counted["configured"] == 1
    assert type(pipe.scheduler).__name__ == "DDIMScheduler"
