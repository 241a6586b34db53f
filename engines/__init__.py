"""Engines that Sluice starts itself: vLLM and the simulated one, described, checked, supervised.

    spec ──► presets, conflicts, known(options) ──► vllm ──► Launch ──► supervisor ──► processes

All but `supervisor` and `locate` are pure.
"""
