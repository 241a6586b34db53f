"""Does our TensorRT code call what TensorRT really has, in each version that we support?

python -m scripts.trt_types

There is no TensorRT where this runs: the packages on PyPI fetch libraries from elsewhere. But its
Python bindings are there. So, for each version:

    wheels ──► stub libraries with the C functions that the bindings look up ──► import
           ──► stubs of every class (pybind11-stubgen), and of cuda-python ──► mypy --strict

and then: our modules have no errors; calls of TensorRT 8 have one each, so that the check can fail;
the fakes of tests/support have only methods and parameters that the real bindings have.
Everything is made below $SLUICE_CACHE (or ~/.cache/sluice) and kept there; nothing of NVIDIA's is
in this repository.
"""

from __future__ import annotations

import hashlib
import keyword
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.fakes import differences

ROOT = Path(__file__).resolve().parent.parent
CUDA_STUBS = ROOT / "scripts" / "cuda_stubs.py"
TOOLS = ("pybind11-stubgen==3.0.0", "cuda-pathfinder==1.9.0")
FAKES = {  # Each with the stub that it is like, and the class that stands for a module.
    "tests/support/fake_tensorrt.py": ("tensorrt_bindings/tensorrt.pyi", ""),
    "tests/support/fake_trt_builder.py": ("tensorrt_bindings/tensorrt.pyi", ""),
    "tests/support/fake_cuda.py": ("cuda/bindings/runtime.pyi", "FakeCuda"),
}
USES = re.compile(r"^(import tensorrt|from tensorrt|from cuda)\b", re.MULTILINE)
SIGNATURE = re.compile(r"( *def \w+\()(.*)(\) -> .*:)")
KEYWORD = re.compile(rf"^({'|'.join(keyword.kwlist)}): ")
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
ENTRIES = """
#define ENTRY(name) void *name(void) { return 0; }
ENTRY(createInferBuilder_INTERNAL) ENTRY(createInferRefitter_INTERNAL)
ENTRY(createInferRuntime_INTERNAL) ENTRY(createNvOnnxParser_INTERNAL)
ENTRY(createNvOnnxParserRefitter_INTERNAL) ENTRY(getBuilderPluginRegistry)
ENTRY(getNvOnnxParserVersion) ENTRY(getPluginRegistry) ENTRY(initLibNvInferPlugins)
"""

WRONG = """
import tensorrt as trt
from cuda.bindings import runtime as cudart

def old(builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig,
        engine: trt.ICudaEngine, context: trt.IExecutionContext) -> None:
    config.max_workspace_size = 1
    builder.build_engine(network, config)
    engine.num_bindings
    engine.get_binding_shape(0)
    context.set_binding_shape(0, (1, 2))
    context.execute_async_v2([], 0)
    context.execute_async_v3("stream")
    cudart.cudaMemcpyAsync(1, 2, 3)
    cudart.cudaMallocPinned(1)
    error, address, more = cudart.cudaMalloc(1)
"""
"""What the check has to find: every line of the function is an error."""


@dataclass(frozen=True, slots=True)
class Version:
    """One TensorRT, and the CUDA that belongs to it."""

    name: str
    bindings: str
    cuda: str

    @property
    def major(self) -> str:
        """As the names of its libraries end."""
        return self.name.partition(".")[0]


VERSIONS = (
    Version("11.4", "tensorrt-cu13-bindings==11.4.0.106", "cuda-bindings==13.5.0"),
    Version("10.16", "tensorrt-cu12-bindings==10.16.1.11", "cuda-bindings==12.9.10"),
)


def main() -> int:
    """Check against every version; return how many of them have findings."""
    default = Path.home() / ".cache" / "sluice"
    cache = Path(os.environ.get("SLUICE_CACHE") or default) / "trt-types"
    modules = _ours()
    failed = 0
    for version in VERSIONS:
        stubs = _stubs(version, cache)
        findings = [*_type_errors(stubs, modules), *_not_found(stubs), *_unlike(stubs)]
        failed += bool(findings)
        for finding in findings:
            sys.stdout.write(f"TensorRT {version.name}: {finding}\n")
        verdict = f"{len(findings)} findings" if findings else "no findings"
        sys.stdout.write(f"TensorRT {version.name}: {len(modules)} modules, {verdict}\n")
    return failed


def _ours() -> list[str]:
    """Every module of `vision` that imports TensorRT or CUDA."""
    files = sorted(
        file for file in (ROOT / "vision").rglob("*.py") if USES.search(file.read_text())
    )
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]


def _stubs(version: Version, cache: Path) -> Path:
    """The folder of a version's stubs, made if it is not there."""
    made_by = (Path(__file__).read_bytes(), CUDA_STUBS.read_bytes(), sys.version.encode())
    folder = cache / f"{version.name}-{hashlib.sha256(b''.join(made_by)).hexdigest()[:12]}"
    stubs, done = folder / "stubs", folder / "done"
    if done.is_file():
        return stubs
    tools, wheels = cache / "tools", folder / "wheels"
    _pip("install", "--upgrade", "--no-deps", "--target", str(tools), *TOOLS)
    for wheel in (version.bindings, version.cuda):
        _pip("download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), wheel)
    for file in folder.glob("*.whl"):
        with zipfile.ZipFile(file) as archive:
            archive.extractall(wheels)
    found = {
        "PYTHONPATH": os.pathsep.join(map(str, (wheels, tools))),
        "LD_LIBRARY_PATH": str(_libraries(version, folder / "lib")),
    }
    generate = ("-m", "pybind11_stubgen", "tensorrt_bindings", "--output-dir", str(stubs))
    _run(*generate, environment=found)
    for file in stubs.rglob("*.pyi"):
        file.write_text("\n".join(map(_repaired, file.read_text().splitlines())))
    (stubs / "tensorrt").mkdir(exist_ok=True)
    # The package `tensorrt` is these bindings under another name.
    names = ("*", "__version__ as __version__")
    same = "".join(f"from tensorrt_bindings import {name}\n" for name in names)
    (stubs / "tensorrt" / "__init__.pyi").write_text(same)
    cuda = stubs / "cuda" / "bindings"
    cuda.mkdir(parents=True, exist_ok=True)
    (cuda.parent / "__init__.pyi").touch()
    (cuda / "__init__.pyi").touch()
    _run(str(CUDA_STUBS), str(cuda / "runtime.pyi"), environment=found)
    done.touch()
    return stubs


def _repaired(line: str) -> str:
    """Make Python of a signature that is only C++: `in: Dims`, or `a: int = 0, b: int`."""
    parts = SIGNATURE.fullmatch(line)
    if parts is None:
        return line
    begin, parameters, end = parts.groups()
    written: list[str] = []
    for parameter in re.split(r", (?=\*|\w+(?::|,|$))", parameters):
        named = KEYWORD.sub(r"\1_: ", parameter)
        late = bool(written) and " = " in written[-1] and " = " not in named
        written.append(named + (" = ..." if late else ""))
    return begin + ", ".join(written) + end


def _libraries(version: Version, folder: Path) -> Path:
    """Shared libraries with nothing in them but what the bindings look up when imported."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "entries.c"
    source.write_text(ENTRIES)
    for library in LIBRARIES:
        name = f"lib{library}.so.{version.major}"
        target = ("-o", str(folder / name), f"-Wl,-soname,{name}")
        command = ("gcc", "-shared", "-fPIC", *target, str(source))
        subprocess.run(command, check=True)  # noqa: S603 - our own words
    return folder


def _type_errors(stubs: Path, modules: Sequence[str]) -> Iterator[str]:
    """What mypy says of our modules, strictly, with real types in place of Any."""
    result = _mypy(stubs, *(part for name in modules for part in ("-m", name)))
    if result.returncode:
        yield from filter(None, (result.stdout + result.stderr).splitlines())


def _not_found(stubs: Path) -> Iterator[str]:
    """Lines with wrong calls that mypy has nothing to say of."""
    file = stubs.parent / "wrong.py"
    file.write_text(WRONG)
    said = _mypy(stubs, str(file)).stdout
    begin = WRONG.splitlines().index("    config.max_workspace_size = 1") + 1
    for number, line in enumerate(WRONG.splitlines()[begin - 1 :], begin):
        # An attribute that is only read is no error but for its name.
        if f"wrong.py:{number}: error" not in said:
            yield f"mypy does not find the error in `{line.strip()}`"


def _mypy(stubs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    config = stubs.parent / "mypy.ini"
    config.write_text(
        "[mypy]\nstrict = True\nwarn_unused_ignores = False\n"  # They are for where it is Any.
        "[mypy-onnx.*,onnxruntime.*,pynvml.*,torch.*,transformers.*]\n"
        "follow_imports = skip\nignore_missing_imports = True\n"
        "[mypy-tensorrt.*,tensorrt_bindings.*,cuda.*]\nignore_errors = True\n"
    )
    command = (sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir")
    environment = os.environ | {"MYPYPATH": str(stubs)}
    return subprocess.run(  # noqa: S603 - our own words
        (*command, str(stubs.parent / "mypy"), *arguments),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _unlike(stubs: Path) -> Iterator[str]:
    """What the fakes have that the bindings do not, or have otherwise."""
    for fake, (real, own) in FAKES.items():
        ours, theirs = (ROOT / fake).read_text(), (stubs / real).read_text()
        yield from (f"{fake}: {one}" for one in differences(ours, theirs, own))


def _pip(*arguments: str) -> None:
    _run("-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def _run(*arguments: str, environment: Mapping[str, str] | None = None) -> None:
    """Run Python; on failure say what it said."""
    result = subprocess.run(  # noqa: S603 - our own words
        (sys.executable, *arguments),
        cwd=ROOT,
        env=os.environ | dict(environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise SystemExit(f"python {' '.join(arguments)}\n{result.stdout}{result.stderr}")


if __name__ == "__main__":
    sys.exit(main())
