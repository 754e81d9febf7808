"""daskcache.config: the defaults, their schema, the environment, the settings."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dask.config
import jsonschema
import pytest
import yaml

import daskcache
import daskcache.config
from daskcache.config import Codecs, Settings, default_store
from daskcache.errors import DaskcacheWarning, InvalidInputError

PACKAGE = Path(daskcache.config.__file__).parent
DOCS = PACKAGE.parent / "docs" / "configuration.md"
DEFAULTS = yaml.safe_load((PACKAGE / "daskcache.yaml").read_text(encoding="utf-8"))
SCHEMA = yaml.safe_load((PACKAGE / "daskcache-schema.yaml").read_text(encoding="utf-8"))


def leaves(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, below in schema.get("properties", {}).items():
        yield (*path, name), below
        yield from leaves(below, (*path, name))


def keys(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(values, dict):
        for name, below in values.items():
            yield (*path, name)
            yield from keys(below, (*path, name))


def read_settings(tmp_path: Path, environment: dict[str, str], expression: str) -> str:
    """Evaluate an expression of `settings` in a new process that has this environment."""
    program = f"from daskcache.config import Settings; settings = Settings.from_config(); print({expression})"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DASK_CONFIG": str(tmp_path / "dask"), **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_defaults_fit_the_schema() -> None:
    jsonschema.validate(DEFAULTS, SCHEMA)


def test_schema_and_defaults_have_the_same_keys() -> None:
    assert {path for path, _ in leaves(SCHEMA)} == set(keys(DEFAULTS))


@pytest.mark.parametrize(
    ("path", "schema"), [pytest.param(*leaf, id=".".join(leaf[0])) for leaf in leaves(SCHEMA)]
)
def test_every_key_is_described(path: tuple[str, ...], schema: Mapping[str, Any]) -> None:
    assert schema.get("description", "").strip(), f"{'.'.join(path)} has no description"


def test_docs_list_every_key_with_its_default() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for path, schema in leaves(SCHEMA):
        if "properties" in schema or path == ("daskcache",):
            continue
        value: Any = DEFAULTS
        for name in path:
            value = value[name]
        default = re.escape(yaml.safe_dump(value, default_flow_style=True).split("\n")[0])
        row = rf"^\| `{re.escape('.'.join(path[1:]))}` \| `{default}` \|"
        assert re.search(row, text, re.MULTILINE), f"docs/configuration.md has no row that matches {row}"


def test_dask_has_the_defaults() -> None:
    with dask.config.set({"daskcache.store": None}):
        assert dask.config.get("daskcache") == DEFAULTS["daskcache"]


def test_settings_defaults_are_the_files() -> None:
    """Whoever makes Settings by hand gets what the file says."""
    with dask.config.set({"daskcache.store": None}):
        assert Settings.from_config() == Settings(store=default_store())


def test_default_store_lies_below_the_cache_directory() -> None:
    assert Path(default_store()).is_relative_to(os.environ["XDG_CACHE_HOME"])


def test_without_a_configured_store_entries_lie_in_the_default_one(tmp_path: Path) -> None:
    home = {
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "DASK_CONFIG": str(tmp_path / "dask"),
    }
    root = tmp_path / "cache" / "daskcache" / "store"
    for program, printed in [
        ("daskcache.persist(da.arange(4, chunks=2) * 2, 'entry')", ""),
        ("print(daskcache.open('entry').compute().tolist())", "[0, 2, 4, 6]"),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", f"import dask.array as da, daskcache; {program}"],
            env={**os.environ, **home},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == printed
    assert len(list(root.glob("chunks/*/*"))) == 2
    assert (root / "namespaces" / "default" / "entry").is_dir()


def test_ensure_file_writes_a_commented_copy(tmp_path: Path) -> None:
    read_settings(tmp_path, {}, "settings.store")
    lines = (tmp_path / "dask" / "daskcache.yaml").read_text(encoding="utf-8").splitlines()
    shipped = (PACKAGE / "daskcache.yaml").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(shipped)
    assert [line for line in lines if line.strip() and not line.lstrip().startswith("#")] == []
    assert any("namespace: default" in line for line in lines)


def test_users_file_wins_over_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "daskcache.yaml").write_text("daskcache:\n  namespace: mine\n  codecs: {level: 1}\n")
    assert read_settings(tmp_path, {}, "settings.namespace, settings.codecs.level") == "mine 1"


@pytest.mark.parametrize(
    ("name", "value", "expression", "expected"),
    [
        ("DASK_DASKCACHE__STORE", "/some/where", "settings.store", "/some/where"),
        ("DASK_DASKCACHE__STORE", "s3://bucket/cache", "settings.store", "s3://bucket/cache"),
        ("DASK_DASKCACHE__NAMESPACE", "ssp585", "settings.namespace", "ssp585"),
        ("DASK_DASKCACHE__MODE", "read", "settings.mode", "read"),
        ("DASK_DASKCACHE__ON_UNCACHEABLE", "raise", "settings.on_uncacheable", "raise"),
        ("DASK_DASKCACHE__CHECK_SPACE", "False", "settings.check_space", "False"),
        ("DASK_DASKCACHE__CODECS__LEVEL", "9", "settings.codecs.level", "9"),
        ("DASK_DASKCACHE__SOURCES__CHECK", "content", "settings.source_check", "content"),
        (
            "DASK_DASKCACHE__SOURCES__ALIASES",
            "{'/mirror': 's3://bucket'}",
            "settings.source_aliases",
            "(('/mirror', 's3://bucket'),)",
        ),
        ("DASK_DASKCACHE__ENABLED", "True", "__import__('dask').config.get('daskcache.enabled')", "True"),
    ],
)
def test_environment(tmp_path: Path, name: str, value: str, expression: str, expected: str) -> None:
    assert read_settings(tmp_path, {name: value}, expression) == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "mode",
            "readonly",
            r"daskcache\.mode is 'readonly'; expected one of 'off', 'read', 'write', 'readwrite'",
        ),
        ("mode", ["read"], r"daskcache\.mode is \['read'\]"),
        ("on-uncacheable", "explode", r"daskcache\.on-uncacheable is 'explode'; .*'raise'"),
        ("progress", "sometimes", r"daskcache\.progress is 'sometimes'"),
        ("check-space", "maybe", r"daskcache\.check-space is 'maybe'"),
        ("store", 3, r"daskcache\.store is 3; expected a path or a URL"),
        ("code", "exact", r"daskcache\.code is 'exact'; expected a mapping"),
        ("code.versions", "latest", r"daskcache\.code\.versions is 'latest'; expected one of 'exact'"),
        ("code.versions", {"numpy": "latest"}, r"daskcache\.code\.versions\.numpy is 'latest'"),
        ("code.versions", ["exact"], r"daskcache\.code\.versions is \['exact'\]"),
        ("sources.check", "bytes", r"daskcache\.sources\.check is 'bytes'"),
        ("sources.aliases", "/a=/b", r"daskcache\.sources\.aliases is '/a=/b'; expected a mapping"),
        ("codecs", "zstd", r"daskcache\.codecs is 'zstd'; expected a mapping"),
        ("codecs", {"nmae": "zstd"}, r"expected the keys \['cname', 'level', 'name', 'shuffle'\]"),
        ("codecs.name", "gzip", r"daskcache\.codecs\.name is 'gzip'; expected one of 'blosc'"),
        ("codecs.cname", "lz5", r"daskcache\.codecs\.cname is 'lz5'"),
        ("codecs.level", 10, r"daskcache\.codecs\.level is 10; expected a whole number from 0 to 9"),
        ("codecs.level", "high", r"daskcache\.codecs\.level is 'high'"),
        ("codecs.shuffle", "yes", r"daskcache\.codecs\.shuffle is 'yes'"),
        ("namespace", None, r"daskcache\.namespace is None; expected a name"),
    ],
)
def test_bad_values_say_what_was_given_and_expected(key: str, value: object, message: str) -> None:
    with dask.config.set({f"daskcache.{key}": value}), pytest.raises(InvalidInputError, match=message):
        Settings.from_config()


def test_unknown_override() -> None:
    with pytest.raises(
        InvalidInputError, match=r"unknown settings \['namespaces'\]; known are .*'namespace'"
    ):
        Settings.from_config(namespaces="x")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("polcy", "policy"),
        ("on_uncachable", "on-uncacheable"),
        ("code.version", "code.versions"),
        ("function.verify", "functions.verify"),
        ("functions.memmory", "functions.memory"),
        ("forgeting", "forgetting"),
        ("source.check", "sources.check"),
    ],
)
def test_a_misspelt_setting_is_warned_of_once(
    key: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskcache.errors._warned", set())
    shown = re.escape(key.replace("_", "-"))
    message = rf"^daskcache\.{shown} is no setting, and has no effect; did you mean daskcache\.{re.escape(nearest)}\?$"
    with dask.config.set({f"daskcache.{key}": "x"}):
        with pytest.warns(DaskcacheWarning, match=message):
            Settings.from_config()
        Settings.from_config()
    with (
        dask.config.set({"daskcache.xyz": 1}),
        pytest.warns(DaskcacheWarning, match="`daskcache config` shows"),
    ):
        Settings.from_config()


def test_what_users_may_name_is_not_misspelt() -> None:
    """As any spelling that dask takes, and sections that are empty: a warning would be an error here."""
    given = {
        "stores": {"ssd": "/ssd", "far_away": {"url": "s3://b", "max-object": 5}},
        "store": {"levels": ["ssd", {"url": "far-away", "write": False}]},
        "storage_options": {"endpoint_url": "http://h", "config_kwargs": {"a": {"b": 1}}},
        "namespaces": {"my_own": {"mode": "read"}},
        "sources.aliases": {"/mirror": "s3://b"},
        "code.versions": {"default": "exact", "scikit_learn": "none"},
        "on_uncacheable": "ignore",
        "check-space": False,
        "functions.pickle": ["/mine"],
        "forgetting": None,
        "codecs": Codecs(),
    }
    with dask.config.set({f"daskcache.{key}": value for key, value in given.items()}):
        assert Settings.from_config().on_uncacheable == "ignore"
        with daskcache.activate("/x", code_versions="minor", check_space=True, codecs={"level": 1}):
            Settings.from_config()


def test_yaml_off_is_understood() -> None:
    """YAML reads a bare ``off`` as false."""
    with dask.config.set({"daskcache.mode": False}):
        assert Settings.from_config().mode == "off"


def test_overrides_win_and_none_is_as_if_not_given() -> None:
    settings = Settings.from_config(namespace="other", mode=None)
    assert (settings.namespace, settings.mode) == ("other", "readwrite")


def test_with_changes_and_checks() -> None:
    settings = Settings.from_config()
    assert settings.with_(salt="new").salt == "new"
    with pytest.raises(InvalidInputError, match="mode"):
        settings.with_(mode="no")


def test_versions_per_distribution() -> None:
    versions = {"default": "minor", "Scikit_Learn": "none", "numpy": "minor"}
    with dask.config.set({"daskcache.code.versions": versions}):
        settings = Settings.from_config()
    assert settings.code_versions == (("default", "minor"), ("scikit-learn", "none"))
    assert settings.with_(salt="x").code_versions == settings.code_versions
    assert hash(settings) == hash(
        Settings.from_config(code_versions={"default": "minor", "scikit.learn": "none"})
    )
    assert Settings.from_config(code_versions={"numpy": "exact"}).code_versions == "exact"
    with daskcache.activate(code_versions=versions):
        assert Settings.from_config().code_versions == settings.code_versions


def test_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker has another working directory than the client."""
    monkeypatch.chdir(tmp_path)
    assert Settings.from_config(store="cache").store == str(tmp_path / "cache")
    assert Settings.from_config(store=Path("cache")).store == str(tmp_path / "cache")
    assert Settings.from_config(store="~/cache").store == str(Path.home() / "cache")


def test_settings_compare_hash_and_pickle() -> None:
    """dask groups collections by the optimizer that holds them, and sends it to the scheduler."""
    one = Settings.from_config(source_aliases={"b": "2", "a": "1"}, codecs={"level": 3})
    two = Settings.from_config(source_aliases={"a": "1", "b": "2"}, codecs=Codecs(level=3))
    assert one == two
    assert hash(one) == hash(two)
    assert pickle.loads(pickle.dumps(one)) == one
