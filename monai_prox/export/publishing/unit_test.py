"""The model zoo's test of a bundle: a file of ``ci/unit_tests``, which runs where ``models`` is.

It has the zoo's names and overrides. It needs nothing of the zoo's, so that it runs in a published folder, too.
"""

from __future__ import annotations

from pathlib import Path
from string import Template

from monai_prox.export.bundle import Exportable
from monai_prox.export.classification_bundle import ClassificationBundle
from monai_prox.export.segmentation_bundle import SegmentationBundle

SIDES = (24, 20, 16)  # voxels of a synthetic image: different, so that no axis can be taken for another
HEAD = """# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""
INFERENCE = Template(
    HEAD
    + """import os
import shutil
import tempfile
import unittest

$imports
from monai.bundle import ConfigWorkflow

BUNDLE = "models/$bundle"


class TestInference(unittest.TestCase):
    def setUp(self):
        self.dataset_dir, self.output_dir = tempfile.mkdtemp(), tempfile.mkdtemp()
        generator = np.random.default_rng(0)
$image

    def tearDown(self):
        shutil.rmtree(self.dataset_dir)
        shutil.rmtree(self.output_dir)

    def test_infer_config(self):
        override = {
            "bundle_root": BUNDLE,
            "dataset_dir": self.dataset_dir,
            "output_dir": self.output_dir,
            "handlers#0#_disabled_": not os.path.isfile(os.path.join(BUNDLE, "models/model.pt")),  # a large file
        }
        workflow = ConfigWorkflow(
            workflow_type="infer",
            config_file=os.path.join(BUNDLE, "configs/inference.json"),
            logging_file=os.path.join(BUNDLE, "configs/logging.conf"),
            meta_file=os.path.join(BUNDLE, "configs/metadata.json"),
            **override,
        )
        workflow.initialize()
        self.assertFalse(workflow.check_properties())
        workflow.run()
        workflow.finalize()
$output
$training

if __name__ == "__main__":
    unittest.main()
"""
)
VOLUMES = Template("""        for name in $names:
            image = nib.Nifti1Image(generator.normal(100, 50, $shape).astype(np.float32), np.diag([$spacing, 1]))
            nib.save(image, os.path.join(self.dataset_dir, name))""")
LABELS = Template("""        (name,) = os.listdir(self.output_dir)
        labels = nib.load(os.path.join(self.output_dir, name))
        self.assertEqual(labels.shape, $shape)
        self.assertLessEqual(labels.get_fdata().max(), $highest)""")
TRAINING = Template("""
    def test_train_eval_config(self):
        files = [os.path.join(self.dataset_dir, name) for name in sorted(os.listdir(self.dataset_dir))]
        label = os.path.join(self.output_dir, "label.nii.gz")
        values = np.zeros($shape, np.uint16)
        values[6:12, 5:15, 4:12] = $value
        nib.save(nib.Nifti1Image(values, nib.load(files[0]).affine), label)
        override = {
            "bundle_root": BUNDLE,
            "images": [$files] * 2,
            "labels": [label] * 2,
            "ckpt_dir": self.output_dir,
            "output_dir": self.output_dir,
            "epochs": 1,
            "num_workers": 0,
        }
        if not os.path.isfile(os.path.join(BUNDLE, "models/model.pt")):  # a large file
            override["network"] = "@network_def"
        train, evaluate = (os.path.join(BUNDLE, "configs", name) for name in ("train.json", "evaluate.json"))
        common = {
            "logging_file": os.path.join(BUNDLE, "configs/logging.conf"),
            "meta_file": os.path.join(BUNDLE, "configs/metadata.json"),
            **override,
        }
        trainer = ConfigWorkflow(workflow_type="train", config_file=train, **common)
        trainer.initialize()
        self.assertFalse(trainer.check_properties())
        trainer.run()
        trainer.finalize()
        validator = ConfigWorkflow(workflow_type="infer", config_file=[train, evaluate], **common)
        validator.initialize()
        validator.run()
        validator.finalize()
        self.assertTrue(os.path.isfile(os.path.join(self.output_dir, "metrics.csv")))
""")
SCANS = """        scan = generator.integers(256, size=(96, 128), dtype=np.uint8)
        Image.fromarray(scan).save(os.path.join(self.dataset_dir, "scan.png"))"""
PROBABILITIES = Template("""        line = np.genfromtxt(os.path.join(self.output_dir, "predictions.csv"), delimiter=",")[1:]
        self.assertEqual(len(line), $classes)
        self.assertAlmostEqual(line.sum(), 1, places=4)""")
NETWORK = Template(
    HEAD
    + """import os
import sys
import unittest

from monai.bundle import ConfigParser, verify_net_in_out

BUNDLE = "models/$bundle"


class TestNetwork(unittest.TestCase):
    def test_network(self):
        sys.path.append(BUNDLE)
        verify_net_in_out(
            net_id="network_def",
            meta_file=os.path.join(BUNDLE, "configs/metadata.json"),
            config_file=os.path.join(BUNDLE, "configs/$inference"),
            bundle_root=BUNDLE,
        )


if __name__ == "__main__":
    unittest.main()
"""
)


def inference_test(bundle: str, prediction: Exportable) -> str:
    """A test that predicts for a synthetic image and, if the bundle can be trained, trains on it and evaluates.

    Args:
        bundle: name of the bundle.
        prediction: what the bundle was written from.
    """
    if isinstance(prediction, ClassificationBundle):
        imports, image = "import numpy as np\nfrom PIL import Image", SCANS
        output = PROBABILITIES.substitute(classes=len(prediction.classes))
        return INFERENCE.substitute(bundle=bundle, imports=imports, image=image, output=output, training="")
    assert isinstance(prediction, SegmentationBundle)
    shape, channels = SIDES[: len(prediction.patch_size)], len(prediction.channels)
    names, files = ["case.nii.gz"], "files[0]"
    stored = shape if channels == 1 else (*shape, channels)
    if not prediction.images.startswith("*."):  # a file a channel, as nnU-Net has them
        ending = prediction.images.partition("_0000")[2]
        names, stored, files = [f"case_{channel:04d}{ending}" for channel in range(channels)], shape, "files"
    spacing = ", ".join(f"{mm:.6g}" for mm in prediction.spacing)
    training = ""
    if prediction.fine_tuning is not None:
        value = max(max(values) for values in prediction.fine_tuning.label_values)
        training = TRAINING.substitute(shape=shape, value=value, files=files)
    return INFERENCE.substitute(
        bundle=bundle,
        imports="import nibabel as nib\nimport numpy as np",
        image=VOLUMES.substitute(names=names, shape=stored, spacing=spacing).replace("'", '"'),
        output=LABELS.substitute(shape=shape, highest=prediction.highest_label),
        training=training,
    )


def network_test(bundle: Path) -> str:
    """A test of the network alone, for a pipeline whose images only it knows.

    Args:
        bundle: folder of the bundle.
    """
    (inference,) = sorted(path.name for path in (bundle / "configs").glob("inference.*"))[:1]
    return NETWORK.substitute(bundle=bundle.name, inference=inference)
