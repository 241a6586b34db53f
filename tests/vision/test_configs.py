"""What `vision.configs` promises: every problem with its line and key, and nothing worse."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.config import Classification, ModelConfig
from vision.configs import MAX_FILE_BYTES, config_file, parse_config, read_config
from vision.errors import ConfigError

VALID = """\
inputs: [{name: image, shape: [3, 224, 224]}]
preprocessing:
  resize: {size: [224, 224]}
  mean: [0.5, 0.5, 0.5]
postprocessing: {kind: classification, top_k: 3, labels: labels.txt}
batching: {max_batch: 8, preferred: [4, 8]}
sha256:
  1/model.onnx: "%s"
""" % ("a" * 64)


def refusal(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "m/config.yaml")
    return str(caught.value).splitlines()


def test_a_file_is_read_with_every_section() -> None:
    config = parse_config(VALID, "f")
    assert isinstance(config.postprocessing, Classification)
    assert config.postprocessing.top_k == 3
    assert config.batching.preferred == (4, 8)
    assert config.inputs[0].shape == (3, 224, 224)
    assert config.preprocessing is not None
    assert config.preprocessing.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_says_the_defaults(text: str) -> None:
    assert parse_config(text, "f") == ModelConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batching:\n  max_batch: 0\n", "line 2: batching.max_batch: must be greater than 0"),
        ("batching:\n\n  max_batch: x\n", "line 3: batching.max_batch: must be a whole number"),
        ("warmup: {runs: 1.5}", "line 1: warmup.runs: must be a whole number"),
        ("batching: {queue: 9, queue: 8}", "line 1: batching.queue: is here a second time"),
        ("batching:\n  queues: 9\n", "line 2: batching.queues: is not a known key here; is it `"),
        ("zzzzzz: 9", "line 1: zzzzzz: is not a known key here"),
        ("inputs:\n- shape: [1]\n", "line 2: inputs[0].name: is required"),
        ("\ninputs:\n- name: a\n  shape: [1, b]\n", "line 4: inputs[0].shape[1]: must be a whole"),
        ("inputs:\n- {name: a, shape: [0]}\n", "line 2: inputs[0]: shape: a size is"),
        ("inputs: {}", "line 1: inputs: must be a list"),
        ("batching:", "line 1: batching: must be a mapping"),
        ("description: 7", "line 1: description: must be text; put it in quotes"),
        ("postprocessing: {}", "line 1: postprocessing: needs `kind`"),
        ("postprocessing: {kind: x}", "line 1: postprocessing: `kind` must be "),
        (
            "postprocessing:\n  kind: classification\n  top_k: 0\n",
            "line 3: postprocessing.top_k: must be greater than 0",
        ),
        ("runtimes: [tensorrt, tflite]", "line 1: runtimes[1]: must be 'tensorrt', 'onnx' or"),
        ("runtimes: []", "line 1: runtimes: "),
        ("sha256: {model.onnx: abc}", "line 1: sha256.model.onnx: must match"),
        ("versions: {policy: specific}", "line 1: versions: versions: goes with the policy"),
        ("[1]", "line 1: must be a mapping"),
        ("a: [", "line 1: is not valid YAML"),
        ("x: !!python/object/apply:os.system [id]", "line 1: is not valid YAML"),
        ("x: 2020-99-99", "is not valid YAML: month must be"),
        ("a: &a [*a]", "expands to more than"),
        ("[" * 3000, "is nested too deeply"),
        ("x: \x00", "is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "line 2: is not valid YAML"),
    ],
)
def test_a_problem_says_file_line_key_and_what_is_wrong(text: str, said: str) -> None:
    assert any(line.startswith(f"m/config.yaml: {said}") for line in refusal(text)), refusal(text)


def test_all_problems_are_said_at_once_in_the_order_of_their_lines() -> None:
    lines = refusal("batching:\n  max_batch: 0\nwarmup:\n  runs: -1\nfoo: 1\n")
    assert [line.split(": ")[1] for line in lines] == ["line 2", "line 4", "line 5"]


def test_an_entry_that_is_refused_does_not_make_the_list_too_short_as_well() -> None:
    assert len(refusal("runtimes: [tflite]")) == 1


def test_aliases_cannot_make_a_small_file_large() -> None:
    bombs = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
    assert "expands to more than" in refusal(f"a0: &a0 [x]\n{bombs}\n")[0]


@given(st.text(max_size=60))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    with suppress(ConfigError):
        assert isinstance(parse_config(text, "f"), ModelConfig)


def test_a_versions_own_file_replaces_the_models(tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    (tmp_path / "config.yaml").write_text("description: of the model\nbatching: {max_batch: 2}\n")
    (tmp_path / "2/config.yaml").write_text("description: of 2\n")
    assert read_config(tmp_path, None).description == "of the model"
    assert read_config(tmp_path, 1).batching.max_batch == 2
    assert read_config(tmp_path, 2) == ModelConfig(description="of 2")
    assert config_file(tmp_path, 2) == tmp_path / "2/config.yaml"


def test_a_model_without_the_file_has_the_defaults(tmp_path: Path) -> None:
    assert config_file(tmp_path, 1) is None
    assert read_config(tmp_path, 1) == ModelConfig()


def test_a_file_that_is_no_text_or_too_long_is_refused_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(b"# ok\n# \xff\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: line 2: is not UTF-8"):
        read_config(tmp_path, None)
    file.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="is larger than"):
        read_config(tmp_path, None)


def test_a_link_to_nowhere_is_no_model_without_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").symlink_to("nowhere.yaml")
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read: No such file"):
        read_config(tmp_path, 1)


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xef\xbb\xbfdescription: x\n")
    assert read_config(tmp_path, None).description == "x"


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "config.yaml").touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read: Permission denied"):
        read_config(tmp_path, None)
