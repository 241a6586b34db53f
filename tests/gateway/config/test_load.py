"""Is every mistake in a file found, in plain words, and at its place?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config.load import MAX_FILE_BYTES, load, parse
from gateway.config.problems import ConfigError

GOOD = """\
server: {host: 127.0.0.1, port: "${PORT:-8000}"}
clusters:
  llama: &base
    endpoints:
      - url: http://${GPU}:8000
      - {url: "http://gpu-2:8000", weight: 2}
    balancer: least_inflight
    api_key: ${KEY}
  qwen:
    <<: *base
    endpoints: [{url: "http://gpu-3:8000"}]
models:
  llama-3.1-8b: {cluster: llama, upstream_model: meta-llama/Llama-3.1-8B, aliases: [gpt-4o-mini]}
logging:
  access: off
"""
ENVIRON = {"GPU": "gpu-1", "KEY": "sk-123"}


def problems(text: str, **environ: str) -> list[str]:
    """What is wrong with the text, one line for each problem, the file's name left out."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f", environ)
    return [str(problem).removeprefix("f:") for problem in caught.value.problems]


def cluster(lines: str) -> str:
    """A file that is good except perhaps for these lines, which begin on line 4 of a cluster."""
    return f"clusters:\n  a:\n    endpoints: [{{url: 'http://gpu'}}]\n{lines}"


def test_a_good_file_becomes_a_configuration() -> None:
    """Interpolation, anchors, merge keys and YAML 1.2's `off` all arrive as meant."""
    config = parse(GOOD, "f", ENVIRON)
    llama, qwen = config.clusters["llama"], config.clusters["qwen"]
    assert config.server.port == 8000
    assert llama.endpoints[0].url == "http://gpu-1:8000"
    assert llama.api_key is not None
    assert llama.api_key.get_secret_value() == "sk-123"
    assert (qwen.balancer, len(qwen.endpoints)) == ("least_inflight", 1)
    assert config.models["llama-3.1-8b"].aliases == ("gpt-4o-mini",)
    assert config.logging.access is None


def test_all_problems_come_at_once() -> None:
    """Tree, type and cross-check errors stand side by side, in the file's order."""
    text = """\
server: {prot: 80}
clusters:
  llama:
    endpoints: [{url: "http://gpu"}, {url: "http://GPU/"}]
    balancer: fastest
    api_key: ${NOPE}
    balancer: round_robin
models:
  m: {cluster: lama, aliases: [m]}
  n: {}
"""
    assert problems(text) == [
        '1:10: server.prot is not a known key (did you mean "port"?)',
        "4:44: clusters.llama.endpoints[1].url is the same endpoint as number 1 of this cluster",
        (
            "5:15: clusters.llama.balancer is not a balancer; "
            "choose one of round_robin, weighted, least_inflight, p2c, session, prefix"
        ),
        (
            "6:14: clusters.llama.api_key needs the environment variable NOPE, which is not set "
            "(${NOPE:-default} would make it optional)"
        ),
        "7:5: clusters.llama.balancer is here a second time; the first is on line 5",
        (
            '9:16: models.m.cluster names the cluster "lama", which does not exist '
            '(did you mean "llama"?)'
        ),
        '9:32: models.m.aliases[0] "m" is already the model\'s own name',
        "10:3: models.n.cluster is required",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("timeouts: 3", "4:15: clusters.a.timeouts must be a mapping (lines of `key: value`)"),
        (
            "timeouts:",
            "4:14: clusters.a.timeouts must be a mapping (lines of `key: value`), but is empty",
        ),
        ("timeouts: {idle_s: soon}", "4:24: clusters.a.timeouts.idle_s must be a number"),
        (
            "timeouts: {idle_s: true}",
            "4:24: clusters.a.timeouts.idle_s must be a number, not true or false",
        ),
        ("timeouts: {idle_s: 0}", "4:24: clusters.a.timeouts.idle_s must be greater than 0"),
        ("timeouts: {idle_s: .inf}", "4:24: clusters.a.timeouts.idle_s must be a finite number"),
        ("health: {rise: 1.5}", "4:20: clusters.a.health.rise must be a whole number"),
        ("health: {rise: 0}", "4:20: clusters.a.health.rise must be at least 1"),
        ("health: {path: }", "4:19: clusters.a.health.path must be text, but is empty"),
        ("tls: {verify: 7}", "4:19: clusters.a.tls.verify must be true or false"),
        ("tls: {ca_file: 7}", "4:20: clusters.a.tls.ca_file must be text; put it in quotes"),
        ("tls: {ca_file: ''}", "4:20: clusters.a.tls.ca_file must not be empty"),
        ("kind: sight", "4:11: clusters.a.kind must be 'llm' or 'vision'"),
        (
            "api_key: 'sk 1'",
            "4:14: clusters.a.api_key must be visible ASCII without spaces or line ends",
        ),
        (
            "tls: {xyz: 1}",
            "4:11: clusters.a.tls.xyz is not a known key (known here: ca_file, verify)",
        ),
        ("1: 2", "4:5: clusters.a has a key that is not text; put it in quotes"),
        (
            "kind: !!python/name:os.system x",
            "4:11: clusters.a.kind has a YAML tag (!); tags are not supported",
        ),
        ("<<: 3", "4:9: clusters.a merges (<<) something that is not a mapping"),
        ('kind: "\\uD800"', "4:11: clusters.a.kind holds half of a character (a lone surrogate)"),
        (
            '"\\e[2J": 1',
            (
                '4:5: clusters.a["\\x1b[2J"] is not a known key (known here: kind, endpoints, '
                "registration, allow_empty, balancer, timeouts, health, retries, breaker, "
                "outliers, hedging, resume, slow_start_s, max_inflight, queue, session, api_key, "
                "forward_authorization, tls, max_idle_connections)"
            ),
        ),
    ],
)
def test_each_mistake_has_plain_words_and_its_place(line: str, said: str) -> None:
    """Wrong types, bounds, keys and tags, each with nothing but the one message."""
    assert problems(cluster(f"    {line}\n")) == [said]


def test_a_refused_entry_does_not_make_a_list_short() -> None:
    """One bad endpoint is one problem, not also an empty list."""
    assert problems("clusters: {a: {endpoints: [{url: gpu}]}}") == [
        "1:34: clusters.a.endpoints[0].url must begin with http:// or https://"
    ]
    assert problems("clusters: {a: {endpoints: []}}") == [
        "1:15: clusters.a has no endpoints, and none can register"
    ]
    keys = "    session: {{keys: [{}]}}\n".format
    assert problems(cluster(keys("cookie"))) == [
        "4:22: clusters.a.session.keys[0] is not a place of a key; write header:NAME or body:user"
    ]
    assert problems(cluster(keys(""))) == ["4:21: clusters.a.session.keys needs at least one entry"]


def test_fallbacks_are_models_of_the_file() -> None:
    """Unknown names come with a hint, also beside other mistakes; each model stands there once."""
    models = """models:
  big: {cluster: a, aliases: [gpt-4], fallbacks: [smal, gpt-4, mini, small, {}, {'x': 1}]}
  small: {cluster: a, aliases: [mini], fallbacks: [big]}
"""
    said = [
        (
            '5:51: models.big.fallbacks[0] names the model "smal", which is not under `models:` '
            '(did you mean "small"?)'
        ),
        '5:57: models.big.fallbacks[1] "gpt-4" is the model itself',
        '5:70: models.big.fallbacks[3] "small" is the same model as number 3 of this list',
    ]
    assert problems(cluster(models.replace(", {}, {'x': 1}", ""))) == said
    assert problems(cluster(models))[:3] == said
    circle = "models: {x: {cluster: a, fallbacks: [y]}, y: {cluster: a, fallbacks: [x]}}\n"
    assert parse(cluster(circle), "f", {}).models["x"].fallbacks == ("y",)


def test_a_cluster_may_wait_for_its_endpoints() -> None:
    """With registration, none need be listed; the models of an all-registered cluster are known."""
    config = parse("clusters: {a: {registration: true}}", "f", {})
    assert (config.clusters["a"].endpoints, config.clusters["a"].allow_empty) == ((), False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1:1: is empty; it needs at least `clusters:`"),
        ("# nothing\n\n", "1:1: is empty; it needs at least `clusters:`"),
        ("just text", "1:1: must be a mapping (lines of `key: value`)"),
        ("- a\n", "1:1: must be a mapping (lines of `key: value`)"),
        ("{}", "1:1: clusters is required"),
        ("a: [1,\n", "1:7: is not valid YAML"),
        ("a: b: c\n", "1:5: is not valid YAML: mapping values are not allowed here"),
        ("a: *b\n", "1:4: is not valid YAML: found undefined alias 'b'"),
        ("a: {b: ${C}}\n", '; put "${...}" in quotes when it stands inside { } or [ ]'),
        ("a: 1\n---\nb: 2\n", "2:1: is not valid YAML: expected a single document"),
        ('a: "\\UFFFFFFFF"\n', "an escape or a version holds a number that is too large"),
        ("a: 1\nb: \x00\n", "2:4: holds the character U+0000, which YAML forbids"),
    ],
)
def test_what_is_not_yaml_is_one_problem(text: str, said: str) -> None:
    """Syntax errors have a place too, and never one below the last line."""
    (only,) = problems(text)
    assert said in only


def test_nesting_is_bounded() -> None:
    """Neither brackets nor aliases of aliases nor an alias in itself exhaust the stack."""
    assert "nested deeper than 32 levels" in problems("[" * 5000)[0]
    chain = "".join(f"k{n}: &a{n} {{x: *a{n - 1}}}\n" for n in range(1, 60))
    assert "nested deeper than 32 levels" in problems(f"k0: &a0 1\n{chain}")[0]
    for cycle in ("a: &a [*a]\n", "a: &a {b: *a}\n", "a: &a {<<: *a}\n", "a: &a {<<: [*a, *a]}\n"):
        assert "nested deeper than 32 levels" in "".join(problems(cycle))
    merges = "".join(f"k{n}: &a{n} {{<<: *a{n - 1}}}\n" for n in range(1, 2000))
    assert "nested deeper than 32 levels" in problems(f"k0: &a0 {{}}\n{merges}")[0]


def test_a_small_file_cannot_grow() -> None:
    """The "billion laughs" end at a fixed number of values."""
    laughs = "".join(f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    assert "expands to more than 100000 values" in problems(f"k0: &a0 ha\n{laughs}")[0]


def test_numbers_follow_yaml_1_2() -> None:
    """`1e3` is a number, `0o17` octal, `on` and `1:30` are text."""
    text = cluster(
        "    timeouts: {connect_s: 1e3, idle_s: 0x10}\n    health: {rise: 0o17}\n"
        "models: {on: {cluster: a}, '1:30': {cluster: a}, m: {cluster: a, aliases: [no, 1:30x]}}\n"
    )
    config = parse(text, "f", {})
    assert config.clusters["a"].timeouts.connect_s == 1000
    assert config.clusters["a"].timeouts.idle_s == 16
    assert config.clusters["a"].health.rise == 15
    assert set(config.models) == {"on", "1:30", "m"}
    (digits,) = problems(cluster(f"    health: {{rise: {'1' * 6000}}}\n"))
    assert digits == "4:20: clusters.a.health.rise must be a finite number"


def test_secrets_never_show() -> None:
    """Whatever else is wrong with a file, its interpolated key is in no message."""
    text = GOOD + "extra: 1\n"
    for value in ("sk-123 secret", "sk-123\nx: secret", "sk-123-secret"):
        assert "secret" not in "\n".join(problems(text, GPU="gpu", KEY=value))


def test_files_that_cannot_be_read_are_problems(tmp_path: Path) -> None:
    """Missing files, folders, bytes that are not UTF-8 and huge files are said in plain words."""
    cases = {
        "missing.yaml": (None, "missing.yaml: cannot be read: No such file or directory"),
        "latin.yaml": (b"a: 1\nb: caf\xe9\n", "latin.yaml:2:7: is not UTF-8 text"),
        "huge.yaml": (b"#" * (MAX_FILE_BYTES + 1), "huge.yaml: is larger than"),
    }
    for name, (content, said) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=re.escape(said)):
            load(tmp_path / name, {})
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path, {})


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    """Editors on Windows write one; columns stay right."""
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbfclusters: 1\r\nservr: {}\r\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert [(each.line, each.column) for each in caught.value.problems] == [(1, 11), (2, 1)]


def test_files_that_it_names_must_be_there(tmp_path: Path) -> None:
    """A missing certificate is found by the check, not at the first handshake."""
    file = tmp_path / "sluice.yaml"
    (tmp_path / "cert.pem").write_text("")
    file.write_text(
        f"server: {{tls: {{cert_file: '{tmp_path}/cert.pem', key_file: '{tmp_path}/key.pem'}}}}\n"
        + cluster(f"    tls: {{ca_file: '{tmp_path}/ca.pem'}}\n")
    )
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert [(each.key, each.line) for each in caught.value.problems] == [
        ("server.tls.key_file", 1),
        ("clusters.a.tls.ca_file", 5),
    ]
    assert "No such file" in caught.value.problems[0].message


def test_the_process_environment_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a mapping of its own, `load` interpolates from the environment."""
    monkeypatch.setenv("SLUICE_TEST_HOST", "gpu-7")
    file = tmp_path / "sluice.yaml"
    file.write_text("clusters: {a: {endpoints: [{url: 'http://${SLUICE_TEST_HOST}'}]}}")
    assert load(file).clusters["a"].endpoints[0].url == "http://gpu-7"


WORDS = (
    *("- ", "? ", ": ", ", ", ":\n", "\n", "\n  ", "\n    ", "%YAML 1.1\n", "---\n", "...\n"),
    *(
        "{",
        "}",
        "[",
        "]",
        "'",
        '"',
        "#",
        "|",
        "\\",
        "\t",
        "\r",
        "\0",
        "\x85",
        "\u2028",
        "\ufeff",
        "é",
    ),
    *("clusters", "models", "server", "endpoints", "url", "cluster", "aliases", "timeouts"),
    *("idle_s", "a", "b", "http://gpu", "http://gpu/", "1", "1.5", "true", "null", "~", "off"),
    *("${A}", "${B:-x}", "${", "<<", "&a ", "*a ", "!!str ", "!x "),
)


def check(text: str) -> None:
    """Parsing returns or raises `ConfigError` whose problems all lie within the text."""
    lines = re.split(r"\r\n|\r|\n", text)
    try:
        parse(text, "f", {"A": "a"})
    except ConfigError as error:
        found = error.problems
    else:
        return
    assert found
    for problem in found:
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        assert problem.message
        str(problem).encode()


@given(st.lists(st.sampled_from(WORDS)).map("".join))
@example('"\\ud800": 1')
@example("%YAML 1" + "1" * 5000 + ".0\n--- a")
@example("? {a: 1}\n: b")
@example("? *a\n: b")
@example("<<: [*a]")
@example("!!binary a: 1")
@example("!!int a: 1")
@example("clusters: {a: 1, ? [x] : 2}")
@example("clusters: !!set {a, b}")
@example("models: {a: {cluster: [], aliases: {}}, b: [], c: {aliases: [1, [], a]}}\nclusters: {}")
def test_any_yaml_like_text_is_parsed_or_explained(text: str) -> None:
    """No arrangement of the format's own pieces raises anything else."""
    check(text)


@given(st.text())
def test_any_text_is_parsed_or_explained(text: str) -> None:
    """Nor does any text at all."""
    check(text)


@given(st.binary())
def test_any_bytes_are_parsed_or_explained(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """Nor does a file with any bytes in it."""
    file = tmp_path_factory.getbasetemp() / "bytes.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:  # Random bytes never spell `clusters:`.
        load(file, {})
    assert all(problem.line >= 1 for problem in caught.value.problems)


@given(st.data())
def test_a_damaged_file_is_explained(data: st.DataObject) -> None:
    """Cutting a good file anywhere, or putting a piece in, never raises anything else."""
    at = data.draw(st.integers(0, len(GOOD)))
    cut = data.draw(st.integers(at, min(len(GOOD), at + 20)))
    check(GOOD[:at] + data.draw(st.sampled_from(("", *WORDS))) + GOOD[cut:])
