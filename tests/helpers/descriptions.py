"""Valid descriptions of model files, for a network of one channel and two outputs."""

from monai_prox.runtime.description import Description, Normalisation, Resampling, ScanDescription

DESCRIBED = Description(
    member="smallest",
    subnet={"depth": [1]},
    task="Task",
    source="a test",
    channels=("MRI",),
    labels={"background": 0, "organ": 1},
    regions=None,
    outputs=2,
    patch=(8, 8, 8),
    spacing=(1.0, 1.0, 1.0),
    transpose=(0, 1, 2),
    normalisation=(Normalisation(scheme="ZScoreNormalization"),),
    images=Resampling(order=3),
    logits=Resampling(order=1),
    reader="SimpleITKIO",
    file_ending=".nii.gz",
)
SCANS = ScanDescription(
    member="smallest", subnet={}, task="OCT", source="a test", classes=("A", "B"), image_size=(64, 64), working_size=(48, 48)
)
