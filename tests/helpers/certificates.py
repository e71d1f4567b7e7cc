"""A certificate with everything that one may have."""

from monai_prox.certificate.record import CaseFigures, Certificate, Machine, Segment, Settings

CERTIFIED = Certificate(
    date="2026-11-30",
    settings=Settings(step=0.7, mirror=True, postprocess=False),
    machine=Machine(
        processor="a processor",
        system="Linux",
        cores=4,
        threads=2,
        runtime="onnxruntime 1.30",
        provider="cpu",
        versions={"numpy": "2.4", "monai-prox": "0.2.0"},
    ),
    cases=(
        CaseFigures(
            image="0" * 32,
            truth="1" * 32,
            segmentation="abcdef0123456789" * 2,
            segments={"organ": Segment(voxels=1_000, true_voxels=900, dice=0.9), "tumour": Segment(voxels=0, true_voxels=0)},
            seconds=(1.5, 1.25, 2.0),
            memory=500_000_000,
        ),
        CaseFigures(image="f" * 32, segmentation="2" * 32, segments={"organ": Segment(voxels=7)}, seconds=(3.0,)),
    ),
)
