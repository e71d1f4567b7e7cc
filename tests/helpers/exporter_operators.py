"""What torch looks up anew for every ONNX file, and is always the same: looked up once a process.

That is the table of ONNX operators by torch's, for which torch reads and parses the sources of them all: a third of what the
export of a tiny network takes.
"""

from functools import cache

from torch.onnx._internal.exporter._registration import ONNXRegistry

ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]
