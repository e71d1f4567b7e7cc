"""Prediction on the device: numpy, scipy, SimpleITK and ONNX Runtime, and never torch."""
