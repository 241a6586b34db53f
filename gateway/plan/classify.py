"""Which arm does a trained classifier choose for this request?

The model is an ONNX file, as scikit-learn's models become by skl2onnx; `gateway.plan.features` says
what it is given. Whatever is missing or goes wrong (the library, the file, its form, a run, a label
that no arm has), the request goes to the policy's default arm, and the choice says why.

A choice runs in the event loop: 30 µs for a small tree, features included. A model that takes
milliseconds has no place here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from gateway.config.policy import Classifier as ClassifierSpec
from gateway.plan.features import COLUMNS, features

Run = Callable[[Sequence[float]], str]
"""From the features to the label. May raise anything."""


class Choice(NamedTuple):
    """What became of one request."""

    arm: int
    """Index in the policy's arms."""
    label: str
    """What the classifier said; empty if it did not come to that."""
    failure: str = ""
    """Why it is the default arm, in words; empty if the label chose the arm."""


class Classifier:
    """One policy's classifier."""

    __slots__ = ("_arms", "_default", "_run", "failure", "failures")

    def __init__(self, spec: ClassifierSpec, run: Run | None, failure: str = "") -> None:
        """`run` is None if there is nothing to run, and `failure` says why."""
        self._arms: Mapping[str, int] = {
            label: index for index, arm in enumerate(spec.arms) for label in arm.effective_labels
        }
        self._default = [arm.name for arm in spec.arms].index(spec.default)
        self._run = run
        self.failure = failure
        """Why requests go to the default arm; empty while they need not."""
        self.failures = 0
        """Requests that went to the default arm for a failure."""

    def pick(self, body: bytes) -> Choice:
        """Choose an arm. Never raises; `body` is JSON, or a form, which has no features."""
        if self._run is None:
            self.failures += 1
            return Choice(self._default, "", self.failure)
        try:
            label = self._run(features(body))
        except Exception as error:  # The library's have no common base; none may cost a request.
            self.failures += 1
            self.failure = f"the classifier failed: {_line(error)}"
            return Choice(self._default, "", self.failure)
        self.failure = ""
        arm = self._arms.get(label)
        if arm is None:
            return Choice(self._default, label, f'no arm has the label "{label}"')
        return Choice(arm, label)


def load_classifier(spec: ClassifierSpec, file: Path) -> Classifier:
    """Make a policy's classifier of its file, and try it once.

    Never raises: one that cannot be used chooses the default arm, and its `failure` says why. The
    first call imports onnxruntime (0.1 s); call it off the event loop.
    """
    try:
        run = onnx_run(file)
        run([0.0] * len(COLUMNS))
    except ImportError:
        why = "onnxruntime is not installed; install the extra `classifier`"
        return Classifier(spec, None, why)
    except Exception as error:  # As in pick().
        return Classifier(spec, None, f"the file cannot be used: {_line(error)}")
    return Classifier(spec, run)


def onnx_run(file: Path) -> Run:
    """Open an ONNX file. Raises `ImportError` without onnxruntime, or whatever that raises."""
    # By name, since the extra may be absent where types are checked.
    runtime: Any = import_module("onnxruntime")
    numpy: Any = import_module("numpy")
    options = runtime.SessionOptions()
    # A pool of threads costs more than a small model, and would spin beside the event loop.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = runtime.InferenceSession(
        file.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    taken, given = session.get_inputs()[0].name, [session.get_outputs()[0].name]

    def run(values: Sequence[float]) -> str:
        (labels,) = session.run(given, {taken: numpy.array([values], dtype=numpy.float32)})
        return str(labels[0])

    return run


def _line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return text or type(error).__name__
