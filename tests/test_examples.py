"""The examples do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, output: Path, *arguments: str) -> str:
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / name), "--output", str(output), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def drawn(output: Path) -> set[str]:
    files = list(output.iterdir())
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    return {file.name for file in files}


def test_train_digits(tmp_path):
    for module in ("sklearn", "matplotlib", "tqdm"):
        pytest.importorskip(module)
    printed = run("train_digits.py", tmp_path / "new")
    right = float(re.search(r"held out ([\d.]+)% right", printed)[1])
    assert right >= 98
    assert drawn(tmp_path / "new") == {"digits-loss.png", "digits-kernels.png"}


def test_train_digits_is_the_same_for_any_number_of_threads(tmp_path):
    for module in ("sklearn", "matplotlib", "tqdm"):
        pytest.importorskip(module)
    runs = [
        run("train_digits.py", tmp_path, "--epochs", "2", "--threads", str(n)) for n in (1, 2, 3)
    ]
    losses = [re.search(r"loss (\S+), held out (\S+)", printed).groups() for printed in runs]
    assert losses[0] == losses[1] == losses[2]


def test_deblur(tmp_path):
    for module in ("scipy", "matplotlib", "tqdm", "PIL"):
        pytest.importorskip(module)
    printed = run("deblur.py", tmp_path)
    recorded, restored = map(float, re.findall(r"([\d.]+) dB", printed))
    assert restored > recorded + 10
    assert drawn(tmp_path) == {"deblur.png"}
