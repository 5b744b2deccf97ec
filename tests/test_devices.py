"""Devices asked for by name: TensorFlow's own configuration is played by a machine of two GPUs, or of none."""

from types import SimpleNamespace

import pytest
import tensorflow as tf

from tfyolo import devices
from tfyolo.devices import DeviceError


class Machine:
    """What of tf.config a choice of devices uses."""

    def __init__(self, gpus, begun=False):
        self.gpus = [SimpleNamespace(name=f"/physical_device:GPU:{i}", device_type="GPU") for i in range(gpus)]
        self.visible, self.begun = list(self.gpus), begun

    def list_physical_devices(self, kind):
        return self.gpus if kind == "GPU" else []

    def get_visible_devices(self, kind):
        return self.visible if kind == "GPU" else []

    def set_visible_devices(self, chosen, kind):
        if self.begun:
            raise RuntimeError("Visible devices cannot be modified after being initialized")
        assert kind == "GPU"
        self.visible = chosen


@pytest.fixture
def machine(monkeypatch):
    def machine(*arguments, **options):
        played = Machine(*arguments, **options)
        for name in ("list_physical_devices", "get_visible_devices", "set_visible_devices"):
            monkeypatch.setattr(tf.config, name, getattr(played, name))
        return played

    return machine


@pytest.mark.parametrize(
    "text, gpus, seen", [("cpu", 2, []), ("gpu", 2, [0, 1]), ("0", 2, [0]), ("1,0", 2, [1, 0]), (" CPU ", 0, [])]
)
def test_only_what_is_asked_for_is_seen(machine, text, gpus, seen):
    played = machine(gpus)
    devices.choose(devices.parsed(text))
    assert played.visible == [played.gpus[number] for number in seen]


@pytest.mark.parametrize("text", ["tpu", "", "0,", "0,0", "-1", "1.5", "cpu,0", "cuda:0"])
def test_what_is_no_device(text):
    with pytest.raises(DeviceError, match="expected cpu, gpu, or the numbers of GPUs, such as 0 or 0,1, received"):
        devices.parsed(text)


@pytest.mark.parametrize(
    "text, gpus, message",
    [
        ("gpu", 0, "expected cpu, received gpu: TensorFlow sees no GPU on this machine"),
        ("0", 0, "expected cpu, received 0: TensorFlow sees no GPU on this machine"),
        ("0,2", 2, "expected numbers from 0 to 1, of the GPUs that TensorFlow sees, received 0,2"),
    ],
)
def test_what_is_not_there(machine, text, gpus, message):
    machine(gpus)
    with pytest.raises(DeviceError, match=message):
        devices.choose(devices.parsed(text))


def test_too_late_is_told_but_what_is_so_already_is_well(machine):
    machine(1, begun=True)
    devices.choose("gpu")
    with pytest.raises(DeviceError, match="cpu was asked for when TensorFlow had begun"):
        devices.choose("cpu")
    machine(0, begun=True)
    devices.choose("cpu")
