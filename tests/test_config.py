"""A file of configuration: what it makes, and what is wrong with it, where."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from llmbridge import Bridge, Cache, ConfigError, Fallback, Limit, Model, config
from llmbridge.config import Configuration
from llmbridge.config.reading import read
from llmbridge.config.rules import Rules
from llmbridge.config.tables import TABLES, Root
from llmbridge.home import config_directory
from tests.configuring import Write, a_directory_of_its_own, write, wrong  # noqa: F401


DESIGN = Path(__file__).resolve().parents[2] / "shared" / "DESIGN.md"
WORDS = [*TABLES, *(field for table in TABLES.values() for field in table.model_fields)]
ONE = 'default = "openai/gpt-4o-mini"\n'


def named(found: Configuration) -> dict[str, Any]:
    names: dict[str, Any] = found.arguments["names"]
    return names


@pytest.fixture
def example(write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    if not DESIGN.exists():
        pytest.skip("the design does not lie beside this checkout")
    section = DESIGN.read_text().split("Configuration is `llmbridge.toml`")[1]
    lines = section.split("\n\n", 1)[1].split("## 7")[0].splitlines()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-example-key")
    return write("\n".join(line.removeprefix("    ") for line in lines))


def test_the_designs_example_works_as_it_stands(example: Path) -> None:
    found = config.load()

    primary, local, careful = (named(found)[name] for name in ("primary", "local", "careful"))
    assert primary == Model("openai/gpt-4o-mini", api_key="sk-example-key", rpm=500, tpm=200_000)
    assert local == Model("ollama/llama3.2", api_base="http://localhost:11434")
    assert careful == Fallback([primary, "anthropic/claude-haiku-4-5", local], retries=2, deadline_s=60)
    assert found.arguments["models"] == "careful"
    (budget,) = found.arguments["budgets"]
    assert (budget.name, budget.on_exceed) == ("$5/day per user", "downgrade")
    assert found.arguments["cache"].ttl_s == 3600


def test_yaml_says_the_same_as_toml(write: Write) -> None:  # noqa: F811
    toml = config.load(
        write('default = "a"\n[models.a]\nmodel = "x/y"\nrpm = 5\n[fallback.f]\nmodels = ["a"]\non = []\n')
    )
    other = config.load(
        write("default: a\nmodels: {a: {model: x/y, rpm: 5}}\nfallback:\n  f: {models: [a], on: []}\n", "other.yaml")
    )

    assert named(toml) == named(other)
    assert toml.arguments["models"] == other.arguments["models"] == "a"


@pytest.mark.parametrize("off", ["cache = false", "[cache]\nttl_s = 5"])
def test_there_is_a_cache_unless_it_is_off(off: str, write: Write) -> None:  # noqa: F811
    assert isinstance(config.load(write(ONE)).arguments["cache"], Cache)
    assert (config.load(write(f"{ONE}{off}\n")).arguments["cache"] is None) == ("false" in off)


def test_places_are_beside_the_file(write: Write, tmp_path: Path) -> None:  # noqa: F811
    path = write(f'{ONE}[cache]\ndirectory = "answers"\n[ledger]\npath = "~/books.db"\ndurability = "power"\n')

    found = config.load(path)

    assert found.arguments["cache"].directory == path.parent / "answers"
    assert found.arguments["ledger"] == str(Path("~/books.db").expanduser())
    assert found.ledger_options == {"durability": "power"}
    assert [*path.parent.iterdir()] == [path]


def test_a_ledger_is_opened_as_it_is_configured_at_the_first_call(write: Write) -> None:  # noqa: F811
    bridge = Bridge.from_config(write(f'{ONE}[ledger]\npath = "books.db"\ndurability = "power"\nfail_open = true\n'))
    assert not Path("books.db").exists()

    assert (bridge.ledger.path, bridge.ledger.durability) == (Path.cwd() / "books.db", "power")
    assert bridge.ledger.fail_open
    bridge.ledger.close()


def test_a_models_settings_are_for_its_name_wherever_it_is_used(write: Write) -> None:  # noqa: F811
    bridge = Bridge.from_config(write('[models."acme/x"]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2.5\n'))

    assert bridge._names._meant("acme/x")[1] == (Model("acme/x", input_usd_per_mtok=1, output_usd_per_mtok="2.5"),)


def test_budgets_and_limits_count_by_the_names_of_models_and_fallbacks(write: Write) -> None:  # noqa: F811
    found = config.load(
        write("""\
        budgets = [{limit = "$1/day", models = ["a", "openai/*"]}]
        limits = [{rpm = 5, models = "both"}]
        [models.a]
        model = "acme/x"
        [fallback.both]
        models = ["a", "mistral/y"]
        """)
    )

    assert found.arguments["budgets"][0].models == ("acme/x", "openai/*")
    assert found.arguments["limits"] == [Limit(rpm=5, models=("acme/x", "mistral/y"))]


def test_what_a_bridge_says_goes_before_what_all_say_and_its_caps_come_besides(write: Write) -> None:  # noqa: F811
    path = write(f"""{ONE}
budgets = ["$5/day"]
deadline_s = 20
[bridges.night]
default = ["ollama/llama3.2", "openai/gpt-4o"]
budgets = ["$1/day"]
[bridges.night.cache]
ttl_s = 60
""")

    night, usual = config.load(path, "night").arguments, config.load(path).arguments

    assert (night["models"], night["deadline_s"]) == (["ollama/llama3.2", "openai/gpt-4o"], 20)
    assert {budget.name for budget in night["budgets"]} == {"$1/day", "$5/day"}
    assert (night["cache"].ttl_s, [budget.name for budget in usual["budgets"]]) == (60, ["$5/day"])
    assert "bridges: has no 'nigth'; it has night" in str(wrong(path, "nigth"))


def test_a_file_is_found_by_its_variable_then_here_then_at_the_users(
    write: Write,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert config.find() is None
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "llmbridge.yml").touch()
    assert config.find() == tmp_path / "user" / "llmbridge.yml"
    write("", "llmbridge.yaml")
    assert config.find() == Path("llmbridge.yaml")
    monkeypatch.setenv("LLMBRIDGE_CONFIG", str(tmp_path / "nowhere.toml"))
    assert str(wrong()) == f"{tmp_path / 'nowhere.toml'}: there is no such file"


def test_two_files_in_one_place_are_a_mistake(write: Write) -> None:  # noqa: F811
    write("")
    write("", "llmbridge.yaml")

    assert "has llmbridge.toml and llmbridge.yaml; keep one of them" in str(wrong())


TOML = '''\
# a comment
default = "a" # here
"quoted key" = 1
budgets = [
    "$5/day",
]

[models.a]
model = """
[not.a.table]
x = 1"""
params.temperature = 1
[models."b/c".params]
n = 2
[[limits]]
rpm = 1
[[limits]]
tpm = 1
per = ["user"]
inline = { deep = { deeper = 1 } }
'''


def test_each_key_of_toml_has_its_line(write: Write) -> None:  # noqa: F811
    lines = read(write(TOML)).lines

    assert lines == {
        ("default",): 2,
        ("quoted key",): 3,
        ("budgets",): 4,
        ("budgets", 0): 5,
        ("models",): 8,
        ("models", "a"): 8,
        ("models", "a", "model"): 9,
        ("models", "a", "params"): 12,
        ("models", "a", "params", "temperature"): 12,
        ("models", "b/c"): 13,
        ("models", "b/c", "params"): 13,
        ("models", "b/c", "params", "n"): 14,
        ("limits",): 15,
        ("limits", 0): 15,
        ("limits", 0, "rpm"): 16,
        ("limits", 1): 17,
        ("limits", 1, "tpm"): 18,
        ("limits", 1, "per"): 19,
        ("limits", 1, "per", 0): 19,
        ("limits", 1, "inline"): 20,
        ("limits", 1, "inline", "deep"): 20,
        ("limits", 1, "inline", "deep", "deeper"): 20,
    }


# what stands in the file, and of each mistake in it the line, the key and words of what is said
MISTAKES: dict[str, list[tuple[int, str, str]]] = {
    "dfault = 'a/b'": [(1, "dfault", "did you mean 'default'?")],
    "[models.a]\nmodel = 'x/y'\nrmp = 5": [(3, "models.a.rmp", "did you mean 'rpm'?")],
    "[models.a]\nmodel = 'x/y'\ntemperature = 5": [(3, "models.a.temperature", "[models.a.params]")],
    "[models.a]\nmodel = 'x/y'\n[models.a.params]\ntemprature = 1": [
        (4, "models.a.params.temprature", "'temperature'")
    ],
    "[models.a]\nmodel = 'x/y'\nparams.temperature = 'hot'": [(3, "models.a.params.temperature", "not 'hot'")],
    "[models.a]\nmodel = 'x/y'\nparams.stream = true": [(3, "models.a.params.stream", "call stream() or astream()")],
    "[models.a]\nmodel = 'x/y'\nparams.timeout = -1": [(3, "models.a.params.timeout", "above 0")],
    "[models.a]\nrpm = 5": [(1, "models.a.model", "is missing")],
    "[models.a]\nmodel = 'x/y'\nrpm = true": [(3, "models.a.rpm", "valid number, not True")],
    "[models.a]\nmodel = 'x/y'\napi_version = 2024-10-21": [(3, "models.a.api_version", "valid string")],
    "[models.a]\nmodel = 'x/y'\nrpm = -5": [(3, "models.a.rpm", "number above 0, not -5")],
    "[models.a]\nmodel = 'x/y'\ninput_usd_per_mtok = 1": [(3, "models.a.input_usd_per_mtok", "both, or neither")],
    "[models.a]\nmodel = 'x/y'\napi_key = '${GONE}'": [(3, "models.a.api_key", "GONE is not in the environment")],
    "[models.a]\nmodel = '${a b}'": [(2, "models.a.model", "is no reference")],
    "[models.a]\nmodel = '${HOME'": [(2, "models.a.model", "is no reference")],
    "[models.a]\nmodel = 'opnai/gpt-4o'": [(2, "models.a.model", "did you mean 'openai'?")],
    "[models.a]\nmodel = 'x/y'\n[fallback.a]\nmodels = ['a']": [(3, "fallback.a", "name of a model, too")],
    "[fallback.a]\nretries = 1": [(1, "fallback.a.models", "is missing")],
    "[fallback.a]\nmodels = []": [(2, "fallback.a.models", "at least 1")],
    "[fallback.a]\nmodels = ['x/y']\nstrategy = 'cheapest'": [(3, "fallback.a.strategy", "least_cost")],
    "[fallback.a]\nmodels = ['x/y']\nstrategy = 'quality'": [(3, "fallback.a.strategy", "orders nothing")],
    "[fallback.a]\nmodels = ['x/y']\non = ['throtled']": [(3, "fallback.a.on", "throttled")],
    "[models.prim]\nmodel = 'x/y'\n[fallback.a]\nmodels = [\n'x/y',\n'prin']": [
        (6, "fallback.a.models.2", "there is no model 'prin'; did you mean 'prim'?")
    ],
    "[fallback.a]\nmodels = ['x/y']\n[fallback.b]\nmodels = ['a']": [(4, "fallback.b.models.1", "is a fallback")],
    "default = 'b'\n[fallback.a]\nmodels = ['x/y']": [(1, "default", "there is no model 'b'")],
    "budgets = ['5 dollars']": [(1, "budgets.1", "is no amount")],
    "budgets = ['$5/dya']": [(1, "budgets.1", "'dya' is no window")],
    "[[budgets]]\nlimit = '$5'\n[[budgets]]\nlimit = '$5'\nzone = 'Mars'": [(5, "budgets.2.zone", "no time zone")],
    "[[budgets]]\nlimit = '$5'\nname = 'x'\n[[budgets]]\nlimit = '$6'\nname = 'x'": [(4, "budgets.2", "are named 'x'")],
    "[[budgets]]\nlimit = '$5'\nmodels = ['gpt-4o']": [(3, "budgets.1.models.1", "can never apply")],
    "[[budgets]]\nlimit = '$5'\nmodels = ['opeanai/*']": [(3, "budgets.1.models.1", "did you mean 'openai'?")],
    "ledger = false\nbudgets = ['$5']": [(1, "ledger", "while the ledger is off")],
    "ledger = false\n[bridges.b]\nbudgets = ['$5']": [(3, "bridges.b.budgets", "while the ledger is off")],
    "budgets = ['$5']\n[bridges.b]\nledger = false": [(3, "bridges.b.ledger", "while the ledger is off")],
    "[[limits]]\nper = ['user']": [(1, "limits.1", "has rpm=, tpm= or concurrency=")],
    "[cache]\nttl_s = 0": [(2, "cache.ttl_s", "above 0, not 0")],
    "[ledger]\ndurability = 'none'": [(2, "ledger.durability", "'second' or 'power', not 'none'")],
    "[tracing]\nprotocol = 'udp'": [(2, "tracing.protocol", "'http/protobuf' or 'grpc'")],
    "deadline_s = 0": [(1, "deadline_s", "greater than 0")],
    "[bridges.b]\nmodels = 1\ndefault = 'x'": [
        (2, "bridges.b.models", "is no key"),
        (3, "bridges.b.default", "there is no model 'x'"),
    ],
    "models = 5": [(1, "models", "valid dictionary")],
    "fallback.a = 5\nbudgets = 7\ncache = 'x'": [
        (1, "fallback.a", "valid dictionary"),
        (2, "budgets", "valid list"),
        (3, "cache", "valid dictionary"),
    ],
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_said_with_its_line_and_key(text: str, write: Write) -> None:  # noqa: F811
    path = write(text)

    error = wrong(path)

    expected = MISTAKES[text]
    assert [(each.line, each.key) for each in error.mistakes] == [(line, key) for line, key, _ in expected]
    for mistake, (_, _, words) in zip(error.mistakes, expected, strict=True):
        assert words in mistake.what
        assert mistake.key in str(error)
    assert (error.path, error.line) == (str(path), expected[0][0])
    assert str(path) in str(error)


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("a.toml", "default = 'x/y'\n[models\n", 2, "it is not TOML"),
        ("a.toml", "default = 'x/y'\ndefault = 'y/z'\n", 2, "it is not TOML"),
        ("a.toml", "default = [", 1, "it is not TOML"),
        ("a.yaml", "default: [x/y\nmodels: 5\n", 2, "it is not plain YAML"),
        ("a.yaml", "default: x/y\nother: !!python/object/apply:os.system [ls]\n", 2, "the tag"),
        ("a.yaml", "default: !secret x\n", 1, "it is not plain YAML"),
        ("a.yaml", "default: x/y\ncache:\n  ttl_s: 5\n  ttl_s: 6\n", 4, "stands there twice"),
        ("a.yaml", "- default\n", 1, "keys with values"),
        ("a.yaml", "default: &a [*a]\n", None, "nested too deep"),
        ("a.yaml", "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
        ), 1, "more than 10,000 keys"),
        ("a.json", "{}", None, "suffix"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_where(
    name: str,
    text: str,
    line: int | None,
    words: str,
    write: Write,  # noqa: F811
) -> None:
    error = wrong(write(text, name))

    assert words in str(error)
    assert error.line == line


def test_yaml_takes_keys_as_they_are_written_and_merges(write: Write) -> None:  # noqa: F811
    found = config.load(
        write(
            """\
            models:
              a: &a {model: openai/x, rpm: 5}
              b: {<<: *a, rpm: 6}
              c: {<<: *a, rpm: 7}
            fallback:
              f: {models: [a, b], on: [throttled]}
            """,
            "a.yaml",
        )
    )

    assert (named(found)["b"], named(found)["c"].rpm) == (Model("openai/x", rpm=6), 7)
    assert named(found)["f"].on == ("throttled",)


def test_a_windows_file_with_a_byte_order_mark_is_read(write: Write) -> None:  # noqa: F811
    path = write("")
    path.write_bytes(b"\xef\xbb\xbfdefault = 'x/y'\r\n[cache]\r\nttl = 5\r\n")

    assert wrong(path).line == 3


def test_no_credential_stands_in_an_error_or_in_what_is_shown(
    write: Write,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_WORD", "hunter2hunter2")
    path = write(
        """\
        [models.a]
        model = "openai/x"
        api_key = "${MY_WORD}"
        api_base = "https://me:swordfish99@example.com/v1"
        extra_headers = {X-Api-Key = "hunter2hunter2", X-Team = "fish"}
        params = {aws_secret_access_key = "abcabcabc"}
        """
    )
    shown = {each.key: each.value for each in config.load(path).sources}
    path.write_text(path.read_text() + 'rpm = "hunter2hunter2"\n[models.b]\nmodel = "x/y"\napi_key = 12345678\n')

    error = wrong(path)

    assert shown["models.a.extra_headers.X-Team"] == "fish"
    for secret in ("hunter2", "swordfish99", "abcabcabc", "12345678"):
        assert secret not in f"{shown} {error} {error.mistakes}"


def test_a_doubled_dollar_is_one(write: Write) -> None:  # noqa: F811
    path = write("[models.a]\nmodel = 'openai/x'\nextra_headers = {X-Price = '$5 $${X}'}\n")

    assert named(config.load(path))["a"].extra_headers == {"X-Price": "$5 ${X}"}


def test_no_provider_of_litellms_is_taken_for_a_typo() -> None:
    import litellm

    for provider in litellm.LlmProviders:
        data = {"models": {"a": {"model": f"{provider.value}/x"}}}
        assert [*Rules(data).mistakes()] == []


def test_all_that_the_parts_take_can_be_configured() -> None:
    tables = config.schema()["$defs"]

    assert {*Model.__dataclass_fields__} == {*tables["ModelTable"]["properties"]}
    assert {*Fallback.__dataclass_fields__} - {"accept"} == {*tables["FallbackTable"]["properties"]}


def test_importing_the_package_reads_no_configuration() -> None:
    script = "import sys, llmbridge; print([name for name in sys.modules if name.startswith('llmbridge.')])"

    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_users_place_is_the_platforms() -> None:
    assert "llmbridge" in str(config_directory())


def test_tracing_without_an_exporter_is_a_mistake(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = write("[tracing]\nprotocol = 'grpc'\n")

    assert f"{path}, line 1: tracing: sending traces needs an exporter: pip install 'llmbridge[otlp-grpc]'" == str(
        wrong(path)
    )
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert config.load(path).tracing == {"protocol": "grpc"}


@pytest.mark.parametrize("call", ["mian", ["mian", "acme/x"]])
def test_a_call_that_misspells_a_name_is_told_the_right_one(call: Any) -> None:
    bridge = Bridge(names={"main": Model("mock/echo")})

    with pytest.raises(ValueError, match="the configuration has no 'mian'; did you mean 'main'"):
        bridge.complete("Name a fish.", model=call)


def test_names_are_given_in_code_too_and_a_bare_model_of_litellms_is_no_typo() -> None:
    main, policy = Model("mock/echo", rpm=5), Fallback(["mock/echo"], retries=0)
    names = Bridge(names={"main": main, "gpt-4o-min": main, "policy": policy})._names

    assert names._meant("main")[1] == (main,)
    assert names._meant("policy") == (policy, policy.models)
    assert names._meant("gpt-4o-mini")[1] == (Model("gpt-4o-mini"),)
    assert names._meant([Model("main", api_base="http://x")])[1] == (Model("main", api_base="http://x"),)
    with pytest.raises(ValueError, match="'policy' is a fallback, which cannot be one of several"):
        names._meant(["main", "policy"])
    with pytest.raises(TypeError, match="names are Models and Fallbacks by name"):
        Bridge(names={"main": "mock/echo"})  # type: ignore[dict-item]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["a", "x/y", "$5", "*"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.dictionaries(st.sampled_from([*Root.model_fields]), plain, max_size=5))
def test_whatever_stands_in_a_file_is_a_configuration_or_a_config_error(data: Any, tmp_path: Path) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")

    try:
        Bridge.from_config(path)
    except ConfigError as error:
        assert error.path == str(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(TOML)), rest=st.integers(0, len(TOML)), between=st.text(max_size=3))
def test_a_damaged_file_is_a_configuration_or_a_config_error(cut: int, rest: int, between: str, tmp_path: Path) -> None:
    path = tmp_path / "any.toml"
    path.write_text(TOML[:cut] + between + TOML[rest:], encoding="utf-8", errors="replace", newline="")

    try:
        Bridge.from_config(path)
    except ConfigError as error:
        assert error.path == str(path)


def test_how_long_a_prompt_may_be_is_configured_for_all_bridges_or_for_one(
    write: Write,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(
        """
        default = "openai/gpt-4o-mini"
        max_input_tokens = 50
        [bridges.short]
        truncate = "middle"
        """
    )

    with pytest.raises(ValueError, match="max_input_tokens is 50; nothing was sent"):
        Bridge.from_config().plan("fish " * 500)
    assert Bridge.from_config(name="short").plan("fish " * 500).candidates[0].input_tokens < 60
    monkeypatch.setenv("LLMBRIDGE_MAX_INPUT_TOKENS", "40")
    with pytest.raises(ValueError, match="max_input_tokens is 40"):
        Bridge.from_config().plan("fish " * 500)


def test_a_truncation_without_a_length_is_a_mistake(write: Write) -> None:  # noqa: F811
    write("""
        default = "openai/gpt-4o-mini"
        truncate = "oldest"
    """)

    assert "line 3: truncate: needs max_input_tokens" in str(wrong())


def test_configured_models_and_prices_are_in_the_catalogue_and_local_only_is_a_key(write: Write) -> None:  # noqa: F811
    write(
        """
        default = "home"
        [models."acme/x"]
        input_usd_per_mtok = 0.5
        output_usd_per_mtok = 1.5
        [models.near]
        model = "ollama_chat/llama3.2"
        [fallback.home]
        models = ["near", "acme/x"]
        local_only = true
        """
    )
    bridge = Bridge.from_config()

    assert bridge.models.cheapest(provider="acme").input_usd_per_mtok == Decimal("0.5")
    assert [each.model for each in bridge.models.chain("local_only").models] == ["ollama_chat/llama3.2"]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="local_only: acme/x would leave this machine"):
        bridge.plan("Name a fish.")


# Ready chains


def test_a_ready_chain_can_be_the_default(
    write: Write,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-key")
    path = write("""
        default = "cost_optimized"
        [models.own]
        model = "acme/x"
        input_usd_per_mtok = 0.001
        output_usd_per_mtok = 0.001
        """)

    bridge = Bridge.from_config(path)

    cheap = bridge.models.chain("cost_optimized")
    assert set(bridge.plan("Name a fish.").models) == {each.model for each in cheap.models}


def test_a_ready_chain_that_has_nobody_to_ask_is_a_mistake_with_what_to_do(write: Write) -> None:  # noqa: F811
    assert "chain 'local_only' has nobody to ask: name what runs here" in str(wrong(write('default = "local_only"')))


def test_the_name_of_a_ready_chain_is_told_to_who_misspelt_it(write: Write) -> None:  # noqa: F811
    assert "did you mean 'local_only'?" in str(wrong(write('default = "locl_only"')))
