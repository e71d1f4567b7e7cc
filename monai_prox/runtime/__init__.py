"""Prediction on the device: numpy, scipy, SimpleITK, ONNX Runtime, nibabel if the training read by it, and never torch."""
