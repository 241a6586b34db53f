"""Are policy files read whole, in order, with every mistake at its file, line and key?"""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.policies import (
    arrange,
    by_name,
    find_files,
    load_policies,
    missing_files,
    parse_policy,
    policy_schema,
    policy_schema_text,
)
from gateway.config.policy_conflicts import Known
from gateway.config.problems import ConfigError

KNOWN = Known({"a": (), "b": ()}, ("one",), discovers=False)
SPLIT = """\
# yaml-language-server: $schema=../schema.json
name: new
match: {models: [a], percent: "${SHARE:-50}"}
split:
  arms:
    - {name: control, model: a, weight: 90}
    - {name: treatment, model: b, weight: 10}
"""


def problems(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text, "f", environ)
    return [str(problem).removeprefix("f:") for problem in caught.value.problems]


def test_a_good_file_becomes_a_policy() -> None:
    found = parse_policy(SPLIT, "f.yaml", {"SHARE": "20"})
    assert (found.file, found.policy.name, found.policy.match.percent) == ("f.yaml", "new", 20)
    assert found.classifier_file is None


def test_every_mistake_is_named_at_its_place() -> None:
    """Those of the tree, of types and of what does not fit together, in the file's order."""
    text = """\
name: new
order: soon
order: 3
match: {models: [a], percnt: 5, percent: "${NOPE}"}
split:
  arms:
    - {name: control, model: a, weight: -1}
    - {name: treatment, model: b, cluster: one}
    - {nam: x, model: b}
  metrics: [speed]
"""
    assert problems(text) == [
        "2:8: order must be a whole number",
        "3:1: order is here a second time; the first is on line 2",
        '4:22: match.percnt is not a known key (did you mean "percent"?)',
        (
            "4:42: match.percent needs the environment variable NOPE, which is not set "
            "(${NOPE:-default} would make it optional)"
        ),
        "7:41: split.arms[0].weight must be at least 0",
        "8:7: split.arms[1] needs either a model or a cluster",
        "9:7: split.arms[2].name is required",
        '9:8: split.arms[2].nam is not a known key (did you mean "name"?)',
        (
            "10:13: split.metrics[0] must be 'success_rate', 'error_rate', 'abort_rate', "
            "'truncation_rate', 'cancel_rate', 'ttft', 'inter_token', 'latency', "
            "'tokens_per_s', 'output_tokens' or 'feedback'"
        ),
    ]


def test_flaws_between_values_have_their_place() -> None:
    text = SPLIT.replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 0")
    assert problems(text + "  baseline: contrl\n") == [
        "6:5: split.arms give no arm any weight; one needs more than 0",
        (
            '8:13: split.baseline names the arm "contrl", which does not exist '
            '(did you mean "control"?)'
        ),
    ]


def test_far_keys_are_not_guessed_at() -> None:
    assert problems("name: x\nroute: {model: a, zzz: 1}\n") == [
        "2:19: route.zzz is not a known key (known here: model, cluster, upstream_model, override)"
    ]


def test_broken_keys_of_mappings_have_their_place() -> None:
    text = "name: x\nroute:\n  model: a\n  override:\n    body:\n      '': 1\n"
    assert problems(text) == ['6:7: route.override.body[""] must not be empty']


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n  # yet\n"])
def test_an_empty_file_is_told_what_it_needs(text: str) -> None:
    assert problems(text) == ["1:1: is empty; it needs at least `name:`"]


def test_tree_problems_alone_are_problems() -> None:
    assert problems("name: x\nname: y\nroute: {model: a}\n") == [
        "2:1: name is here a second time; the first is on line 1"
    ]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def route(name: str, order: int = 100) -> str:
    return f"name: {name}\norder: {order}\nmatch: {{users: [{name}]}}\nroute: {{model: a}}\n"


def test_order_is_by_number_then_by_file(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", route("first-of-equals"))
    write(tmp_path, "a.yaml", route("last", 200))
    write(tmp_path, "c.yaml", route("second-of-equals"))
    write(tmp_path, "d.yaml", route("early", 1))
    files = find_files([f"{tmp_path}/*.yaml", f"{tmp_path}/a.yaml"])
    assert len(files) == 4
    loaded = load_policies(files, KNOWN)
    assert [each.policy.name for each in loaded] == [
        "early",
        "first-of-equals",
        "second-of-equals",
        "last",
    ]
    assert list(by_name(loaded)) == ["early", "first-of-equals", "second-of-equals", "last"]
    assert by_name(loaded)["early"] is loaded[0].policy


def test_a_mistake_in_one_file_hides_none_of_another(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "name: a\n")
    (tmp_path / "b.yaml").write_bytes(b"name: b\n# \xff\n")
    with pytest.raises(ConfigError) as caught:
        load_policies(find_files([f"{tmp_path}/*.yaml", f"{tmp_path}/gone"]), KNOWN)
    assert [str(each).removeprefix(f"{tmp_path}/") for each in caught.value.problems] == [
        "a.yaml:1:1: does nothing; a policy is one of route, split, rollout, classifier, mirror",
        "b.yaml:2:3: is not UTF-8 text",
        "gone: cannot be read: No such file or directory",
    ]


def test_conflicts_name_the_later_file(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "name: all\nroute: {model: b}\n")
    write(tmp_path, "b.yaml", SPLIT.replace("model: b", "model: c"))
    with pytest.raises(ConfigError) as caught:
        load_policies(find_files([f"{tmp_path}/*.yaml"]), KNOWN, {})
    assert [str(each).removeprefix(f"{tmp_path}/") for each in caught.value.problems] == [
        'b.yaml:3:8: match is never reached: the policy "all" comes first and matches all of it',
        'b.yaml:7:32: split.arms[1].model names the model "c", which does not exist',
    ]


def test_nothing_is_fine() -> None:
    assert arrange([], KNOWN) == ()
    assert load_policies(find_files(["/nowhere/*.yaml"]), KNOWN) == ()


def test_a_classifier_without_its_file_is_reported_not_refused(tmp_path: Path) -> None:
    """Requests then go to the default arm, so that a file can come later."""
    text = "name: c\nclassifier:\n  file: f.onnx\n  arms: [{name: x, model: a}]\n  default: x\n"
    path = write(tmp_path, "c.yaml", text)
    loaded = load_policies([path], KNOWN)
    words = f'names "{tmp_path}/f.onnx", which is no file; the default arm is used'
    assert [str(each) for each in missing_files(loaded)] == [f"{path}:3:9: classifier.file {words}"]
    (tmp_path / "f.onnx").touch()
    assert missing_files([*loaded, parse_policy(SPLIT, "f", {})]) == []


def test_the_schema_bounds_what_the_loader_bounds() -> None:
    """In JSON Schema's words, so that editors know them."""
    schema = policy_schema()
    step = schema["$defs"]["Step"]["properties"]["weight"]["anyOf"][0]
    assert (step["exclusiveMinimum"], step["maximum"]) == (0, 100)
    assert schema["$defs"]["Analysis"]["properties"]["alpha"]["anyOf"][0]["maximum"] == 0.5
    assert not {'"ge":', '"gt":', '"le":', '"lt":'} & set(policy_schema_text().split())


def test_the_published_schema_is_up_to_date() -> None:
    published = Path(__file__).parents[3] / "policies/schema.json"
    assert published.read_text() == policy_schema_text(), "see policies/README.md"
