"""What engine does the operator want, and can it be started that way?

An `EngineSpec` is checked as a whole before any process starts, because vLLM itself takes half a
minute to say no. The fields carry the names of vLLM's options; `None` leaves the choice to vLLM.
Options without a field go to `extra_args`, by the same names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from engines import known, options, presets
from engines.conflicts import conflicts

# Fields that are ours; every other field is an option of `vllm serve` of the same name.
OWN_FIELDS: Final = frozenset({"model", "api_key_env", "extra_args", "env", "preset"})

NO_PRESET: Final = "none"


class SpecError(ValueError):
    """The spec cannot work; one line per problem, each beginning with the option's name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class EngineSpec(BaseModel):
    """One vLLM engine, as its operator describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1, description="Hub id or folder of the model")
    served_model_name: tuple[str, ...] = Field((), description="names that clients may use for it")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65_535)
    preset: str | None = Field(
        None,
        description="none, a profile (high_throughput, low_latency) or a model family; "
        "without it the family is found by the model's name",
    )

    runner: str | None = Field(None, description="generate or pooling (embeddings, scores)")
    convert: str | None = Field(None, description="make a generating model embed or classify")
    revision: str | None = None
    trust_remote_code: bool | None = Field(
        None, description="run the Python code that comes with the model"
    )
    dtype: str | None = None
    quantization: str | None = None
    max_model_len: PositiveInt | None = Field(None, description="prompt and answer, in tokens")
    chat_template: str | None = Field(None, description="path of a Jinja file, or its text")
    seed: int | None = None

    tensor_parallel_size: PositiveInt | None = Field(None, description="devices that share a layer")
    pipeline_parallel_size: PositiveInt | None = Field(None, description="groups of layers")
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    cpu_offload_gb: float | None = Field(None, ge=0, description="GiB of weights in host memory")
    kv_offloading_size: float | None = Field(None, gt=0, description="GiB of KV in host memory")
    kv_cache_dtype: str | None = None
    max_num_seqs: PositiveInt | None = Field(None, description="requests that run together")
    max_num_batched_tokens: PositiveInt | None = Field(None, description="tokens in one step")
    enable_chunked_prefill: bool | None = None
    enable_prefix_caching: bool | None = None
    enforce_eager: bool | None = Field(None, description="no CUDA graphs: slower, starts sooner")

    enable_auto_tool_choice: bool | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    lora_modules: dict[str, str] = Field(default_factory=dict, description="name to path")
    speculative_config: dict[str, JsonValue] | None = None

    api_key_env: str | None = Field(
        None, description="variable that holds the key that the engine shall demand"
    )
    env: dict[str, str] = Field(default_factory=dict, description="more environment", repr=False)
    extra_args: dict[str, known.ExtraValue] = Field(
        default_factory=dict, description="other options of `vllm serve`"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_unknown(cls, values: Any) -> Any:
        """Refuse unknown keys with the nearest known one, which `extra="forbid"` does not name."""
        if isinstance(values, Mapping):
            unknown = [key for key in values if key not in cls.model_fields]
            if unknown:
                raise SpecError([_unknown_field(str(key)) for key in unknown])
        return values

    @field_validator("extra_args", mode="after")
    @classmethod
    def _python_spelling(cls, extra: dict[str, known.ExtraValue]) -> dict[str, known.ExtraValue]:
        return {known.canonical(name): value for name, value in extra.items()}

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        problems = list(self._problems())
        if problems:
            raise SpecError(problems)
        return self

    def _problems(self) -> Iterator[str]:
        typed = type(self).model_fields.keys()
        for name, value in self.extra_args.items():
            yield from known.extra_problems(name, value, typed)
        for name in typed - OWN_FIELDS:
            if (value := getattr(self, name)) is not None:
                yield from known.choice_problems(name, value)
        if self.preset not in (None, NO_PRESET) and presets.preset_named(self.preset) is None:
            names = {NO_PRESET, *presets.PROFILES, *presets.FAMILIES}
            yield f"preset: {self.preset!r} is not one of {', '.join(sorted(names))}"
        filled = self._filled()
        for problem in conflicts({**self.model_dump(), **filled}):
            name = problem.partition(":")[0]
            yield problem if name in self.model_fields_set else f"{problem}{_source(name, filled)}"

    def resolved(self) -> EngineSpec:
        """The same spec with the values of its presets in the gaps that it left.

        The model's family comes first, then the profile; what the operator set himself is never
        changed, and a preset's value that it contradicts is dropped.
        """
        return parse_spec({**self._filled(), "preset": NO_PRESET})

    def _filled(self) -> dict[str, object]:
        family = None if self.preset == NO_PRESET else presets.preset_for(self.model)
        chosen = presets.preset_named(self.preset) if self.preset else None
        explicit = {name: getattr(self, name) for name in self.model_fields_set}
        layers = [dict(preset.values) for preset in (family, chosen) if preset is not None]
        values: dict[str, object] = {}
        extra_args: dict[str, object] = {}
        for layer in (*layers, explicit):
            fitting = {k: v for k, v in layer.items() if layer is explicit or _fits(k, explicit)}
            extra_args |= cast("Mapping[str, object]", fitting.pop("extra_args", {}))
            values |= fitting
        return {**values, "extra_args": extra_args}


def parse_spec(values: Mapping[str, object]) -> EngineSpec:
    """Make a spec of plain values; raises `SpecError` with every problem."""
    try:
        return EngineSpec.model_validate(values)
    except ValidationError as error:
        raise SpecError(list(_problem_lines(error))) from None


def _problem_lines(error: ValidationError) -> Iterator[str]:
    for detail in error.errors():
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, SpecError):
            yield from cause.problems
        else:
            yield f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"


def _source(name: str, filled: Mapping[str, object]) -> str:
    """Say where a value comes from that the operator did not write."""
    return f" ({name} comes from the preset)" if name in filled else ""


def _unknown_field(name: str) -> str:
    spelled = known.canonical(name)
    if spelled in EngineSpec.model_fields:
        return f"{name}: write {spelled}"
    if spelled in options.OPTIONS:
        return f"{name}: this option of vLLM goes under extra_args"
    return known.unknown(name, options.OPTIONS | EngineSpec.model_fields.keys())


def _fits(name: str, explicit: Mapping[str, Any]) -> bool:
    """Say whether a preset's value makes sense beside what the operator has set."""
    if name == "dtype":
        # Quantized kernels have dtypes of their own; the preset's was meant for plain weights.
        return not explicit.get("quantization")
    if name in ("enable_auto_tool_choice", "tool_call_parser"):
        return explicit.get("enable_auto_tool_choice") is not False and not _pools(explicit)
    if name == "chat_template":
        return not _pools(explicit)
    return True


def _pools(explicit: Mapping[str, Any]) -> bool:
    return explicit.get("runner") == "pooling"
