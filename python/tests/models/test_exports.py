"""Converted networks in evaluation, through ONNX, AOTInductor and feature extractors, compared with what went in."""

import copy

import pytest
import torch
from torch import nn

import batchnorm.torch as bn

pytest.importorskip("torchvision")

from networks import torchvision, timm


def moved(model, x):
    """With statistics that are none of a beginning's."""
    with torch.no_grad():
        model.train()(x)
    return model.eval()


@pytest.fixture(scope="module", params=[lambda: torchvision("resnet18"), lambda: timm("regnety_002")], ids=["resnet18", "regnety_002"])
def network(request):
    torch.manual_seed(0)
    original, shape = request.param()
    x = torch.randn(shape)
    original = moved(original, x)
    return original, bn.convert(copy.deepcopy(original)), x


def test_onnxruntime_gives_what_torch_nn_gives(network, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    original, converted, x = network
    program = torch.onnx.export(converted, (x,), dynamo=True, verbose=False)
    assert not [node.op_type for node in program.model.graph if node.domain.startswith("batchnorm")]
    program.save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(y), original(x), rtol=1e-3, atol=1e-4)


def test_aot_inductor_packs_it(tmp_path):
    torch.manual_seed(0)
    model, x = bn.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())), torch.randn(2, 3, 8, 8)
    moved(model, x)
    package = torch._inductor.aoti_compile_and_package(torch.export.export(model, (x,)), package_path=str(tmp_path / "model.pt2"))
    with torch.no_grad():
        torch.testing.assert_close(torch._inductor.aoti_load_package(package)(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_feature_extractors_find_what_they_found(training):
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.manual_seed(0)
    original, shape = torchvision("resnet18")
    names = {"layer1.0.bn1": "norm", "layer1.0.relu": "activation", "layer2": "layer"}
    x, models = torch.randn(shape), (copy.deepcopy(original), bn.convert(copy.deepcopy(original)))
    want, got = (create_feature_extractor(model.train(training), names)(x) for model in models)
    for name in names.values():
        torch.testing.assert_close(got[name], want[name], rtol=1e-3, atol=1e-4)
