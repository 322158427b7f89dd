# SPDX-License-Identifier: Apache-2.0
"""The VNF file and antipode.yaml: an error names file, line and field."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antipode import config, yamlfile
from antipode.config import Config
from antipode.errors import InvalidFile, InvalidInput, Mistake, NotFound
from antipode.model.vnf import Vnf
from antipode.protect import offsite
from antipode.protect.option import wrong_settings
from tests.unit import samples

WITHIN = "members[0].answers.within"
RETENTION = "protections[0].retention"
RATE = "limits.api_calls_per_second"
LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40)
)
"""Each line has nine times as many values as the one before, by aliases."""


def read_vnf(folder: Path, text: str) -> Vnf:
    path = folder / "hlr.yaml"
    path.write_text(text)
    return yamlfile.read(path, Vnf, wrong_settings)


def places(error: InvalidFile) -> list[tuple[int | None, str]]:
    """The line and the field of each mistake."""
    return [(mistake.line, mistake.field) for mistake in error.mistakes]


def test_a_right_vnf_file_is_read(tmp_path: Path) -> None:
    assert read_vnf(tmp_path, samples.VNF_FILE) == samples.vnf()


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        (
            "boot_after:",
            "boot_afterr:",
            7,
            "members[1].boot_afterr",
        ),
        ("backup: site-b\n", "", 1, "backup"),
        ("vnf: hlr", "vnf: [hlr]", 1, "vnf"),
        ("vnf: hlr", "vnf: hlr\nrpo: .inf", 2, "rpo"),
        ("vnf: hlr", f"vnf: hlr\nrpo: {'9' * 400}d", 2, "rpo"),
        ("  - server: db", "  - server: db\n    answers: {tcp: 1, within: .inf}", 6, WITHIN),
        ("  - server: db", "  - server: db\n    answers: {tcp: 1, within: on}", 6, WITHIN),
        ("  - server: db", "  - server: db\n    answers: {tcp: on}", 6, "members[0].answers.tcp"),
        ("members:", "protections: {retention: {}}\nmembers:", 4, f"{RETENTION}.Retention"),
        (
            "members:",
            "protections: {retention: {last: 3, daily: yes}}\nmembers:",
            4,
            f"{RETENTION}.Retention.daily",
        ),
        ("  - server: db", "  - server: db\n    answers: {tcp: 1, within: -1}", 6, WITHIN),
        ("  - server: db", "  - server: db\n    answers: {tcp: 1, within: .nan}", 6, WITHIN),
        ("[db]", "[dbb]", 1, ""),
        (
            "members:",
            "protections: {quiesce: {timeout: soon}}\nmembers:",
            4,
            "protections[0].quiesce.timeout",
        ),
        (
            "members:",
            "protections: [{option: /}]\nmembers:",
            4,
            "protections[0].option",
        ),
        (
            "  - server: db",
            "  - server: db\n    answers: {tcp: 70000}",
            6,
            "members[0].answers.tcp",
        ),
        (
            "  - server: db",
            '  - server: db\n    answers: {command: ["a\\0b"]}',
            6,
            "members[0].answers.command[0]",
        ),
        (
            "  - server: db",
            "  - server: db\n    answers: {command: [a], at: {site-b: 192.0.2.1}}",
            6,
            "members[0].answers",
        ),
        ("server: db", 'server: "\\ud800"', 5, "members[0].server"),
        ("members:", "1: 2\nmembers:", 1, ""),
        ("primary: site-a", "primary: site-a\nprimary: site-c", 3, ""),
        ("members:", "members: ][", 4, ""),
        ("vnf: hlr", "vnf: !!float hlr", 1, ""),
        ("vnf: hlr", f"vnf: {'[' * 3000}{']' * 3000}", 1, ""),
        ("members:", "\n".join(" " * level + "a:" for level in range(900)), 36, ""),
        ("members:", f"{LAUGHS}members:", 9, "a5"),
        ("members:", "a: &a {b: 1}\nc: {<<: *a}\nmembers:", 5, ""),
        ("members:", "".join(f"k{n}: 1\n" for n in range(500)) + "members:", 4, "k0"),
    ],
)
def test_a_wrong_field_is_named_with_file_line_and_field(
    tmp_path: Path, old: str, new: str, line: int, field: str
) -> None:
    with pytest.raises(InvalidFile) as caught:
        read_vnf(tmp_path, samples.VNF_FILE.replace(old, new))
    assert (line, field) in places(caught.value)
    assert caught.value.path == tmp_path / "hlr.yaml"
    assert caught.value.resource == f"file {tmp_path}/hlr.yaml"
    assert len(str(caught.value)) < 5000


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(InvalidInput):
        yamlfile.read(Path("/dev/zero"), Vnf)


@given(st.text(alphabet="ab:-[]{}&*!?|>#'\"\\\n \t01~<,", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.raises(InvalidInput):
        read_vnf(Path(folder), text)


def test_all_wrong_fields_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile) as caught:
        read_vnf(
            tmp_path,
            samples.VNF_FILE.replace("vnf: hlr", "vnf: 1\ncolour: red").replace(
                "backup: site-b", "backup: '/'"
            ),
        )
    assert [mistake.line for mistake in caught.value.mistakes] == [1, 4, 2]


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n", "a: \x00\n"])
def test_a_file_that_is_no_mapping_is_refused_as_such(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        read_vnf(tmp_path, text)
    assert places(caught.value) == [(1, "")]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile) as caught:
        yamlfile.read(tmp_path / "nowhere.yaml", Vnf)
    assert caught.value.path == tmp_path / "nowhere.yaml"
    assert places(caught.value) == [(None, "")]


def test_the_message_has_a_line_for_each_mistake_and_says_when_there_are_more() -> None:
    mistakes = [Mistake(n, f"f{n}", "is wrong") for n in range(1, 4)]
    message = str(InvalidFile(Path("/v.yaml"), mistakes, more=True)).splitlines()
    assert [line.split(" ")[0] for line in message] == [
        *(f"/v.yaml:{n}:" for n in range(1, 4)),
        "/v.yaml:",
    ]


def test_the_configuration_is_read_and_its_state_is_beside_the_database(tmp_path: Path) -> None:
    read = config.load(str(samples.write_config(tmp_path)))
    assert read.site("site-b").cloud == "b"
    assert read.state_dir == tmp_path
    with pytest.raises(NotFound, match="site-c"):
        read.site("site-c")


@pytest.mark.parametrize(
    ("vault", "field"),
    [
        ("{directory: /v, swift: {site: site-a}}", "vault"),
        ("{directory: /v, s3: {bucket: vault}}", "vault"),
        ("{s3: {bucket: vault, site: site-c}}", "vault.s3.site"),
        ("{s3: {bucket: V}}", "vault.s3.bucket"),
        ("{s3: {bucket: vault, endpoint: 'https://user:word@s3'}}", "vault.s3.endpoint"),
        ("{s3: {bucket: vault, credentials_file: here}}", "vault.s3"),
        ("{s3: {bucket: vault, lock: {days: 0}}}", "vault.s3.lock.days"),
        ("{}", "vault"),
        ("{swift: {site: site-c}}", "vault.swift.site"),
        ("{swift: {container: c}}", "vault.swift"),
        ("{directory: v}", "vault"),
    ],
)
def test_a_vault_that_cannot_be_is_refused(tmp_path: Path, vault: str, field: str) -> None:
    path = tmp_path / "antipode.yaml"
    path.write_text(f"sites: {{site-a: {{cloud: a}}}}\nvault: {vault}\n")
    with pytest.raises(InvalidFile) as caught:
        config.load(str(path))
    assert places(caught.value) == [(2, field)]


@pytest.mark.parametrize(
    ("database", "field"),
    [
        ("postgresql://u:secret@h:port/x", "database"),
        ("sqlite://", "database"),
        ("'sqlite:///:memory:'", "database"),
        ("nonsense", "database"),
        ("nonsense://u:secret@h/x", "database"),
        ('"sqlite:////a\\0b"', "database"),
        ("sqlite:///{file}/x.db", "database"),
        ("sqlite:///{folder}", "database"),
        ("sqlite:///{folder}/x.db\nstate_directory: {file}", "state_directory"),
    ],
)
def test_a_database_that_cannot_be_is_refused_with_line_and_field(
    tmp_path: Path, database: str, field: str
) -> None:
    (tmp_path / "file").touch()
    database = database.format(file=tmp_path / "file", folder=tmp_path)
    path = tmp_path / "antipode.yaml"
    path.write_text(
        f"sites: {{site-a: {{cloud: a}}}}\nvault: {{directory: /v}}\ndatabase: {database}\n"
    )
    with pytest.raises(InvalidFile) as caught:
        config.load(str(path))
    line = {"database": 3, "state_directory": 4}[field]
    assert (line, field) in places(caught.value)
    assert "secret" not in str(caught.value)


MAPS = """\
sites:
  site-a: {cloud: a, store: at-b}
  site-b: {cloud: b, store: at-a}
  site-c: {cloud: c}
vaults:
  a: {swift: {site: site-a}}
  b: {swift: {site: site-b, cloud: b-vault}}
  third: {swift: {cloud: elsewhere, container: points}}
stores:
  at-a: {cloud: a-backup, site: site-a}
  at-b: {cloud: b-backup, site: site-b}
  beside-c: {cloud: c}
"""


def written(folder: Path, text: str) -> Config:
    path = folder / "antipode.yaml"
    path.write_text(text)
    return config.load(str(path))


def test_sites_vaults_and_stores_are_maps(tmp_path: Path) -> None:
    settings = written(tmp_path, f"{MAPS}database: sqlite:///{tmp_path}/a.db\n")
    assert settings.vault_names() == ["a", "b", "third"]
    assert settings.vault_names(["third"]) == ["third"]
    assert [v.site for v in settings.all_vaults.values()] == ["site-a", "site-b", None]
    assert settings.store_name("site-a") == "at-b"
    assert settings.store_name("site-a", "beside-c") == "beside-c"
    assert settings.store_name("site-c") is None
    assert settings.site_of_store("beside-c") == "site-c"
    for wrong in (
        lambda: settings.vault_names(["fourth"]),
        lambda: settings.store_name("site-a", "x"),
    ):
        with pytest.raises(NotFound):
            wrong()


def test_a_single_vault_and_store_may_be_written_without_a_name(tmp_path: Path) -> None:
    settings = written(
        tmp_path,
        "sites: {site-a: {cloud: a}}\nvault: {swift: {site: site-a}}\nbackup_store: {cloud: s}\n"
        f"database: sqlite:///{tmp_path}/a.db\n",
    )
    assert len(settings.vault_names()) == 1
    store = settings.store_name("site-a")
    assert store is not None
    assert settings.store(store).cloud == "s"
    assert settings.site_of_store(store) is None


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ("store: at-b", "store: at-x", 2, "sites.site-a.store"),
        ("{swift: {site: site-b, cloud", "{swift: {site: site-x, cloud", 7, "vaults.b.swift.site"),
        ("backup, site: site-a", "backup, site: site-x", 10, "stores.at-a.site"),
        ("stores:", "  d: {swift: {site: site-b}}\nstores:", 9, "vaults.d"),
        ("stores:", "  d: {directory: /v}\n  e: {directory: /w/../v}\nstores:", 10, "vaults.e"),
        (
            "stores:",
            "  d: {s3: {bucket: points, endpoint: 'https://s3.example.org'}}\n"
            "  e: {s3: {bucket: points, endpoint: 'https://S3.example.org/'}}\nstores:",
            10,
            "vaults.e",
        ),
        ("stores:", "vault: {directory: /v}\nstores:", 9, "vault"),
        ("stores:", "backup_store: {cloud: x}\nstores:", 9, "backup_store"),
        ("cloud: elsewhere", 'cloud: "else\\0where"', 8, "vaults.third.swift.cloud"),
        ("stores:", "database: postgresql+psycopg://h:abc/db\nstores:", 9, "database"),
        ("stores:", "database: postgresql+psycopg://h:70000/db\nstores:", 9, "database"),
        ("stores:", "database: nothing of the kind\nstores:", 9, "database"),
        ("stores:", "database: 'sqlite://'\nstores:", 9, "database"),
        ("stores:", "database: 'sqlite:///:memory:'\nstores:", 9, "database"),
        ("stores:", 'database: "sqlite:////v/\\0"\nstores:', 9, "database"),
        ("stores:", "database: sqlite:///FOLDER\nstores:", 9, "database"),
        ("stores:", "database: sqlite:///FOLDER/file/a.db\nstores:", 9, "database"),
        ("stores:", "state_directory: FOLDER/file\nstores:", 9, "state_directory"),
        ("stores:", "state_directory: FOLDER/file/below\nstores:", 9, "state_directory"),
        ("stores:", 'state_directory: "/v/\\0"\nstores:', 9, "state_directory"),
        ("stores:", f"state_directory: /{'v' * 5000}\nstores:", 9, "state_directory"),
        ("stores:", "limits: {api_calls_per_second: .nan}\nstores:", 9, RATE),
        ("stores:", "vaults_needed: yes\nstores:", 9, "vaults_needed"),
        ("stores:", "limits: {api_calls_per_second: on}\nstores:", 9, RATE),
        ("stores:", "failover_confirmed_for: .inf\nstores:", 9, "failover_confirmed_for"),
    ],
)
def test_what_is_wrong_in_the_configuration_is_named_with_line_and_field(
    tmp_path: Path, old: str, new: str, line: int, field: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidFile) as caught:
        written(tmp_path, MAPS.replace(old, new.replace("FOLDER", str(tmp_path))))
    assert (line, field) in places(caught.value)


def test_a_password_in_the_database_is_not_shown_with_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        written(tmp_path, f"{MAPS}database: postgresql+psycopg://u:secret@h:abc/db\n")
    assert "secret" not in str(caught.value)


def test_a_configuration_without_a_vault_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile) as caught:
        written(tmp_path, "sites: {site-a: {cloud: a}}\n")
    assert [mistake.field for mistake in caught.value.mistakes] == ["vaults"]


@pytest.mark.parametrize(
    ("active", "store", "fits"),
    [
        ("site-a", None, True),  # at the other site
        ("site-a", "at-a", False),
        ("site-b", None, True),
        ("site-c", None, False),  # not known where
        ("site-c", "beside-c", False),  # the same entry of clouds.yaml
        ("site-c", "at-a", True),
        ("site-a", "at-x", False),  # no such store
    ],
)
def test_backups_that_would_be_lost_with_the_active_site_are_noticed(
    tmp_path: Path, active: str, store: str | None, fits: bool
) -> None:
    settings = written(tmp_path, f"{MAPS}database: sqlite:///{tmp_path}/a.db\n")
    assert (offsite.problem(settings, "hlr", active, store) is None) is fits


def test_recovery_points_that_would_be_lost_with_the_active_site_are_noticed(
    tmp_path: Path,
) -> None:
    settings = written(tmp_path, f"{MAPS}database: sqlite:///{tmp_path}/a.db\n")
    assert offsite.vaults_problem(settings, "hlr", "site-a") is None
    assert offsite.vaults_problem(settings, "hlr", "site-a", ("a",)) is not None
    assert offsite.vaults_problem(settings, "hlr", "site-b", ("a",)) is None
    assert offsite.vaults_problem(settings, "hlr", "site-b", ("x",)) is not None


def test_the_configuration_is_found_by_option_then_environment_then_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANTIPODE_CONFIG", raising=False)
    with pytest.raises(InvalidInput):
        config.find(None)
    (tmp_path / "antipode.yaml").touch()
    assert config.find(None) == Path("antipode.yaml")
    monkeypatch.setenv("ANTIPODE_CONFIG", "/from/environment.yaml")
    assert config.find(None) == Path("/from/environment.yaml")
    assert config.find("/from/option.yaml") == Path("/from/option.yaml")
