"""The VNF file and antipode.yaml: what is wrong is named with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from antipode import config, yamlfile
from antipode.errors import InvalidInput, NotFound
from antipode.model.vnf import Vnf
from tests.unit import samples


def read_vnf(folder: Path, text: str) -> Vnf:
    path = folder / "hlr.yaml"
    path.write_text(text)
    return yamlfile.read(path, Vnf)


def test_a_right_vnf_file_is_read(tmp_path: Path) -> None:
    assert read_vnf(tmp_path, samples.VNF_FILE) == samples.vnf()


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        (
            "boot_after:",
            "boot_afterr:",
            7,
            "members[1].boot_afterr: unknown field; known here: server, boot_before, boot_after, "
            "answers",
        ),
        ("backup: site-b\n", "", 1, "backup: is required and missing"),
        ("vnf: hlr", "vnf: [hlr]", 1, "vnf: Input should be a valid string"),
        ("[db]", "[dbb]", 1, "boot order of front names dbb, which is not a member"),
        (
            "members:",
            "quiesce: {timeout: soon}\nmembers:",
            4,
            "quiesce.timeout: 'soon' is not a duration",
        ),
        (
            "  - server: db",
            "  - server: db\n    answers: {tcp: 70000}",
            6,
            "members[0].answers.tcp: Input should be less than or equal to 65535",
        ),
        ("primary: site-a", "primary: site-a\nprimary: site-c", 3, "found duplicate key"),
        ("members:", "members: ][", 4, "is not valid YAML"),
    ],
)
def test_a_wrong_field_is_named_with_file_line_and_field(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_vnf(tmp_path, samples.VNF_FILE.replace(old, new))
    assert f"{tmp_path}/hlr.yaml:{line}: " in str(caught.value)
    assert words in str(caught.value)


def test_all_wrong_fields_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_vnf(
            tmp_path,
            samples.VNF_FILE.replace("vnf: hlr", "vnf: 1\ncolour: red").replace(
                "backup: site-b", "backup: '/'"
            ),
        )
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["1", "4", "2"]


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n", "a: \x00\n"])
def test_a_file_that_is_no_mapping_is_refused_as_such(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInput, match=r"hlr.yaml:1: "):
        read_vnf(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere.yaml: cannot be read: No such file"):
        yamlfile.read(tmp_path / "nowhere.yaml", Vnf)


def test_the_configuration_is_read_and_its_state_is_beside_the_database(tmp_path: Path) -> None:
    settings = config.load(str(samples.write_config(tmp_path)))
    assert settings.site("site-b").cloud == "b"
    assert settings.state_dir == tmp_path
    with pytest.raises(
        NotFound, match="site site-c is not in the configuration; sites there: site-a, site-b"
    ):
        settings.site("site-c")


@pytest.mark.parametrize(
    ("vault", "words"),
    [
        ("{directory: /v, swift: {site: site-a}}", "vault: give either swift or directory"),
        ("{}", "vault: give either swift or directory"),
        (
            "{swift: {site: site-c}}",
            "vault.swift.site is site-c, which is not among the sites: site-a",
        ),
        ("{directory: v}", "vault: directory v is not an absolute path"),
    ],
)
def test_a_vault_that_cannot_be_is_refused(tmp_path: Path, vault: str, words: str) -> None:
    path = tmp_path / "antipode.yaml"
    path.write_text(f"sites: {{site-a: {{cloud: a}}}}\nvault: {vault}\n")
    with pytest.raises(InvalidInput, match=r"antipode.yaml:[12]: ") as caught:
        config.load(str(path))
    assert words in str(caught.value)


def test_the_configuration_is_found_by_option_then_environment_then_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANTIPODE_CONFIG", raising=False)
    with pytest.raises(InvalidInput, match="no configuration found"):
        config.find(None)
    (tmp_path / "antipode.yaml").touch()
    assert config.find(None) == Path("antipode.yaml")
    monkeypatch.setenv("ANTIPODE_CONFIG", "/from/environment.yaml")
    assert config.find(None) == Path("/from/environment.yaml")
    assert config.find("/from/option.yaml") == Path("/from/option.yaml")
