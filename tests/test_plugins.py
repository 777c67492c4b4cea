"""Components are found by file name, and what they declare is read without importing them."""

from __future__ import annotations

import pytest

from bnstudy.config import plugins, project


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Writes a norm of this text into a folder that stands for the package."""
    monkeypatch.setattr(project, "PACKAGE", tmp_path)
    (tmp_path / "norms").mkdir()

    def write(text):
        (tmp_path / "norms" / "made_up.py").write_text(text)

    yield write


def test_options_and_flags_are_read_from_the_text(made_up):
    made_up("import nowhere\nSTACKABLE = True\ndef build(n, ndim, *, eps: float = 1e-5, sizes=(1, 2)):\n    raise\n")
    assert plugins.names("norms") == ["made_up"]
    assert plugins.defaults("norms", "made_up") == {"eps": 1e-5, "sizes": (1, 2)}
    assert plugins.flag("norms", "made_up", "STACKABLE") and not plugins.flag("norms", "made_up", "OTHER")


def test_a_flag_that_would_have_to_be_run_is_refused_with_a_remedy(made_up):
    made_up("from bnstudy.norms import batch\nSTACKABLE = batch.STACKABLE\ndef build(n, ndim):\n    ...\n")
    with pytest.raises(ValueError, match=r"norms/made_up\.py, line 2: STACKABLE = batch\.STACKABLE: .*True or False"):
        plugins.flag("norms", "made_up", "STACKABLE")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def build(n, ndim, *, eps):\n    ...\n", r"norms/made_up\.py: option 'eps' needs a literal default"),
        ("def build(n, ndim, *, eps=tiny()):\n    ...\n", r"norms/made_up\.py: option 'eps' needs a literal default"),
        ("def make(n, ndim):\n    ...\n", r"norms/made_up\.py: a file in norms/ needs a function 'build'"),
        ("def build(n, ndim, size=5):\n    ...\n", r"norms/made_up\.py: option 'size' must stand after a \*"),
        ("def build(n):\n    ...\n", r"norms/made_up\.py: build is given num_features, ndim"),
        ("\ndef build(n ndim):\n    ...\n", r"norms/made_up\.py, line 2: "),
    ],
)
def test_a_file_that_is_no_component_is_named(made_up, text, words):
    made_up(text)
    with pytest.raises(ValueError, match=words):
        plugins.defaults("norms", "made_up")


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="norms: there is no 'bach'; there are batch, "):
        plugins.defaults("norms", "bach")
