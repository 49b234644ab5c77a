"""What the default installs bring: no GPL, and licences that scripts/check_licences.py names."""

import re
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("packaging")

from scripts.check_licences import EXCEPTIONS, allowed, closure, refused

ROOT = Path(__file__).parent.parent
GPL = ("piper-tts", "krippendorff")


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", True),
        ("Apache-2.0 AND (BSD-3-Clause OR MIT)", True),
        ("Apache Software License; MIT License", True),
        ("GPL-3.0-or-later", False),
        ("MIT AND GPL-2.0-only", False),
        ("UNKNOWN", False),
        ("LGPL-3.0-only", False),
        ("", False),
    ],
)
def test_every_part_of_a_licence_must_be_on_the_list(licence, expected):
    assert allowed(licence) is expected


def test_a_package_is_refused_by_name_unless_it_is_excused():
    assert refused({"good": "MIT", "bad": "GPL-3.0", "psycopg": "LGPL-3.0-only"}) == {"bad": "GPL-3.0"}
    assert all(reason for reason in EXCEPTIONS.values())


def test_the_extras_of_the_default_installs_name_no_gpl_package_and_no_weights():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    default = [name for name in extras if name not in ("speech", "all")]
    assert "speech" not in re.findall(r"\w+", extras["all"][0])
    lines = (ROOT / "requirements-models.txt").read_text(encoding="utf-8").splitlines()
    models = {line.split("==")[0] for line in lines if "==" in line}
    assert set(GPL) <= models
    for name in default:
        packages = {re.split(r"[<>=\[ ]", requirement)[0] for requirement in extras[name]}
        assert not packages & models, name


def test_models_are_pinned_with_hashes():
    lines = (ROOT / "requirements-models.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert not line or line.startswith("#") or re.fullmatch(r"[\w-]+==[\d.]+ --hash=sha256:[0-9a-f]{64}", line)


def test_the_closure_follows_extras_of_extras():
    packages = closure({"agents"})
    assert {"torch", "gymnasium", "stable-baselines3", "transformers", "tyro"} <= packages
    assert "fastapi" not in packages
