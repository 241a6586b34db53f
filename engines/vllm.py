"""With which command and environment does vLLM serve a spec?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

from engines import options
from engines.conflicts import device_problems, visible_devices
from engines.launch import Launch, http_url
from engines.spec import OWN_FIELDS, EngineSpec, SpecError

# Set unless the caller's environment says otherwise.
_DEFAULTS: Final = {
    "VLLM_NO_USAGE_STATS": "1",  # vLLM reports hardware and model to stats.vllm.ai by default.
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",  # Its output goes to a pipe; the last words of a crash must get out.
}


def launch(
    spec: EngineSpec,
    *,
    name: str,
    base_env: Mapping[str, str],
    command: tuple[str, ...] = ("vllm",),
) -> Launch:
    """The process that serves `spec`, presets filled in; `command` is how vLLM is called here.

    Raises `SpecError` if the spec does not fit together, or not to this environment.
    """
    spec = spec.resolved()
    env = environment(spec, base_env)
    problems = list(device_problems(spec.model_dump(), visible_devices(env)))
    if problems:
        raise SpecError(problems)
    return Launch(name, (*command, *arguments(spec)), env, http_url(spec.host, spec.port))


def arguments(spec: EngineSpec) -> list[str]:
    """The arguments of the command `vllm`: `serve`, the model, then its options sorted by name.

    The spec is taken as it is: resolve it first. Every value is one word after its option, or
    `--option=value` where the value begins with a dash, which argparse would take for an option.
    """
    values: dict[str, object] = {
        name: getattr(spec, name) for name in type(spec).model_fields if name not in OWN_FIELDS
    }
    if spec.lora_modules:
        values["enable_lora"] = True
    values |= spec.extra_args
    words = [word for name in sorted(values) for word in _option(name, values[name])]
    return ["serve", spec.model, *words]


def environment(spec: EngineSpec, base: Mapping[str, str]) -> dict[str, str]:
    """The engine's whole environment: `base`, the defaults, then the spec's own.

    The key that the engine shall demand goes in as VLLM_API_KEY, since a command line is public.
    Raises `SpecError` if the variable that should hold it is not set.
    """
    env = {**_DEFAULTS, **base}
    if is_path(spec.model):
        # A local model needs no Hub, and without this vLLM asks there for files it may not have.
        env.setdefault("HF_HUB_OFFLINE", "1")
    env |= spec.env
    if spec.api_key_env is not None:
        key = env.get(spec.api_key_env)
        if not key:
            raise SpecError([f"api_key_env: the variable {spec.api_key_env} is not set"])
        env["VLLM_API_KEY"] = key
    return env


def is_path(model: str) -> bool:
    """Say whether a model is given as a folder; else it is an id on the Hub."""
    return model.startswith(("/", "./", "../", "~"))


def _option(name: str, value: object) -> Iterator[str]:
    dashed = "--" + name.replace("_", "-")
    if value is None or value in ((), {}):
        return
    if isinstance(value, bool):
        if value:
            yield dashed
        elif name in options.TOGGLES:
            yield f"--no-{dashed.removeprefix('--')}"
        return
    words = _words(name, value)
    if len(words) == 1 and words[0].startswith("-"):
        yield f"{dashed}={words[0]}"
        return
    yield dashed
    yield from words


def _words(name: str, value: object) -> list[str]:
    if name == "lora_modules" and isinstance(value, dict):
        # JSON rather than name=path, which could not hold a name with an equals sign.
        return [json.dumps({"name": key, "path": path}) for key, path in value.items()]
    if isinstance(value, dict):
        return [json.dumps(value)]
    if isinstance(value, tuple):
        return [str(word) for word in value]
    return [str(value)]
