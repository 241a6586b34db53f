"""Real last words of vLLM 0.32, and the sentence that they become."""

import pytest

from engines.causes import ending, explain

CORE = "(EngineCore pid=9) ERROR 11-21 07:01:12 [core.py:1510] "
HEARSAY = (
    "RuntimeError: Engine core initialization failed. See root cause above. "
    "Failed core proc(s): {'EngineCore': 1}"
)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name'",
            "the model was not found",
        ),
        (
            "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached",
            "the model was not found",
        ),
        ("  Value error, Invalid repository ID or local directory specified: '/x'.", "not found"),
        ("vllm: error: unrecognized arguments: --no-such-option 3", "know --no-such-option 3"),
        ("OSError: [Errno 98] Address already in use", "port is in use"),
        (
            "User-specified max_model_len (999999) is greater than the derived max_model_len (...)",
            "cannot do 999999 tokens",
        ),
        (
            "Total number of attention heads (4) must be divisible by tensor parallel size (3).",
            "must divide the model's 4 attention heads",
        ),
        (
            CORE + "ValueError: Available memory on node 0 (7.08/8.46 GiB) on kv cache allocation "
            "is less than requested memory for kv (900.0 GiB).",
            "lower VLLM_CPU_KVCACHE_SPACE",
        ),
        (
            CORE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            "the GPU ran out of memory",
        ),
        (
            CORE + "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less "
            "than desired GPU memory utilization (0.92, 72.8 GiB).",
            "another process holds the GPU's memory",
        ),
        (
            CORE + "ValueError: No available memory for the cache blocks. Try increasing "
            "`gpu_memory_utilization`",
            "no room is left for the KV cache",
        ),
        (
            "RuntimeError: Found no NVIDIA driver on your system.",
            "no usable GPU",
        ),
        ("/usr/bin/python3: No module named vllm", "the module vllm is missing"),
    ],
)
def test_a_well_known_death_becomes_one_sentence(line, said):
    """Also when the processes above report it after that in words of their own."""
    assert said in explain(["INFO starting", line, "Traceback", HEARSAY], status=1)


def test_an_unknown_error_is_quoted():
    """The root of the traceback, not the parent that heard of it, without its module."""
    lines = [CORE + "vllm.errors.StrangeError: the moon is wrong", HEARSAY]

    assert explain(lines, status=1) == "StrangeError: the moon is wrong"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (-9, "something killed it (SIGKILL), most often the kernel when memory runs out"),
        (-11, "it was ended by SIGSEGV"),
        (-99, "it was ended by signal 99"),
        (3, "it gave no reason that is known here; its last lines tell what it did"),
    ],
)
def test_silence_leaves_the_status(status, said):
    """Without words the signal is all there is to say."""
    assert explain(["INFO all is well"], status) == said


def test_a_harmless_warning_is_no_cause():
    """vLLM mentions these words in every healthy start."""
    warning = (
        "WARNING [system_utils.py:255] Found ulimit of 20000 and failed to automatically increase. "
        "This can cause fd limit errors like `OSError: [Errno 24] Too many open files`."
    )
    assert explain([warning, "ValueError: real"], status=1) == "ValueError: real"


def test_an_ending_is_named():
    """Exit codes by number, signals by name."""
    assert (ending(0), ending(3), ending(-15)) == ("exit code 0", "exit code 3", "SIGTERM")
