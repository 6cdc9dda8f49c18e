"""Files that somebody made to hurt, or that are none: one sentence and exit code 2, bounded memory, no waiting, no code run."""

from __future__ import annotations

import io
import json
import lzma
import os
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from places import ROOT

from fewstep.cli import main
from fewstep.eval import Curves, Report
from fewstep.eval.gaussian.statfile import load
from fewstep.eval.images import image_set

PIXELS = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), np.uint8)


def png(pixels: np.ndarray = PIXELS[0]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def claimed_png(width: int, height: int, body: int = 0) -> bytes:
    """A PNG whose header tells of these sides; its pixels are zeros, as many as `body` says."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def claimed_npy(shape: str, descr: str = "|u1") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def bomb(name: str, mib: int = 300) -> bytes:
    """A member of zeros, a thousandth of its size in the file."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    made = bytearray(zipped({name: piece * mib + deflate.flush()}, zipfile.ZIP_STORED))
    central = made.rindex(b"PK\x01\x02")
    for method, size in ((8, 22), (central + 10, central + 24)):
        made[method : method + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
        made[size : size + 4] = struct.pack("<I", mib << 20)
    return bytes(made)


class Runs:
    """Runs code where a pickle of it is opened."""

    def __reduce__(self) -> Any:
        return os.system, ("touch was-run",)


def pickled_array() -> bytes:
    return npy(np.array([Runs()], object))


def broken_lzma() -> bytes:
    data = zipped({"a.png": png()}, zipfile.ZIP_LZMA)
    return data[:60] + b"\xff" * 40 + data[100:]


def tensor_of_one_row() -> bytes:
    stream = io.BytesIO()
    torch.save(torch.zeros(1, 64).expand(10**9, 64), stream)
    return stream.getvalue()


def stats_with(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{"mu": np.zeros(3), "sigma": np.eye(3), **arrays})
    return stream.getvalue()


def cut(data: bytes, share: float) -> bytes:
    return data[: int(share * len(data))]


ARRAYS = zipped({"arr_0.npy": npy(PIXELS)})
STORED = zipped({"arr_0.npy": npy(PIXELS)}, zipfile.ZIP_STORED)
PICTURES = zipped({f"{k}.png": png(x) for k, x in enumerate(PIXELS)})
GIF = b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\n%%EOF\n"
TIFF_LOOP = b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00"

# Sets of images, by file name; a folder where the name ends with /.
SETS: dict[str, Callable[[], bytes]] = {
    **{f"cut-{int(100 * s)}.zip": lambda s=s: cut(PICTURES, s) for s in (0, 0.1, 0.5, 0.9, 0.99)},
    **{f"cut-{int(100 * s)}.npz": lambda s=s: cut(ARRAYS, s) for s in (0, 0.1, 0.5, 0.9, 0.99)},
    **{f"cut-stored-{int(100 * s)}.npz": lambda s=s: cut(STORED, s) for s in (0.3, 0.7)},
    **{f"cut-{int(100 * s)}.npy": lambda s=s: cut(npy(PIXELS), s) for s in (0, 0.02, 0.5, 0.99)},
    **{f"cut-{int(100 * s)}/": lambda s=s: cut(png(), s) for s in (0, 0.1, 0.5, 0.8)},
    "text.zip": lambda: b"no archive",
    "empty.zip": lambda: zipped({}),
    "no-images.zip": lambda: zipped({"a.txt": b"x"}),
    "bomb.zip": lambda: bomb("a.png"),
    "many-bombs.zip": lambda: zipped({f"{k}.png": bytes(1 << 20) for k in range(50)}),
    "png-bomb.zip": lambda: zipped({"a.png": claimed_png(30000, 30000, 10**7)}),
    "broken-lzma.zip": broken_lzma,
    "pickle.zip": lambda: zipped({"a.npy": pickled_array()}),
    "up.zip": lambda: zipped({"../../../up.png": b"x", "/root.png": b"x"}),
    "of-text.zip": lambda: zipped({"a.png": b"text", "b.jpg": b"", "c.webp": b"RIFF", "d.npy": b"\x93NUMPY"}),
    "bomb.npz": lambda: bomb("arr_0.npy"),
    "object.npz": lambda: zipped({"arr_0.npy": pickled_array()}, zipfile.ZIP_STORED),
    "object-4d.npz": lambda: zipped({"arr_0.npy": claimed_npy("(99, 9, 9, 3)", "|O")}, zipfile.ZIP_STORED),
    "claims.npz": lambda: zipped({"arr_0.npy": claimed_npy("(9, 99999, 99999, 3)")}),
    "claims-many.npz": lambda: zipped({"arr_0.npy": claimed_npy("(999999999999, 8, 8, 3)")}),
    "claims-stored.npz": lambda: zipped(
        {"arr_0.npy": claimed_npy("(4, 8, 8, 3)") + b"x" * 9, "z": bytes(999)}, zipfile.ZIP_STORED
    ),
    "negative.npz": lambda: zipped({"arr_0.npy": claimed_npy("(-4, 8, 8, 3)")}),
    "overflow.npz": lambda: zipped({"arr_0.npy": claimed_npy(f"({2**62}, {2**62}, 8, 3)")}),
    "complex.npz": lambda: zipped({"arr_0.npy": npy(PIXELS.astype(complex))}),
    "dates.npz": lambda: zipped({"arr_0.npy": npy(PIXELS.astype("M8[s]"))}),
    "text.npz": lambda: zipped({"arr_0.npy": npy(PIXELS.astype("U3"))}),
    "records.npz": lambda: zipped({"arr_0.npy": npy(np.zeros((4, 8, 8, 3), [("a", "u1")]))}),
    "deep.npz": lambda: zipped({"arr_0.npy": claimed_npy("(" * 5000)}),
    "no-arrays.npz": lambda: zipped({"a.txt": b"x"}),
    "npz-of-npz.npz": lambda: zipped({"arr_0.npz": ARRAYS}),
    "floats.npz": lambda: zipped({"arr_0.npy": npy(PIXELS / 255)}),
    "nan.npy": lambda: npy(np.full((4, 8, 8, 3), np.nan)),
    "object.npy": pickled_array,
    "claims.npy": lambda: claimed_npy("(9, 99999, 99999, 3)") + bytes(999),
    "scalar.npy": lambda: npy(np.array(3, np.uint8)),
    "flat.npy": lambda: npy(np.zeros(99, np.uint8)),
    "seven.npy": lambda: npy(np.zeros((1,) * 7, np.uint8)),
    "empty.npy": lambda: npy(np.zeros((0, 8, 8, 3), np.uint8)),
    "text/": lambda: b"no picture",
    "claims/": lambda: claimed_png(2**31 - 1, 2**31 - 1),
    "bomb/": lambda: claimed_png(20000, 20000, 10**7),
    "near-bomb/": lambda: claimed_png(13000, 13000, 1000),
    "zero/": lambda: claimed_png(0, 0),
    "gif/": lambda: GIF,
    "postscript/": lambda: POSTSCRIPT,
    "tiff/": lambda: TIFF_LOOP,
    "16-bit/": lambda: png(np.zeros((8, 8), np.uint16)),
    "svg.svg": lambda: b"<svg/>",
    "pickle.pkl": lambda: b"cos\nsystem\n(S'touch was-run'\ntR.",
    "broken.pt": lambda: b"PK\x03\x04",
}
# Statistics.
STATISTICS: dict[str, Callable[[], bytes]] = {
    "bomb.npz": lambda: bomb("mu.npy"),
    "bomb-features.npz": lambda: bomb("features.npy"),
    "pickle.npz": lambda: stats_with(mu=np.array([Runs()], object)),
    "pickled-meta.npz": lambda: stats_with(meta=np.array([Runs()], object)),
    "claims.npz": lambda: zipped({"mu.npy": claimed_npy("(999999999999,)", "<f8"), "sigma.npy": b""}),
    "not-npy.npz": lambda: zipped({"mu.npy": b"text", "sigma.npy": b"text"}),
    "plain-names.npz": lambda: zipped({"mu": b"text", "sigma": b"text"}),
    "three-axes.npz": lambda: stats_with(sigma=np.zeros((3, 3, 3))),
    "wide.npz": lambda: stats_with(mu=np.zeros(4)),
    "scalars.npz": lambda: stats_with(mu=np.array(1.0), sigma=np.array(1.0)),
    "nothing.npz": lambda: stats_with(mu=np.zeros(0), sigma=np.zeros((0, 0))),
    "nan.npz": lambda: stats_with(mu=np.full(3, np.nan)),
    "infinite.npz": lambda: stats_with(sigma=np.diag([np.inf, 1, 1])),
    "complex.npz": lambda: stats_with(sigma=np.eye(3) * 1j),
    "bool.npz": lambda: stats_with(sigma=np.eye(3) > 0),
    "negative.npz": lambda: stats_with(sigma=-np.eye(3)),
    "n.npz": lambda: stats_with(n=np.array("many")),
    "n-nan.npz": lambda: stats_with(n=np.array(np.nan)),
    "n-huge.npz": lambda: stats_with(n=np.array(1e300)),
    "factor.npz": lambda: stats_with(factor=np.array("L")),
    "factor-wide.npz": lambda: stats_with(factor=np.ones((3, 3))),
    "meta-list.npz": lambda: stats_with(meta=np.array("[]")),
    "meta-text.npz": lambda: stats_with(meta=np.array("words")),
    "meta-deep.npz": lambda: stats_with(meta=np.array('{"a":' * 10**5)),
    "meta-bytes.npz": lambda: stats_with(meta=np.frombuffer(b"\xff\xfe", np.uint8)),
    "features-flat.npz": lambda: zipped({"features.npy": npy(np.zeros(9))}),
    "features-one.npz": lambda: zipped({"features.npy": npy(np.zeros((1, 4)))}),
    "features-nan.npz": lambda: zipped({"features.npy": npy(np.full((9, 4), np.nan))}),
    "features-text.npz": lambda: zipped({"features.npy": npy(np.array([["a"]]))}),
    "features-of-others.npz": lambda: stats_with(n=np.array(9), features=100 + np.random.default_rng(0).random((9, 3))),
    "row.pt": tensor_of_one_row,
    "text.pt": lambda: b"text",
    "zip.pt": lambda: zipped({"archive/data.pkl": b"cos\nsystem\n(S'touch was-run'\ntR.", "archive/version": b"3\n"}),
    "bomb.pt": lambda: bomb("archive/data/0"),
    "statistics.pkl": lambda: b"cos\nsystem\n(S'touch was-run'\ntR.",
}
# Reports.
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "text": b"words",
    "list": b"[]",
    "number": b"7",
    "deep": b'{"a":' * 10**5,
    "deep list": b"[" * 10**5,
    "latin": '{"library": "é"}'.encode("latin-1"),
    "no results": b'{"library": "x", "about": {}, "notes": [], "results": []}',
    "results of text": b'{"library": "x", "about": {}, "notes": [], "results": "abc"}',
    "wrong result": b'{"library": "x", "about": {}, "notes": [], "results": [7]}',
    "points of numbers": b'{"library": "x", "about": {}, "notes": [], "points": [1, 2]}',
    "points null": b'{"library": "x", "about": {}, "notes": [], "points": null}',
    "foreign": json.dumps({"scores": [1, 2]}).encode(),
    "seal of number": b'{"library": "x", "about": {}, "notes": [], "results": [], "sha256": 5}',
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(place: Path, name: str, data: bytes) -> Path:
    path = place / name
    if name.endswith("/"):
        path.mkdir()
        (path / "good.png").write_bytes(png())
        (path / "x.png").write_bytes(data)
        return path
    path.write_bytes(data)
    return path


def assert_sentence(*command: str) -> None:
    """Exit code 2 and one line."""
    result = CliRunner().invoke(main, [*command, "--device", "cpu"])
    assert result.exit_code == 2, (result.exit_code, result.output[-500:], result.exception)
    lines = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and "Traceback" not in result.output and len(lines[0]) < 1200


@pytest.mark.parametrize("name", SETS)
def test_images(place: Path, name: str) -> None:
    path = put(place, name, SETS[name]())
    assert_sentence("stats", str(path), "--extractor", "digits", "--out", "s.npz")
    assert sorted(p.name for p in place.iterdir()) == [path.name], "a file was made"


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics(place: Path, name: str) -> None:
    path = put(place, name, STATISTICS[name]())
    assert_sentence("fid", str(path), "mnist")
    with pytest.raises(ValueError, match=name):
        load(path)
    assert not (place / "was-run").exists()


@pytest.mark.parametrize("name", TEXTS)
def test_reports(place: Path, name: str) -> None:
    (place / "r.json").write_bytes(TEXTS[name])
    for read in (Report.from_json, Curves.from_json):
        with pytest.raises(ValueError, match=r"r\.json"):
            read(place / "r.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names")
@pytest.mark.parametrize("name", ["x.png", "x.zip", "x.npz", "x.npy", "x.pt", "folder/x.png", "r.json", "w.pth"])
def test_a_pipe_is_not_waited_for(place: Path, name: str) -> None:
    (place / name).parent.mkdir(exist_ok=True)
    os.mkfifo(place / name)
    if name == "r.json":
        with pytest.raises(ValueError, match="no ordinary file"):
            Report.from_json(place / name)
    elif name == "w.pth":
        result = CliRunner().invoke(main, ["fid", "x", "y", "--extractor", "inception", "--weights", name])
        assert result.exit_code in (1, 2)
    else:
        assert_sentence("stats", name.partition("/")[0], "--extractor", "digits", "--out", "s.npz")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of memory are another system's there")
def test_bombs_take_no_memory(place: Path) -> None:
    """What they would take is never taken: the largest memory of the process grows by less than 200 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    for kind, read in ((SETS, lambda p: list(image_set(p).stream(8))), (STATISTICS, load)):
        for name, make in kind.items():
            if "bomb" in name or "claims" in name or name == "row.pt":
                path = put(place, name, make())
                with pytest.raises(ValueError):
                    read(path)
                path.unlink() if path.is_file() else None
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    assert grown < 200 << 20, f"{grown >> 20} MiB"


def test_the_limit_is_raised_by_an_option(place: Path) -> None:
    (place / "images").mkdir()
    for k in range(2):
        Image.new("RGB", (700, 600), (k, 5, 9)).save(place / "images" / f"{k}.png")
    command = ["stats", "images", "--extractor", "digits", "--out", "s.npz", "--device", "cpu"]
    result = CliRunner().invoke(main, [*command, "--limit", "1"])
    assert (
        result.exit_code == 2 and "would take 2 MiB, and 1 are allowed" in result.output and "--limit" in result.output
    )
    assert CliRunner().invoke(main, [*command, "--limit", "2"]).exit_code == 0


@pytest.mark.parametrize("error", [EOFError, lzma.LZMAError, MemoryError, zlib.error, IndexError])
def test_whatever_a_decoder_raises_makes_a_bad_image(place: Path, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    """And bad images are passed over where that is wanted."""
    (place / "a.zip").write_bytes(PICTURES)
    read = zipfile.ZipFile.read

    def broken(self: Any, name: Any, pwd: Any = None) -> bytes:
        if getattr(name, "filename", name) == "1.png":
            raise error
        return read(self, name, pwd)

    monkeypatch.setattr(zipfile.ZipFile, "read", broken)
    with pytest.raises(ValueError, match=f"1.png in .*cannot be read .{error.__name__}"):
        list(image_set(place / "a.zip").stream(8))
    with pytest.warns(UserWarning, match="images passed over: 1"):
        ((indices, _),) = image_set(place / "a.zip", skip_bad=True).stream(8)
    assert indices.tolist() == [0, 2, 3]


def test_a_folder_that_cannot_be_listed_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images would be missing, and nobody would know."""
    (place / "images" / "shut").mkdir(parents=True)
    (place / "images" / "a.png").write_bytes(png())
    scan = os.scandir

    def shut(path: Any) -> Any:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", shut)
    with pytest.raises(ValueError, match="shut in .*cannot be listed"):
        image_set(place / "images")


@pytest.mark.parametrize(
    ("variables", "code", "said"),
    [
        ({"RANK": "1"}, 2, "RANK=1 and WORLD_SIZE= do not tell"),
        ({"RANK": "0"}, 2, "RANK=0 and WORLD_SIZE= do not tell"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, 2, "do not tell"),
        ({"WORLD_SIZE": "two"}, 2, "do not tell"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, 2, "do not tell"),
        ({"WORLD_SIZE": "2"}, 2, "do not tell"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, 0, "FD-digits"),
        ({"WORLD_SIZE": "1"}, 0, "FD-digits"),
    ],
)
def test_half_a_launch_says_so(monkeypatch: pytest.MonkeyPatch, variables: Any, code: int, said: str) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for command in ("fid", "eval"):
        result = CliRunner().invoke(main, [command, "mnist", "mnist-test", "--device", "cpu"])
        assert result.exit_code == code and said in result.output
    if code:
        result = CliRunner().invoke(main, ["stats", "mnist", "--out", "x.npz"])
        assert result.exit_code == 2 and said in result.output


@pytest.mark.slow
def test_files_are_utf_8_whatever_the_locale(place: Path) -> None:
    """Under a locale that knows ASCII alone, with Python's own UTF-8 mode off."""
    np.savez(place / "x.npz", PIXELS)
    (place / "run.py").write_text(
        "import fewstep.eval as fe\n"
        "how = {'extractor': 'digits', 'progress': False}\n"
        "fe.stats('x.npz', 's.npz', name='größer', **how)\n"
        "report = fe.evaluate('s.npz', 'x.npz', **how)\n"
        "report.to_json('r.json'); report.to_html('r.html')\n"
        "raw = open('r.json', encoding='utf-8').read().replace('\\\\u00f6', 'ö')\n"
        "open('raw.json', 'w', encoding='utf-8').write(raw)\n"
        "assert fe.Report.from_json('raw.json').about['real'] == fe.Report.from_json('r.json').about['real'] == 'größer'\n",
        encoding="utf-8",
    )
    told = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "run.py"], env=told, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-1500:]
    assert "größer" in (place / "r.html").read_text(encoding="utf-8")
    assert "ö" in (place / "raw.json").read_text(encoding="utf-8")
    assert load(place / "s.npz").meta.source == "größer"
