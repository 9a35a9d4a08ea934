"""The demo: what it computes and draws, and that every mistake gets one line and status 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import faltung
import numpy as np
import pytest
from faltung import demo

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")

# Matplotlib's own use of what its dependencies retire is not ours to fail on.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A small picture, wider than high."""
    pixels = np.random.default_rng(1).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """Run the demo with wrong arguments and return its one line."""

    def run(*arguments: object) -> str:
        try:
            status = demo.main(["demo", *map(str, arguments)])
        except SystemExit as exit_:  # how argparse leaves
            status = exit_.code
        printed = capsys.readouterr()
        assert status == 2
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        return printed.err

    return run


def test_writes_pictures_and_table(tmp_path, picture, capsys):
    output = tmp_path / "deep" / "output"
    assert demo.main(["demo", "--image", str(picture), "--output", str(output)]) == 0
    names = {"photograph.png", "kernels.png", "features.png"}
    assert {path.name for path in output.iterdir()} == names
    for name in names:
        with Image.open(output / name) as image:
            image.load()
            assert image.format == "PNG"
    with Image.open(output / "photograph.png") as image, Image.open(picture) as original:
        assert np.array_equal(image, original)
    printed = capsys.readouterr().out
    outputs = sum(len(entry.weight) for entry in demo.filter_bank())
    assert f"(1, 3, 20, 31), weight ({outputs}, 3, 15, 15) -> (1, {outputs}, 20, 31)" in printed
    assert f"{2 * outputs * 20 * 31 * 3 * 225 / 1e9:.2f} GFLOP" in printed
    assert f"faltung {faltung.__version__}" in printed
    assert f"NumPy {np.__version__}" in printed


def test_threads(tmp_path, picture, capsys):
    arguments = ["demo", "--image", str(picture), "--output", str(tmp_path), "--threads", "1"]
    try:
        assert demo.main(arguments) == 0
    finally:
        faltung.set_num_threads(None)
    assert ", 1 thread " in capsys.readouterr().out


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000)])
def test_odd_sizes(tmp_path, size):
    path = tmp_path / "odd.png"
    Image.new("L", size, 128).save(path)
    assert demo.main(["demo", "--image", str(path), "--output", str(tmp_path)]) == 0
    with Image.open(tmp_path / "features.png") as image:
        assert max(image.size) < 8000


def test_image_without_file(refused, tmp_path):
    path = tmp_path / "nothing.jpg"
    assert f"--image {path}: No such file" in refused("--image", path, "--output", tmp_path)


def test_image_is_directory(refused, tmp_path):
    assert f"--image {tmp_path}: Is a directory" in refused("--image", tmp_path)


def test_image_is_no_picture(refused, tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("no picture at all")
    assert f"--image {path}: not a picture" in refused("--image", path)


def test_image_is_truncated(refused, tmp_path, picture):
    path = tmp_path / "half.png"
    path.write_bytes(picture.read_bytes()[:600])
    assert f"--image {path}: " in refused("--image", path)


def test_output_is_file(refused, tmp_path, picture):
    path = tmp_path / "file"
    path.write_text("")
    assert f"--output {path}: File exists" in refused("--image", picture, "--output", path)


def test_output_below_file(refused, picture):
    path = picture / "output"
    assert f"--output {path}: Not a directory" in refused("--image", picture, "--output", path)


def test_picture_cannot_be_written(refused, tmp_path, picture):
    (tmp_path / "photograph.png").mkdir()
    message = refused("--image", picture, "--output", tmp_path)
    assert f"--output {tmp_path}: Is a directory" in message


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5", ""])
def test_threads_are_wrong(refused, threads):
    assert "--threads" in refused("--threads", threads)


@pytest.mark.parametrize("module", ["matplotlib.figure", "PIL.Image", "tqdm"])
def test_extra_is_missing(refused, monkeypatch, tmp_path, picture, module):
    monkeypatch.setitem(sys.modules, module, None)
    message = refused("--image", picture, "--output", tmp_path)
    assert "pip install 'faltung[demo]'" in message
    assert module in message


@pytest.mark.parametrize("arguments", [[], ["dance"], ["demo", "--colour"]])
def test_command_is_wrong(arguments):
    command = [sys.executable, "-m", "faltung", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("python -m faltung")
    assert done.stderr.count("\n") == 1


def test_bank():
    bank = demo.filter_bank()
    kernels = {entry.label: entry.weight for entry in bank}
    assert len(bank) >= 24
    assert len(kernels) == len(bank)
    for label, weight in kernels.items():
        assert weight.shape[1:] == (3, demo.SIZE, demo.SIZE)
        # A flat picture of brightness 1 becomes flat: black where a filter looks for change.
        flat = weight.sum(axis=(1, 2, 3))
        wanted = 0 if len(weight) == 1 else 1
        np.testing.assert_allclose(flat, wanted, atol=1e-14, err_msg=label)


def test_gradients_of_a_ramp():
    """The derivatives have their units: brightness per pixel."""
    kernels = {entry.label: entry.weight for entry in demo.filter_bank()}
    y, x = np.mgrid[:20, :30]
    image = np.stack([3.0 * x + 5.0 * y] * 3)
    for name, slope in (("Sobel x", 3), ("Sobel y", 5), ("Scharr x", 3), ("Scharr y", 5)):
        result = faltung.conv2d(image, kernels[name])
        np.testing.assert_allclose(result, slope, rtol=1e-12, err_msg=name)


def test_numpy_version_agrees():
    """What the table compares with computes the same: exactly, on small integers."""
    rng = np.random.default_rng(2)
    x = rng.integers(-4, 5, (1, 3, 19, 23)).astype(np.float32)
    weight = rng.integers(-4, 5, (5, 3, demo.SIZE, demo.SIZE)).astype(np.float32)
    expected = demo.numpy_conv2d(x, weight)
    for library in demo.libraries():
        assert (library.conv2d(x, weight) == expected).all(), library.name
