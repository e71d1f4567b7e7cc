"""What ONNX Runtime runs a model on, by short names: its execution providers, of which a package has some."""

from __future__ import annotations

from dataclasses import dataclass

from monai_prox.errors import ProXError


@dataclass(frozen=True)
class Provider:
    """names: ONNX Runtime's, the wanted one first; what it cannot run, the next one does. package: of pip, which has it."""

    names: tuple[str, ...]
    package: str


CPU = "CPUExecutionProvider"
PROVIDERS = {
    "cpu": Provider((CPU,), "onnxruntime"),
    "cuda": Provider(("CUDAExecutionProvider", CPU), "onnxruntime-gpu"),
    "tensorrt": Provider(("TensorrtExecutionProvider", "CUDAExecutionProvider", CPU), "onnxruntime-gpu"),
    "coreml": Provider(("CoreMLExecutionProvider", CPU), "onnxruntime for macOS"),
    "dml": Provider(("DmlExecutionProvider", CPU), "onnxruntime-directml"),
    "openvino": Provider(("OpenVINOExecutionProvider", CPU), "onnxruntime-openvino"),
}


class NotStartedError(ProXError):
    """A provider is there, and what it needs is not."""


def names_of(provider: str) -> list[str]:
    """ONNX Runtime's names for one of PROVIDERS. Raises ProXError unless the installed package has it."""
    import onnxruntime

    if provider not in PROVIDERS:
        raise ProXError(f"--provider is one of {', '.join(PROVIDERS)}, got {provider!r:.40}")
    asked, available = PROVIDERS[provider], onnxruntime.get_available_providers()
    if asked.names[0] not in available:
        there = ", ".join(name for name, one in PROVIDERS.items() if one.names[0] in available)
        raise ProXError(
            f"the installed ONNX Runtime has no {asked.names[0]}, which is in the package {asked.package}, to be installed in "
            f"the place of the one that is there; available here: --provider {there}"
        )
    return [name for name in asked.names if name in available]


def check_started(wanted: str, started: list[str]) -> None:
    """started: the names that a session has. ONNX Runtime goes on without a provider whose libraries it does not find."""
    if wanted not in started:
        raise NotStartedError(
            f"{wanted} did not start, and ONNX Runtime would go on with {', '.join(started)}; are its driver and libraries "
            "installed, of the versions that it needs?"
        )
