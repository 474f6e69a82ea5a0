"""What `load_model` passes on about devices: one that is not here is refused before a weight is read."""

from __future__ import annotations

import pytest
import torch

from workbench.errors import ConfigError
from workbench.hf.loading import load_model
from workbench.hf.placement import placement

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


@pytest.mark.parametrize("device", ["cpu", "meta", torch.device("cpu"), "cpu:0"])
def test_a_device_that_is_here_needs_no_arguments(device):
    assert placement(device) == {}


@pytest.mark.parametrize("given", [{"device": "cuba"}, {"device_map": "cuba"}, {"device_map": {"": "cuba"}}])
def test_a_name_that_is_no_device_is_refused(given):
    with pytest.raises(ConfigError, match=r"'cuba'.*: no such device\. Allowed: a device such as 'cpu' or 'cuda'"):
        placement(**given)


@NO_GPU
@pytest.mark.parametrize("given", [{"device": "cuda"}, {"device_map": "cuda:1"}, {"device_map": {"": "cuda:0"}}])
def test_a_gpu_that_is_not_here_is_refused(given):
    with pytest.raises(ConfigError, match=r"this machine has none that PyTorch .* can use\. Allowed: a device that is"):
        placement(**given)


@NO_GPU
def test_it_is_refused_before_the_model_is_looked_for():
    with pytest.raises(ConfigError, match=r"device='cuda': this machine has none"):
        load_model("no/such-model", device="cuda")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_a_gpu_beyond_those_here_is_refused():
    count = torch.cuda.device_count()
    assert placement("cuda") == {}
    with pytest.raises(ConfigError, match=rf"device='cuda:{count}': this machine has {count} of that kind"):
        placement(f"cuda:{count}")
