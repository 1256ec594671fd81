"""Settings: resolution, aliases, and everything wrong reported at once."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.app.commandline import app
from holdfast.app.known_settings import ROLES
from holdfast.app.settings import ALIASES, SETTINGS, WITHOUT_EFFECT, resolve, without_effect
from holdfast.kernel.errors import Invalid


def problems(environment: dict[str, str], **kwargs: object) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        resolve(environment, **kwargs)  # type: ignore[arg-type]
    return {problem.path: str(problem) for problem in caught.value.problems}


def test_flags_outrank_the_environment_which_outranks_the_file(tmp_path: Path) -> None:
    file = tmp_path / "holdfast.toml"
    file.write_text('log_level = "error"\n[fleet]\nlease_seconds = 10\nbeat_seconds = 2\n')
    settings = resolve(
        {"HOLDFAST_FLEET_LEASE_SECONDS": "20", "HOLDFAST_LOG_LEVEL": "warning"},
        {"log_level": "debug"},
        file,
    )
    assert settings["log_level"] == "debug"
    assert settings["fleet_lease_seconds"] == 20
    assert settings["fleet_beat_seconds"] == 2
    assert settings.origin("log_level") == "--log-level"
    assert settings.origin("fleet_lease_seconds") == "HOLDFAST_FLEET_LEASE_SECONDS"
    assert settings.origin("fleet_beat_seconds") == str(file)
    assert settings.origin("serve_idle_seconds") == "default"


def test_the_file_of_a_secret_is_known_to_whoever_reads_it_again(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.touch(mode=0o600)
    file.write_text("s" * 32)
    settings = resolve({"HOLDFAST_LEDGER_JWT_SECRET_FILE": str(file)})
    assert (settings["ledger_jwt_secret"], settings.file_of("ledger_jwt_secret")) == (
        "s" * 32,
        file,
    )
    assert resolve({"VDB_JWT_SECRET": "s" * 32}).file_of("ledger_jwt_secret") is None


def test_the_data_directory_cannot_be_named_by_a_file_that_may_lie_in_it(tmp_path: Path) -> None:
    file = tmp_path / "holdfast.toml"
    file.write_text('data_dir = "elsewhere"\n')
    wrong = problems({}, flags={"data_dir": str(tmp_path)}, file=file)
    assert "HOLDFAST_DATA_DIR or --data-dir" in wrong[f"{file}: data_dir"]


def test_all_that_is_wrong_is_reported_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "holdfast.toml"
    file.write_text("[gateway]\nbond = 1\n")
    wrong = problems(
        {
            "HOLDFAST_GATEWAY_BINDS": "127.0.0.1:1",
            "HOLDFAST_FLEET_LEASE_SECONDS": "0",
            "HOLDFAST_REGISTRY_BIND": "8081",
            "HOLDFAST_DATABASE_URL": "mysql://u:geheim@h/db",
        },
        file=file,
    )
    assert "did you mean HOLDFAST_GATEWAY_BIND?" in wrong["HOLDFAST_GATEWAY_BINDS"]
    assert "1 to 3600" in wrong["HOLDFAST_FLEET_LEASE_SECONDS"]
    assert "host:port" in wrong["HOLDFAST_REGISTRY_BIND"]
    assert "sqlite://, postgresql://" in wrong["HOLDFAST_DATABASE_URL"]
    assert "geheim" not in wrong["HOLDFAST_DATABASE_URL"]
    assert f"{file}: gateway_bond" in wrong


def test_config_show_shows_everything_and_marks_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_LOG_LEVEN", "debug")
    monkeypatch.setenv("HOLDFAST_FLEET_LEASE_SECONDS", "long")
    shown = CliRunner().invoke(app, ["config", "show", "--json"])
    assert shown.exit_code == 2
    rows = {row["name"]: row for row in json.loads(shown.stdout)}
    assert len(rows) == len(SETTINGS)
    assert rows["HOLDFAST_FLEET_LEASE_SECONDS"]["origin"].startswith("WRONG")
    assert rows["HOLDFAST_DATA_DIR"]["origin"] == "default"
    assert "did you mean HOLDFAST_LOG_LEVEL?" in shown.stderr
    named = CliRunner().invoke(app, ["--data-dir", "d", "config", "show", "--json"])
    rows = {row["name"]: row for row in json.loads(named.stdout)}
    assert (rows["HOLDFAST_DATA_DIR"]["value"], rows["HOLDFAST_DATA_DIR"]["origin"]) == (
        "d",
        "--data-dir",
    )


def test_keys_and_secrets_have_a_folder_that_the_data_directory_is_not_in(tmp_path: Path) -> None:
    """All of it goes into the copies of the keys."""
    data, link = tmp_path / "home" / "data", tmp_path / "link"
    data.mkdir(parents=True)
    link.symlink_to(tmp_path / "home")
    for folder in (data, data / ".." / "data", tmp_path, link):
        for name in ("HOLDFAST_KEYS_DIR", "HOLDFAST_SECRETS_DIR"):
            found = problems({name: str(folder)}, flags={"data_dir": str(data)})
            assert "is the data directory, or holds it" in found[name], folder
    apart = {"HOLDFAST_KEYS_DIR": str(data / "keys"), "HOLDFAST_SECRETS_DIR": str(tmp_path / "s")}
    resolve(apart, {"data_dir": str(data)})


def test_what_kubernetes_injects_is_ignored() -> None:
    settings = resolve(
        {
            "HOLDFAST_PORT": "tcp://10.0.0.1:8090",
            "HOLDFAST_REGISTRY_PORT": "tcp://10.0.0.1:8081",
            "HOLDFAST_REGISTRY_SERVICE_HOST": "10.0.0.1",
            "HOLDFAST_REGISTRY_SERVICE_PORT_HTTP": "8081",
            "HOLDFAST_REGISTRY_PORT_8081_TCP_ADDR": "10.0.0.1",
            "REGISTRY_PORT": "tcp://10.0.0.1:8081",
            "HOLDFAST_SECRET_KEY": "x",
            "HOLDFAST_URL": "http://localhost:1",
        }
    )
    assert settings["registry_url"] == ""


def test_a_family_brings_its_guides_defaults_only_when_one_of_its_variables_is_set() -> None:
    assert resolve({})["aggregator_url"] == ""
    settings = resolve({"REGISTRY_URL": "http://elsewhere:1"})
    assert settings["registry_url"] == "http://elsewhere:1"
    assert settings["aggregator_url"] == "http://aggregator:8082"
    assert settings["coordinator_url"] == "http://coordinator:8083"
    assert settings["reporter_url"] == "http://reporter:8084"
    drone = resolve({"CONTROL_PLANE": "http://cp:8090"})
    assert drone["drone_control_plane"] == "http://cp:8090"
    assert drone["drone_process_interval"] is None
    assert resolve({"PROCESS_INTERVAL": "5m"})["drone_process_interval"] == 300
    assert resolve({"HOLDFAST_DRONE_CONTROL_PLANE": "http://cp"})["drone_process_interval"] is None


def test_two_names_for_one_thing_must_agree() -> None:
    wrong = problems({"REGISTRY_URL": "http://a:1", "HOLDFAST_REGISTRY_URL": "http://b:1"})
    assert any("disagree" in text for text in wrong.values())
    same = resolve({"REGISTRY_URL": "http://a:1/", "HOLDFAST_REGISTRY_URL": "http://a:1"})
    assert same["registry_url"] == "http://a:1"


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"DB_DRIVER": "postgres", "DB_DSN": "postgres://u@h/db"}, "postgresql://u@h/db"),
        ({"DB_DRIVER": "sqlite", "DB_DSN": "/var/x.db"}, "sqlite:////var/x.db"),
    ],
)
def test_the_guides_database_variables_name_one_database(
    environment: dict[str, str], url: str
) -> None:
    assert resolve(environment)["database_url"] == url


def test_a_database_named_by_half_stops_the_start() -> None:
    assert "is needed" in problems({"DB_DRIVER": "postgres"})["DB_DSN"]
    assert "is needed" in problems({"DB_DSN": "postgres://u@h/db"})["DB_DRIVER"]
    assert "not known" in problems({"DB_DRIVER": "mysql"})["DB_DRIVER"]


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    file.write_text("postgresql://u:geheim@h/db\n")
    settings = resolve({"HOLDFAST_DATABASE_URL_FILE": str(file)})
    assert settings["database_url"] == "postgresql://u:geheim@h/db"


@pytest.mark.parametrize(
    "name",
    [
        "HOLDFAST_KEYRING_MASTER_KEY_FILE",
        "HOLDFAST_GATEWAY_ADMIN_KEY_FILE",
        "HOLDFAST_LEDGER_JWT_SECRET_FILE",
        "HOLDFAST_DATABASE_URL_FILE",
    ],
)
def test_a_file_of_a_secret_that_others_may_write_stops_the_start(
    tmp_path: Path, name: str
) -> None:
    file = tmp_path / "secret"
    file.write_text("postgresql://u:geheim@h/db\n")
    file.chmod(0o660)
    with pytest.raises(Invalid) as refused:
        resolve({name: str(file)})
    (problem,) = refused.value.problems
    assert (problem.path, "others may write it" in problem.message) == (name, True)
    assert f"chmod 600 {file}" in problem.hint


def test_a_secret_that_got_lost_on_its_way_is_not_taken_for_none(tmp_path: Path) -> None:
    """An empty file of the master key began a key of its own."""
    empty = tmp_path / "empty"
    empty.write_text("\n")
    empty.chmod(0o600)
    for setting in SETTINGS:
        if setting.secret:
            found = problems({setting.name: " "})
            assert re.search("is empty|is needed", found[setting.name]), setting.name
            name = f"{setting.name}_FILE"
            assert name in problems({name: str(empty)}), setting.name


def test_a_file_of_a_secret_that_is_no_text_is_named(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid) as refused:
        resolve({"HOLDFAST_DATABASE_PASSWORD_FILE": str(secret)})
    (problem,) = refused.value.problems
    assert (problem.path, "no text" in problem.message) == ("HOLDFAST_DATABASE_PASSWORD_FILE", True)


def test_every_setting_is_named_by_the_rule_and_says_what_it_means() -> None:
    for setting in SETTINGS:
        assert re.fullmatch(r"HOLDFAST_[A-Z0-9_]+", setting.name)
        assert not setting.name.endswith("_PORT")
        assert setting.meaning
        assert not setting.meaning.endswith(".")
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)
    assert set(ALIASES) >= {
        "REGISTRY_URL", "AGGREGATOR_URL", "COORDINATOR_URL", "REPORTER_URL", "DB_DRIVER", "DB_DSN",
        "PROFILES_DIR", "CONTROL_PLANE", "DRONE_ID", "PROCESS_INTERVAL",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        (
            "HOLDFAST_IDENTITY_ADMIN_USERS",
            ("notanemail", "@x", "a@b@c", "ada@"),
            "ada@example.org, bob@localhost",
        ),
        (
            "HOLDFAST_IDENTITY_OAUTH_DOMAINS",
            ("@x", "https://x", "a b", "ada@example.org"),
            "example.org,localhost",
        ),
        (
            "HOLDFAST_GATEWAY_HOSTS",
            ("https://x", "x/y", "a@b", "x:http"),
            "data.example.org, 10.0.0.5:8090, [2001:db8::1], [::1]:80",
        ),
    ],
)
def test_a_list_whose_entry_could_never_match_stops_the_start(
    name: str, wrong: tuple[str, ...], right: str
) -> None:
    for each in wrong:
        with pytest.raises(Invalid) as refused:
            resolve({name: f"{right}, {each}"})
        (problem,) = refused.value.problems
        assert problem.path == name
        assert repr(each) in problem.message
    resolve({name: right})


def test_bounds_are_told_as_people_write_numbers() -> None:
    with pytest.raises(Invalid) as refused:
        resolve({"HOLDFAST_IDENTITY_SESSION_SECONDS": "1"})
    assert "from 60 to 2,592,000 seconds" in refused.value.problems[0].message


def test_a_setting_that_says_what_blank_means_takes_it() -> None:
    for setting in SETTINGS:
        if re.search(r"\b(blank|if empty|empty:|empty is)\b", setting.meaning):
            resolve({setting.name: ""})


def test_every_setting_is_read_by_the_program() -> None:
    """Most variables of an earlier system were documented, and read by no code."""
    read = set[str]()
    for path in (Path(__file__).parents[3] / "src" / "holdfast").rglob("*.py"):
        text = path.read_text("utf-8")
        known = path.name != "known_settings.py" and ("settings" in text or "HOLDFAST_" in text)
        for node in ast.walk(ast.parse(text)) if known else ():
            match node:
                case ast.Subscript(slice=ast.Constant(str(key))):
                    read.add(re.escape(key))
                case ast.Subscript(slice=ast.JoinedStr(parts)):
                    read.add("".join(_template(part) for part in parts))
                case ast.Call(ast.Attribute(attr="said_of"), [_, ast.Constant(str(name))]):
                    read.add(re.escape(name))
                case ast.Call(ast.Attribute(attr="get"), [ast.Constant(str(name)), *_]):
                    read.add(re.escape(name.removeprefix("HOLDFAST_").lower()))
    pattern = re.compile("|".join(read))
    assert [s.key for s in SETTINGS if not pattern.fullmatch(s.key)] == []
    assert not pattern.fullmatch("records_read_by_nobody")


def _template(part: ast.expr) -> str:
    return re.escape(part.value) if isinstance(part, ast.Constant) else "[a-z]+"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("VDB_AUTHMODE", "VDB_AUTH_MODE"),
        ("VDB_JWT_SECRET_FILE", "VDB_JWT_SECRET"),
        ("ARAGORA_JWT_SECRETT", "ARAGORA_JWT_SECRET"),
        ("PLATFORM_SESSION_TTL", "PLATFORM_SESSION_TTL_SECS"),
        ("AUTH_API_KEY_FILE", "AUTH_API_KEYS_FILE"),
    ],
)
def test_a_slip_in_a_guides_name_stops_the_start(slip: str, meant: str) -> None:
    """What it was to set would otherwise be open, and nobody would hear of it."""
    assert f"did you mean {meant}?" in problems({slip: "jwt"})[slip]


def test_names_of_the_guides_without_effect_and_of_other_programs_are_left_alone() -> None:
    others = ["ARAGORA_REDIS_URL", "PLATFORM_NATS_URL", "AUTH_PROXY", "PLATFORM", "VDB_HOME"]
    resolve(dict.fromkeys([*WITHOUT_EFFECT, *others], "true"))


def test_an_address_of_a_broker_that_nobody_asks_is_told(tmp_path: Path) -> None:
    broker = {"PLATFORM_NATS_URL": "nats://broker:4222"}
    [told] = without_effect(broker)
    assert (told.path, told.message) == ("PLATFORM_NATS_URL", "changes nothing")
    assert without_effect({"PLATFORM_NATS_URL": ""}) == []
    line = ["--data-dir", str(tmp_path), "config", "show"]
    shown = CliRunner().invoke(app, line, env=broker)
    assert (shown.exit_code, shown.stderr.count("PLATFORM_NATS_URL changes nothing")) == (0, 1)


def test_addresses_of_roles_that_are_in_this_process_are_told() -> None:
    given = {"REGISTRY_URL": "http://a:1", "HOLDFAST_LEDGER_URL": "http://b:1"}
    settings = resolve(given)
    assert settings.unused_addresses(ROLES) == ["HOLDFAST_LEDGER_URL", "REGISTRY_URL"]
    assert settings.unused_addresses(("gateway", "registry")) == ["REGISTRY_URL"]
    assert settings.unused_addresses(("gateway",)) == []
    assert settings.unused_addresses(("registry",)) == []
    assert resolve({}).unused_addresses(ROLES) == []
