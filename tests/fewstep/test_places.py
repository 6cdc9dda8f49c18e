"""Places are proved before the work; what cannot be written is told by name, and a result is kept elsewhere."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from fewstep.output.files import whole
from fewstep.output.places import kept, prove_file, prove_folder


def test_a_good_place_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("old", encoding="utf-8")
    for path in ("there.json", "new.json", "a/b/c.json"):
        prove_file(tmp_path / path, "--out")
    prove_folder(tmp_path / "d/e", "cache")
    assert [p.name for p in tmp_path.iterdir()] == ["there.json"]


def test_bad_places(tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("", encoding="utf-8")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone" / "away")
    for path in ("afile/x.json", "afile/b/x.json", "nowhere/x.json", "pipe", "", "n" * 300, "n" * 300 + "/x.json"):
        with pytest.raises(ValueError, match=r"^--out '"):
            prove_file(tmp_path / path, "--out")
    for path in ("afile", "afile/b", "n" * 300):
        with pytest.raises(ValueError, match=r"^resume '.*cannot be written .*: give another place"):
            prove_folder(tmp_path / path, "resume")


def test_a_failed_write_names_the_file_and_leaves_the_old(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old", encoding="utf-8")
    with pytest.raises(OSError, match=f"^{file} could not be written: No space left") as caught, whole(file):
        raise OSError(28, "No space left on device")
    assert caught.value.errno == 28 and file.read_text(encoding="utf-8") == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_result_is_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "system"
    system.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(system))

    def write(path: Path) -> None:
        with whole(path) as part:
            part.write_text("result", encoding="utf-8")

    kept(tmp_path / "a.json", write)
    (tmp_path / "folder.json").mkdir()
    for target, inside in ((tmp_path / "folder.json", tmp_path), (tmp_path / "a.json" / "b.json", system)):
        with pytest.raises(OSError, match=r"could not be written: .* The result is kept: ") as caught:
            kept(target, write)
        place = Path(str(caught.value).rpartition("kept: ")[2])
        assert inside in place.parents and place.read_text(encoding="utf-8") == "result"
